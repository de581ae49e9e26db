"""On which weights something was fitted, and whether the model still has them.

A block fitted on one set of weights shows nothing about another. Looking at all weights in every pass would cost as
much as the pass, so it is looked at whether any tensor has been written to or exchanged since: each has a counter of
the writes to it, and a storage of its own. Only what has moved is looked at again, and remembered: a model that went to
another device or to half precision has moved, and is the same model. Nothing here waits for a device until the
doubts are read.

What this cannot see: values written through ``parameter.data`` in place, which goes past the counter.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from squeezecam.module import Squeeze

_CHUNK = 1 << 20
Numbers = tuple[float, float]
_UNKNOWN = (RuntimeError, NotImplementedError, TypeError)
"""Of weights of a kind that has no numbers: nothing can be told about them, and nothing is said."""
FIT, REFINE, LOCATE = "fit", "refine", "locate"
"""What :meth:`Squeeze.fit` makes (blocks and read-outs), and the other two."""
_WORDS = {FIT: "the block was fitted on", REFINE: "the refiner was fitted on", LOCATE: "the locator was fitted on"}


def clean_name(name: str) -> str:
    """A name without what wrappers put into it: ``_orig_mod`` (compiled) anywhere, ``module`` (parallel) in front."""
    parts = [part for part in name.split(".") if part != "_orig_mod"]
    while len(parts) > 1 and parts[0] == "module":
        parts = parts[1:]
    return ".".join(parts)


def rough(tensor: Tensor) -> Tensor:
    """Root mean square, and the mean against a fixed irregular sequence in units of it: ``(2,)``, where the tensor is.

    Alike in half precision, unlike after training. In pieces, so that a large layer is never held twice in float64.
    """
    flat = tensor.detach().flatten()
    kind = torch.float32 if flat.device.type == "mps" else torch.float64
    sums = torch.zeros(3, dtype=kind, device=flat.device)
    for start in range(0, len(flat), _CHUNK):
        piece = flat[start : start + _CHUNK].to(kind)
        irregular = _irregular(start, len(piece), flat.device).to(kind)
        sums += torch.stack([piece.square().sum(), (piece * irregular).sum(), irregular.square().sum()])
    rms = (sums[0] / len(flat)).sqrt()
    return torch.stack([rms, sums[1] / (rms * sums[2].sqrt()).clamp_min(1e-30)])


def _irregular(start: int, count: int, device: torch.device) -> Tensor:
    where = torch.device("cpu") if device.type == "mps" else device  # which has no float64
    index = torch.arange(start + 1, start + 1 + count, dtype=torch.float64, device=where)
    return index.mul_(0.6180339887498949).frac_().sub_(0.5).to(device)


def numbers(tensors: Iterable[Tensor]) -> list[Numbers]:
    """Several of :func:`rough` as plain numbers; waits for the device, once for each there is."""
    given = list(tensors)
    found: dict[int, Numbers] = {}
    for device in {tensor.device for tensor in given}:
        places = [i for i, tensor in enumerate(given) if tensor.device == device]
        for place, (size, direction) in zip(places, torch.stack([given[i] for i in places]).tolist(), strict=True):
            found[place] = (round(size, 8), round(direction, 6))
    return [found[i] for i in range(len(given))]


def alike(a: Numbers, b: Numbers) -> bool:
    """Whether two tensors are the same weights, in whatever precision."""
    (size, direction), (other_size, other_direction) = a, b
    if math.isnan(size) or math.isnan(other_size):
        return math.isnan(size) and math.isnan(other_size)
    near = abs(size - other_size) <= 4e-3 * max(abs(size), abs(other_size), 1e-6)
    return near and abs(direction - other_direction) <= 8e-3


@dataclass(frozen=True)
class Record:
    """The weights that something was fitted on, by name: those of the model, and of the blocks as they came out."""

    model: Mapping[str, Numbers]
    blocks: Mapping[str, Numbers]


@dataclass(frozen=True)
class _Seen:
    """A tensor that was looked at: how to know it again, and its :func:`rough` numbers."""

    mark: tuple[int, int, int, int]
    storage: Any
    """A weak reference: while it is held, no other storage gets this one's address."""
    rough: Tensor


