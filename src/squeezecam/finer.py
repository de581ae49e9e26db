"""The last map before the block's that is at least twice as fine: where edges of objects are still seen."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from squeezecam import tree
from squeezecam.layout import parse_layout
from squeezecam.site import Place
from squeezecam.tap import evaluating

LAYOUT = "n c h w"
AT_LEAST = 1.8
"""How much finer in height and in width: convolutions without padding lose a cell or two of an exact two."""


def find_finer(model: nn.Module, place: Place, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Place | None:
    """That map in one probe pass, or None where there is none: a transformer's grid is the same throughout.

    Of the modules that put out ``(N, C, H, W)`` on such a grid, run once, and before the map at ``place``, it is the
    last one that has finished among the outermost, as ``features.13`` or ``layer3``.
    """
    if place.layout.text != LAYOUT or place.when != "output":
        return None
    found: list[tuple[str, tuple[int, ...]]] = []
    runs: dict[str, int] = {}
    batch = tree.batch_size(args, kwargs)
    names = {module: name for name, module in model.named_modules()}

    def after(module: nn.Module, _: Any, output: Any) -> None:
        name = names[module]
        runs[name] = runs.get(name, 0) + 1
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[0] == batch:
            found.append((name, tuple(output.shape)))

    handles = [module.register_forward_hook(after) for module in names if module is not model]
    try:
        with torch.no_grad(), evaluating(model):
            model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    ends = [number for number, (name, _) in enumerate(found) if name == place.module]
    before = found[: ends[0]] if ends else []
    fine = [
        (name, shape)
        for name, shape in before
        if runs[name] == 1 and all(size >= AT_LEAST * cells for size, cells in zip(shape[2:], place.grid, strict=True))
    ]
    if not fine:
        return None
    smallest = min(shape[2] * shape[3] for _, shape in fine)
    last = [(name, shape) for name, shape in fine if shape[2] * shape[3] == smallest]
    depth = min(name.count(".") for name, _ in last)
    name, shape = [one for one in last if one[0].count(".") == depth][-1]
    return Place(name, "output", parse_layout(LAYOUT), shape[2:], shape[1], (), 0, True, -1)
