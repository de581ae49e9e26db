"""Further arms: ways to keep the gates of a block that is trained with the task informative.

Ours, for study: what each does to accuracy and to the maps is in ``docs/parity.md``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from squeezecam.block import IDENTITY_GATE, SEBlock
from squeezecam.module import Capture, Squeeze
from squeezecam.parity.arms import Arm, fit_label_free

EVIDENCE_WEIGHT = 0.1
SPREAD_WEIGHT = 0.1
WIDEST_LOGIT, LEAST_VARIETY = 2.0, 0.25
DROPPED = 0.5


def evidence_loss(
    squeeze: Squeeze, captures: dict[str, Capture], values: Tensor, labels: Tensor, share: float
) -> Tensor:
    """One minus the correlation, over channels, of the gates' logits with the evidence for the predicted class.

    The evidence of channel c is ``W_yc z_c`` (``method`` of the label-free fit), taken as given: it is the block that
    has to follow. Where the head has no formula there is nothing to follow, and the loss is 0.
    """
    total = values.new_zeros(())
    head = squeeze.head()
    if head is None or values.ndim != 2:
        return total
    rows = head.matrix(squeeze.model).detach()[values.detach().argmax(1)]
    for seen in captures.values():
        evidence = _standardised(rows * seen.squeezed.detach())
        total = total + 1 - (_standardised(torch.logit(seen.gates, 1e-6)) * evidence).mean(1).mean()
    return EVIDENCE_WEIGHT * total


def spread_loss(squeeze: Squeeze, captures: dict[str, Capture], values: Tensor, labels: Tensor, share: float) -> Tensor:
    """Against saturation and against sameness: logits beyond 2, and channels whose logit hardly varies in a batch."""
    total = values.new_zeros(())
    for seen in captures.values():
        logits = torch.logit(seen.gates.flatten(0, -2), 1e-6)
        beyond = (logits.abs() - WIDEST_LOGIT).relu().square().mean()
        alike = (LEAST_VARIETY - (logits.var(0) + 1e-6).sqrt()).relu().mean()
        total = total + beyond + alike
    return SPREAD_WEIGHT * total


class GateDropout(SEBlock):
    """A block of whose gates, while training, half are 0.5 (no change) in each step, by a generator of its own."""

    def __init__(self, like: SEBlock) -> None:
        super().__init__(like.channels, hidden=like.hidden, channel_axis=like.channel_axis)
        self.load_state_dict(like.state_dict())
        self.draws = torch.Generator().manual_seed(0)

    def gates(self, squeezed: Tensor) -> Tensor:
        """The SE vector, with gates dropped in training."""
        gates = super().gates(squeezed)
        if not self.training:
            return gates
        dropped = (torch.rand(gates.shape, generator=self.draws) < DROPPED).to(gates.device)
        return gates.masked_fill(dropped, IDENTITY_GATE)

    def __deepcopy__(self, memo: dict[int, object]) -> GateDropout:
        return GateDropout(self)


def _with_gate_dropout(squeeze: Squeeze) -> None:
    for stream in squeeze.places:
        squeeze.blocks[stream] = GateDropout(squeeze.block(stream))


def _standardised(values: Tensor) -> Tensor:
    centred = values - values.mean(1, keepdim=True)
    # the square root has no gradient at 0, where all gates are equal: at the identity start
    return centred / (centred.square().mean(1, keepdim=True) + 1e-8).sqrt()


EVIDENCE = Arm("evidence", "with, trained + evidence loss", extra=evidence_loss)
SPREAD = Arm("spread", "with, trained + spread loss", extra=spread_loss)
DROPOUT = Arm("gate-dropout", "with, trained + gate dropout", prepare=_with_gate_dropout)
REFITTED = Arm("refitted", "with, trained, then fitted label-free", base="with", finish=fit_label_free)

VARIANTS = (EVIDENCE, SPREAD, DROPOUT, REFITTED)