@dataclass(frozen=True, eq=False)
class Moved:
    """Numbers of the present weights, still on their device, and the records that they are to be held against."""

    model: Mapping[str, Tensor]
    blocks: Mapping[str, Tensor]
    records: Mapping[str, Record]

    def lines(self) -> list[str]:
        """One line for each thing that was fitted on other weights; waits for the device."""
        named = [*self.model, *self.blocks]
        values = numbers([*self.model.values(), *self.blocks.values()])
        model = dict(zip(named[: len(self.model)], values[: len(self.model)], strict=True))
        blocks = dict(zip(named[len(self.model) :], values[len(self.model) :], strict=True))
        return [
            f"the model's weights are no longer those that {_WORDS[what]}: its maps may mislead, fit it again"
            for what, record in self.records.items()
            # a block that was trained on, as in a training with the block in the path, went along with the model
            if not _same(record.model, model) and (what != FIT or _same(record.blocks, blocks))
        ]


def _same(a: Mapping[str, Numbers], b: Mapping[str, Numbers]) -> bool:
    return all(alike(a[name], b[name]) for name in a.keys() & b.keys())


@dataclass
class Origins:
    """What was fitted on which weights; belongs to one :class:`Squeeze`."""

    records: dict[str, Record] = field(default_factory=dict)
    _seen: dict[str, _Seen] = field(default_factory=dict, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"records": self.records, "_seen": {}}  # a copy has other tensors, which are looked at when needed

    def mark(self, squeeze: Squeeze, what: str) -> None:
        """Note that ``what`` (``fit``, ``refine``, ``locate``) was fitted on the present weights."""
        self.records.pop(what, None)
        with contextlib.suppress(*_UNKNOWN):
            model, blocks = self._look(squeeze)
            self.records[what] = Record(_named(model), _named(blocks))

    def put(self, squeeze: Squeeze, whats: Iterable[str], model: Mapping[str, Numbers]) -> None:
        """Note that what came with an adapter was fitted on these weights; the blocks are as they are."""
        with contextlib.suppress(*_UNKNOWN):
            blocks = _named(self._look(squeeze)[1])
            self.records.update({what: Record(model, blocks) for what in whats})

    def moved(self, squeeze: Squeeze, whats: Iterable[str]) -> Moved | None:
        """What has to be read to know whether ``whats`` still belong to the weights; None where there is nothing to
        know. Waits for nothing.
        """
        records = {what: self.records[what] for what in whats if what in self.records}
        if not records:
            return None
        try:
            return Moved(*self._look(squeeze), records)
        except _UNKNOWN:
            return None

    def lines(self, squeeze: Squeeze, *whats: str) -> list[str]:
        """The doubts about ``whats``, one line each."""
        moved = self.moved(squeeze, whats)
        return moved.lines() if moved is not None else []

    def _look(self, squeeze: Squeeze) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        before, after = self._seen, dict[str, _Seen]()
        parts: list[dict[str, Tensor]] = []
        for part in (squeeze.model, squeeze.blocks):
            found = {}
            for name, tensor in _weights(part):
                key = f"{len(parts)}.{name}"
                known, mark = before.get(key), _mark(tensor)
                if known is None or known.mark != mark:
                    known = _Seen(mark, _held(tensor), rough(tensor))
                after[key], found[name] = known, known.rough
            parts.append(found)
        self._seen = after  # at once: another thread may look too
        return parts[0], parts[1]


def _named(found: Mapping[str, Tensor]) -> dict[str, Numbers]:
    return dict(zip(found, numbers(found.values()), strict=True))


def _weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Floating-point parameters and kept buffers by their clean names in the state dict, which is slower to make."""
    for given, part in module.named_modules():
        prefix = clean_name(f"{given}.x")[:-2] if "_orig_mod" in given or given.startswith("module") else given
        start = f"{prefix}." if prefix else ""
        for name, parameter in part._parameters.items():
            if parameter is not None and parameter.is_floating_point() and parameter.numel():
                yield start + name, parameter
        for name, buffer in part._buffers.items():
            kept = buffer is not None and name not in part._non_persistent_buffers_set
            if kept and buffer is not None and buffer.is_floating_point() and buffer.numel():
                yield start + name, buffer


def _mark(tensor: Tensor) -> tuple[int, int, int, int]:
    """Which storage, which part of it, how often written to: another number wherever the values may be others."""
    storage = tensor.untyped_storage()
    version = -1 if tensor.is_inference() else tensor._version
    return storage._cdata, tensor.data_ptr(), tensor.numel(), version


def _held(tensor: Tensor) -> Any:
    from torch.multiprocessing.reductions import StorageWeakRef

    return StorageWeakRef(tensor.untyped_storage())
