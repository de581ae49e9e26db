"""The last map before the block's that is at least twice as fine: where edges of objects are still seen."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from squeezecam.layout import parse_layout
from squeezecam.site import Place

LAYOUT = "n c h w"
AT_LEAST = 1.8
"""How much finer in height and in width: convolutions without padding lose a cell or two of an exact two."""


@dataclass
class Maps:
    """Modules that put out ``(N, C, H, W)`` in a pass, in the order in which they finished, and how often each ran."""

    seen: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    runs: dict[str, int] = field(default_factory=dict)


@contextlib.contextmanager
def watching(model: nn.Module, batch: int) -> Iterator[Maps]:
    """Writes down the maps of a pass with ``batch`` samples. Inside PyTorch's encoder layers, whose fused path hooks
    would switch off, nothing is watched.
    """
    found = Maps()
    names = {}
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            inside = (*inside, f"{name}.")
        elif name and not name.startswith(inside):
            names[module] = name

    def after(module: nn.Module, _: Any, output: Any) -> None:
        name = names[module]
        found.runs[name] = found.runs.get(name, 0) + 1
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[0] == batch:
            found.seen.append((name, tuple(output.shape)))

    handles = [module.register_forward_hook(after) for module in names]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def last_finer(found: Maps, place: Place) -> Place | None:
    """That map, or None where there is none: a transformer's grid is the same throughout.

    Of the modules that put out ``(N, C, H, W)`` on such a grid, run once, and before the map at ``place``, it is the
    last one that has finished among the outermost, as ``features.13`` or ``layer3``.
    """
    if place.layout.text != LAYOUT or place.when != "output":
        return None
    ends = [number for number, (name, _) in enumerate(found.seen) if name == place.module]
    before = found.seen[: ends[0]] if ends else []
    fine = [
        (name, shape)
        for name, shape in before
        if found.runs[name] == 1
        and all(size >= AT_LEAST * cells for size, cells in zip(shape[2:], place.grid, strict=True))
    ]
    if not fine:
        return None
    smallest = min(shape[2] * shape[3] for _, shape in fine)
    last = [(name, shape) for name, shape in fine if shape[2] * shape[3] == smallest]
    depth = min(name.count(".") for name, _ in last)
    name, shape = [one for one in last if one[0].count(".") == depth][-1]
    return Place(name, "output", parse_layout(LAYOUT), shape[2:], shape[1], (), 0, True, -1)


def as_record(place: Place, clean: Mapping[str, str]) -> dict[str, Any]:
    """What an adapter's record says of it; ``clean`` has module names without what wrappers put in."""
    return {"module": clean.get(place.module, place.module), "grid": list(place.grid)}


def from_record(record: Mapping[str, Any], channels: int, names: Mapping[str, str], model: nn.Module) -> Place:
    """The place that was written down; ``names`` leads from clean names of modules to those of ``model``.

    Raises:
        ValueError: the model has no such module.

    """
    module = names.get(record["module"], record["module"])
    if module not in dict(model.named_modules()):
        raise ValueError(f"the model has no module '{module}'")
    grid = tuple(int(cells) for cells in record["grid"])
    return Place(module, "output", parse_layout(LAYOUT), grid, channels, (), 0, True, -1)
