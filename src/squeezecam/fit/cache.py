"""What every block saw and what the model answered, in memory for the fit, and the head that runs on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from squeezecam import tree
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
        beside: inputs of the model that its head needs beside the map, each ``(M, ...)``, as ``runner.per_sample``.

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
    beside: list[Tensor] = field(default_factory=list)

    @property
    def mode(self) -> str:
        """``"vectors"`` or ``"maps"``: what the head runs on."""
        return "maps" if self.grids is None else "vectors"

    def __len__(self) -> int:
        return len(self.values)

    def head(self, squeeze: Squeeze, output: str, index: Tensor, factors: dict[str, Tensor] | None = None) -> Tensor:
        """The output for the samples in ``index``, their channels scaled by ``factors`` ``{stream: (n, C)}``."""
        return squeeze.select(self.run(self.raws(squeeze, index, factors), index), output)

    def head_on(self, squeeze: Squeeze, output: str, vectors: dict[str, Tensor], index: Tensor) -> Tensor:
        """The output for any squeezed vectors ``{stream: (n, C)}``, where vectors are enough; ``index (n,)`` are the
        samples whose other inputs go with them.
        """
        assert self.grids is not None
        return squeeze.select(self.run(lay_out(squeeze, vectors, self.grids), index), output)

    def run(self, raws: dict[str, Tensor], index: Tensor) -> Any:
        """What the model returns for tensors at the places, with the other inputs of the samples in ``index``."""
        return self.runner.run(raws, len(index), [tensor[index] for tensor in self.beside])

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
    """A way to run the head that reproduces the output, and the grids on which vectors do (None: maps are needed).

    Inputs that go past the map are held fixed. Which these are is known from the data flow; where that is not the whole
    story (a length that is read as a number, say), more are held, in the end all.

    Raises:
        FitError: the model does not give its own output again.

    """
    size, raws, values = seen.size, seen.raws, seen.values
    with evaluating(squeeze):
        dtypes = {stream: raw.dtype for stream, raw in raws.items()}
        for keep, skip in _attempts(squeeze, given, output):
            runner = HeadRunner(squeeze, given, skip=skip, dtypes=dtypes, keep=keep)
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
        f"the model gave another output '{output}' when it was run again on the same inputs and the same map at the "
        + ", ".join(place.describe() for place in squeeze.places.values())
        + ": a fit needs a model that repeats itself in evaluation mode; switch off what is drawn at random in its "
        "forward, or kept there from call to call"
    )


def _attempts(squeeze: Squeeze, given: Any, output: str) -> list[tuple[list[tree.Path], bool]]:
    """Inputs to hold fixed and whether to leave out what comes before the map, the cheapest first."""
    every = [path for path, _ in tree.leaves(tree.as_call(given))]
    shown = list(squeeze.input_paths.values())
    needed = {name: squeeze.beside.get(name, []) for name in squeeze.outputs}
    # what other outputs need too, for their read-outs: but not the picture for the sake of one from an earlier map
    others = [path for paths in needed.values() for path in paths if path not in shown]
    held = [path for path in every if path in needed[output] or path in others]
    found: list[tuple[list[tree.Path], bool]] = []
    for keep in (held, [path for path in every if path not in shown or path in held], every):
        tried = [known for known, _ in found]
        if keep not in tried:
            found += [(keep, True), (keep, False)]
    return found
