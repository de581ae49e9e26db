"""One pass over the data: what every block saw, what the model answered, kept in memory for the fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from squeezecam import tree
from squeezecam.block import squeeze_positions
from squeezecam.errors import FitError
from squeezecam.fit.batches import Pick, label_tensor, split
from squeezecam.fit.runner import HeadRunner
from squeezecam.frames import scale_by, squeeze_stream
from squeezecam.module import Squeeze
from squeezecam.tap import evaluating, tapped

MAPS_LIMIT = 4 << 30
"""Bytes of cached maps after which no more are kept; squeezed vectors have no limit."""
WINDOW_SHARES = (0.4, 0.9)
"""Sides of the random windows, as shares of the grid's sides."""


@dataclass
class Cache:
    """Features and answers of M samples.

    Attributes:
        squeezed: ``{stream: (M, C)}`` squeezed vectors; ``(M, T, C)`` where every frame has gates of its own.
        windows: ``{stream: (V, C)}`` vectors pooled over random windows of the maps, V a multiple of M, in the same
            order again and again; empty where only whole maps are valid.
        maps: ``{stream: [raw tensors]}`` in the layout of the place, or empty where squeezed vectors are enough.
        values: the selected output, ``(M, K)`` or ``(M,)``.
        labels: ``(M, ...)`` or None.
        runner: runs the head on what is cached.
        grids: sizes of the grid on which a squeezed vector is laid out for the head; None in map mode.

    """

    squeezed: dict[str, Tensor]
    windows: dict[str, Tensor]
    maps: dict[str, Tensor]
    values: Tensor
    labels: Tensor | None
    runner: HeadRunner
    grids: dict[str, tuple[int, ...]] | None
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

    def raws(self, squeeze: Squeeze, index: Tensor, factors: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Tensors to stand at the places for the samples in ``index``."""
        if self.grids is None:
            raws = {stream: maps[index].float() for stream, maps in self.maps.items()}
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


def collect(
    squeeze: Squeeze,
    batches: Iterable[Any],
    output: str,
    *,
    inputs: Pick | None,
    labels: Pick | None,
    windows: int,
    generator: torch.Generator,
    advance: Callable[[int], None],
    device: torch.device,
) -> Cache:
    """Run the model once over ``batches``, without gradients and without gates, and keep what the fit needs.

    Whether squeezed vectors are enough is tried on the first batch: the head alone has to give the model's output on
    the maps, and again on maps that are replaced by their means.

    Raises:
        FitError: no batches, nothing finite, or a head that cannot be run on its own.

    """
    runner: HeadRunner | None = None
    grids: dict[str, tuple[int, ...]] | None = None
    parts: dict[str, list[Any]] = {"values": [], "labels": []}
    squeezed: dict[str, list[Tensor]] = {stream: [] for stream in squeeze.places}
    pooled: dict[str, list[Tensor]] = {stream: [] for stream in squeeze.places}
    maps: dict[str, list[Tensor]] = {stream: [] for stream in squeeze.places}
    skipped = left_out = held = 0
    for batch in batches:
        given, found = split(batch, squeeze.positional, inputs, labels)
        given = tree.to_device(given, device)
        result, raws = _plain_pass(squeeze, given)
        values = squeeze.select(result, output)
        args, kwargs = tree.as_call(given)
        size = tree.batch_size(args, kwargs)
        advance(size)
        features = {s: squeeze.places[s].layout.unpack(raw, size, squeeze.places[s].grid) for s, raw in raws.items()}
        vectors = {
            s: squeeze_stream(u, squeeze.places[s].layout, per_frame=squeeze.per_frame) for s, u in features.items()
        }
        good = values.flatten(1).isfinite().all(1) if values.ndim > 1 else values.isfinite()
        for vector in vectors.values():
            good &= vector.isfinite().flatten(1).all(1)
        skipped += int((~good).sum())
        if not bool(good.any()):
            continue
        if skipped and not bool(good.all()):  # frames folded into the batch go with their sample
            raws = {s: raw[good.repeat_interleave(raw.shape[0] // size)] for s, raw in raws.items()}
            features, vectors = ({s: u[good] for s, u in part.items()} for part in (features, vectors))
            values, found = values[good], None if found is None else label_tensor(found, output).to(device)[good]
            size = int(good.sum())
        if parts["values"] and (values.ndim > 2 or grids is None):
            _check_lengths(values, raws, parts["values"][0], maps)
        if runner is None:
            runner, grids = _head(squeeze, given, size, raws, values, output)
        if grids is None and held > MAPS_LIMIT:
            left_out += size
            continue
        parts["values"].append(values)
        if found is not None:
            parts["labels"].append(label_tensor(found, output).to(device))
        for stream, raw in raws.items():
            squeezed[stream].append(vectors[stream])
            if grids is None:
                kept = raw.half()
                held += kept.numel() * 2
                maps[stream].append(kept)
            elif windows:
                pooled[stream].append(random_windows(features[stream], windows, generator))
    if runner is None and not skipped:
        raise FitError(
            "there was not a single batch to fit on: an iterator that was used up before? Pass a list or a DataLoader"
        )
    if runner is None:
        raise FitError(
            f"all {skipped} samples give NaN or infinity in the features or the output: check weights and preprocessing"
        )
    several = parts["labels"] and len(parts["labels"]) == len(parts["values"])
    return Cache(
        {s: torch.cat(v) for s, v in squeezed.items()},
        {s: torch.cat(v, 1).flatten(0, 1) for s, v in pooled.items() if v},
        {s: torch.cat(v) for s, v in maps.items() if v},
        torch.cat(parts["values"]),
        torch.cat(parts["labels"]) if several else None,
        runner,
        grids,
        skipped,
        left_out,
    )


def _check_lengths(values: Tensor, raws: dict[str, Tensor], first: Tensor, maps: dict[str, list[Tensor]]) -> None:
    streams = [stream for stream, known in maps.items() if known]
    same = values.shape[1:] == first.shape[1:] and all(
        stream in raws and raws[stream].shape[1:] == maps[stream][0].shape[1:] for stream in streams
    )
    if not same:
        given = ", ".join(f"{stream} {tuple(raws[stream].shape[1:])}" for stream in streams if stream in raws)
        wanted = ", ".join(f"{stream} {tuple(maps[stream][0].shape[1:])}" for stream in streams)
        raise FitError(
            f"the maps of this batch ({given or 'none'}) differ in size from those of the first ({wanted}): for clips "
            "of several lengths cut windows of one length to fit on; what is fitted then serves clips of any length"
        )


def random_windows(features: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Means over random windows of ``features (N, C, *S)``: ``(count, N, C)``; a batch shares its windows."""
    low, high = WINDOW_SHARES
    drawn = []
    for _ in range(count):
        window = features
        for axis in range(2, features.ndim):
            side = features.shape[axis]
            share = low + (high - low) * float(torch.rand((), generator=generator))
            length = max(1, round(side * share))
            start = int(torch.randint(0, side - length + 1, (), generator=generator))
            window = window.narrow(axis, start, length)
        drawn.append(squeeze_positions(window))
    return torch.stack(drawn)


def _plain_pass(squeeze: Squeeze, given: Any) -> tuple[Any, dict[str, Tensor]]:
    """The model as it is, without gates, and copies of the tensors at the places."""
    args, kwargs = tree.as_call(given)
    raws: dict[str, Tensor] = {}

    def keep(stream: str) -> Callable[[Tensor], None]:
        def handle(tensor: Tensor) -> None:
            raws[stream] = tensor.detach().clone()

        return handle

    with (
        torch.no_grad(),
        evaluating(squeeze),
        tapped(squeeze.model, squeeze.places, {s: keep(s) for s in squeeze.places}),
    ):
        result = squeeze.model(*args, **kwargs)
    return result, raws


def _head(
    squeeze: Squeeze, given: Any, size: int, raws: dict[str, Tensor], values: Tensor, output: str
) -> tuple[HeadRunner, dict[str, tuple[int, ...]] | None]:
    """A way to run the head that reproduces the output, and the grids on which vectors do (None: maps are needed)."""
    with evaluating(squeeze):
        for skip in (True, False):
            runner = HeadRunner(squeeze, given, skip=skip)
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
