"""What every block saw and what the model answered, in memory for the fit, and the head that runs on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from squeezecam.block import squeeze_positions
from squeezecam.errors import FitError
from squeezecam.fit.evidence import Evidence
from squeezecam.fit.features import Seen
from squeezecam.fit.runner import HeadRunner
from squeezecam.frames import batch_axis, scale_by
from squeezecam.module import Squeeze
from squeezecam.tap import evaluating


@dataclass
class Cache:
    """Features and answers of M samples.

    Attributes:
        squeezed: ``{stream: (M, C)}`` squeezed vectors; ``(M, T, C)`` where every frame has gates of its own.
        windows: ``{stream: (V, C)}`` vectors pooled over random windows of the maps, V a multiple of M, in the same
            order again and again; empty where only whole maps are valid.
        maps: ``{stream: raw tensor}`` in the layout of the place with the batch axis first, or empty where squeezed
            vectors are enough.
        values: the selected output, ``(M, K)`` or ``(M,)``.
        labels: ``(M, ...)`` or None.
        runner: runs the head on what is cached.
        grids: sizes of the grid on which a squeezed vector is laid out for the head; None in map mode.
        evidence: what read-outs are fitted on, for outputs whose head is no known form.

    """

    squeezed: dict[str, Tensor]
    windows: dict[str, Tensor]
    maps: dict[str, Tensor]
    values: Tensor
    labels: Tensor | None
    runner: HeadRunner
    grids: dict[str, tuple[int, ...]] | None
    evidence: Evidence
    skipped: int = 0
    left_out: int = 0

    @property
    def mode(self) -> str:
        """``"vectors"`` or ``"maps"``: what the head runs on."""
        return "maps" if self.grids is None else "vectors"

    def __len__(self) -> int:
        return len(self.values)

    def head(self, squeeze: Squeeze, output: str, index: Tensor, factors: dict[str, Tensor] | None = None) -> Tensor:
        """The output for the samples in ``index``, their channels scaled by ``factors`` ``{stream: (n, C)}``."""
        return squeeze.select(self.runner.run(self.raws(squeeze, index, factors), len(index)), output)

    def head_on(self, squeeze: Squeeze, output: str, vectors: dict[str, Tensor]) -> Tensor:
        """The output for any squeezed vectors ``{stream: (n, C)}``, where vectors are enough."""
        assert self.grids is not None
        count = len(next(iter(vectors.values())))
        return squeeze.select(self.runner.run(lay_out(squeeze, vectors, self.grids), count), output)

    def whole(self, squeeze: Squeeze, stream: str, index: Tensor) -> Tensor:
        """The cached maps of the samples in ``index``, with all their frames where those are folded into the batch."""
        maps = self.maps[stream]
        each = len(maps) // len(self)
        rows = index if each == 1 else (index[:, None] * each + torch.arange(each, device=index.device)).flatten()
        return maps[rows].float().movedim(0, batch_axis(squeeze.places[stream].layout))

    def raws(self, squeeze: Squeeze, index: Tensor, factors: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Tensors to stand at the places for the samples in ``index``."""
        if self.grids is None:
            raws = {stream: self.whole(squeeze, stream, index) for stream in self.maps}
            if factors is not None:
                raws = {
                    stream: scale_by(squeeze.places[stream], raw, factors[stream], len(index))
                    for stream, raw in raws.items()
                }
            return raws
        vectors = {stream: vectors[index] for stream, vectors in self.squeezed.items()}
        if factors is not None:
            vectors = {stream: vectors[stream] * factors[stream] for stream in vectors}
        return lay_out(squeeze, vectors, self.grids)


def lay_out(squeeze: Squeeze, vectors: dict[str, Tensor], grids: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Squeezed vectors as constant maps on ``grids``, in the layout of their places."""
    laid = {}
    for stream, vector in vectors.items():
        grid = grids[stream]
        constant = vector.view(*vector.shape, *[1] * len(grid)).expand(*vector.shape, *grid)
        laid[stream] = squeeze.places[stream].layout.pack(constant)
    return laid


def try_head(
    squeeze: Squeeze, given: Any, seen: Seen, output: str
) -> tuple[HeadRunner, dict[str, tuple[int, ...]] | None]:
    """A way to run the head that reproduces the output, and the grids on which vectors do (None: maps are needed)."""
    size, raws, values = seen.size, seen.raws, seen.values
    with evaluating(squeeze):
        dtypes = {stream: raw.dtype for stream, raw in raws.items()}
        for skip in (True, False):
            runner = HeadRunner(squeeze, given, skip=skip, dtypes=dtypes)
            if not runner.reproduces(raws, values, output):
                continue
            if squeeze.per_frame or any(
                (len(a.names) > 1 and "n" in a.names) or a.before or a.after
                for p in squeeze.places.values()
                for a in p.layout.axes
            ):
                return runner, None
            means = {
                s: squeeze_positions(squeeze.places[s].layout.unpack(raw, size, squeeze.places[s].grid)).to(raw.dtype)
                for s, raw in raws.items()
            }
            full = {stream: place.grid for stream, place in squeeze.places.items()}
            single = {stream: (1,) * len(grid) for stream, grid in full.items()}
            for grids in (single, full):
                if runner.reproduces(lay_out(squeeze, means, grids), values, output, tolerance=1e-3):
                    return runner, grids
            return runner, None
    raise FitError(
        "the part of the model after the map could not be run on its own: its output depends on something beside "
        + ", ".join(place.describe() for place in squeeze.places.values())
        + "; try another site, or objective='task' with train='all'"
    )
