"""What one batch gives to a fit: squeezed vectors, windows or maps, answers and labels, as named tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from squeezecam import tree
from squeezecam.block import squeeze_positions
from squeezecam.fit.batches import Pick, labels_of, split
from squeezecam.fit.evidence import Evidence
from squeezecam.frames import batch_axis, squeeze_stream
from squeezecam.misfed import told
from squeezecam.module import Squeeze
from squeezecam.randomness import derive
from squeezecam.tap import evaluating, tapped

WINDOW_SHARES = (0.4, 0.9)
"""Sides of the random windows, as shares of the grid's sides."""


@dataclass
class Part:
    """What is kept of one batch.

    Attributes:
        number: of the batch.
        size: samples that are kept; those with NaN or infinity are not.
        skipped: samples that are not.
        tensors: by name, each with the samples along its first axis (frames folded into the batch together with their
            sample): ``values``, ``labels``, ``squeezed.STREAM``, ``windows.STREAM`` (n, windows, C), ``maps.STREAM``,
            ``vectors.STREAM`` and ``answers.OUTPUT`` for read-outs, ``beside.NUMBER`` for inputs that go past the map.

    """

    number: int
    size: int
    skipped: int
    tensors: dict[str, Tensor] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Memory that the tensors take."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())


@dataclass
class Seen:
    """A pass over one batch, samples with NaN or infinity left out."""

    given: Any
    result: Any
    raws: dict[str, Tensor]
    features: dict[str, Tensor]
    squeezed: dict[str, Tensor]
    values: Tensor
    labels: Any
    good: Tensor

    @property
    def size(self) -> int:
        """Samples that are left."""
        return len(self.values)


def see(
    squeeze: Squeeze, batch: Any, output: str, inputs: Pick | None, labels: Pick | None, device: torch.device
) -> Seen:
    """Run the model once, as it is and without gradients."""
    given, found = split(batch, squeeze.positional, inputs, labels)
    given = tree.to_device(given, device)
    with told(squeeze, given, batch):
        result, raws = plain_pass(squeeze, given)
    values = squeeze.select(result, output)
    args, kwargs = tree.as_call(given)
    size = tree.batch_size(args, kwargs)
    features = {s: squeeze.places[s].layout.unpack(raw, size, squeeze.places[s].grid) for s, raw in raws.items()}
    vectors = {s: squeeze_stream(u, squeeze.places[s].layout, per_frame=squeeze.per_frame) for s, u in features.items()}
    good = values.flatten(1).isfinite().all(1) if values.ndim > 1 else values.isfinite()
    for vector in vectors.values():
        good &= vector.isfinite().flatten(1).all(1)
    known = None if found is None else labels_of(squeeze, found, output).to(device)
    if not bool(good.all()):  # frames folded into the batch go with their sample
        raws = {s: _only(raw, good, batch_axis(squeeze.places[s].layout)) for s, raw in raws.items()}
        features, vectors = ({s: u[good] for s, u in part.items()} for part in (features, vectors))
        values, known = values[good], None if known is None else known[good]
    return Seen(given, result, raws, features, vectors, values, known, good)


def _only(raw: Tensor, good: Tensor, axis: int) -> Tensor:
    """The samples that are ``good`` of a tensor at a place, with all their frames where those are folded into them."""
    rows = good.repeat_interleave(raw.shape[axis] // len(good)).nonzero().flatten()
    return raw.index_select(axis, rows)


def part_of(
    squeeze: Squeeze,
    seen: Seen,
    number: int,
    *,
    whole: bool,
    windows: int,
    seed: int,
    beside: Sequence[tree.Path] = (),
) -> Part:
    """What is kept of a batch: ``whole`` maps in half precision, or vectors pooled over ``windows`` random windows, and
    the inputs ``beside`` the map.
    """
    part = Part(number, seen.size, int((~seen.good).sum()))
    if not seen.size:
        return part
    kept = part.tensors
    kept["values"] = seen.values
    if seen.labels is not None:
        kept["labels"] = seen.labels
    generator = torch.Generator().manual_seed(derive(seed, "windows", number))
    for stream, raw in seen.raws.items():
        kept[f"squeezed.{stream}"] = seen.squeezed[stream]
        if whole:
            kept[f"maps.{stream}"] = raw.half().movedim(batch_axis(squeeze.places[stream].layout), 0)
        elif windows:
            kept[f"windows.{stream}"] = random_windows(seen.features[stream], windows, generator).transpose(0, 1)
    for place, path in enumerate(beside):
        kept[f"beside.{place}"] = tree.get(tree.as_call(seen.given), path)[seen.good]
    evidence = Evidence.of(squeeze)
    evidence.add(squeeze, seen.features, seen.result, seen.good)
    kept.update({f"vectors.{stream}": found[0] for stream, found in evidence.vectors.items()})
    kept.update({f"answers.{name}": found[0] for name, found in evidence.answers.items()})
    return part


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


def plain_pass(squeeze: Squeeze, given: Any) -> tuple[Any, dict[str, Tensor]]:
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
