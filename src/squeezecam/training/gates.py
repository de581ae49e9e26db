"""What the gates look like while a block trains: a few figures on SE vectors, the same for every framework."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from squeezecam import vector

if TYPE_CHECKING:
    from squeezecam.module import Squeeze

OPEN, CLOSED = 0.95, 0.05
"""Gates above and below which a gate counts as saturated."""


@dataclass(frozen=True)
class GateStatistics:
    """Figures on the SE vectors of a batch.

    Attributes:
        mean: of all gates.
        std: standard deviation over the channels of one sample (population), mean over samples.
        open, closed: shares of gates above .95 and below .05. A block that is trained on the task alone tends to open
            them all, and the published rule then keeps nothing.
        kept: share of channels that the published rule keeps (``s > mean + 1.282 std``), mean over samples; the tenth
            that is taken where it keeps none is not counted.
        empty: share of samples for which it keeps none.

    """

    mean: float
    std: float
    open: float
    closed: float
    kept: float
    empty: float

    def as_dict(self) -> dict[str, float]:
        """The figures by name."""
        return asdict(self)


def gate_statistics(gates: Tensor) -> GateStatistics:
    """Statistics of SE vectors ``(N, C)``, or ``(N, T, C)`` where every frame has one.

    Raises:
        InputError: there is not a single vector.

    """
    gates = gates.detach().flatten(0, -2).float()
    kept = vector.zscore(gates)
    nothing = kept.fallback | kept.tied
    figures = torch.stack(
        [
            gates.mean(),
            gates.std(1, correction=0).mean(),
            (gates > OPEN).float().mean(),
            (gates < CLOSED).float().mean(),
            torch.where(nothing, torch.zeros_like(kept.share), kept.share).mean(),
            nothing.float().mean(),
        ]
    )
    return GateStatistics(*figures.tolist())


def watch(squeeze: Squeeze, inputs: Any) -> dict[str, GateStatistics]:
    """Gate statistics of every stream for a batch, in one pass in evaluation mode that leaves nothing behind."""
    from squeezecam.tap import evaluating

    with torch.no_grad(), evaluating(squeeze):
        _, seen = squeeze.capture(inputs)
    return {stream: gate_statistics(capture.gates) for stream, capture in seen.items()}
