"""The stages of a model from the head down, for randomising its weights one after the other."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import nn

from squeezecam import tree
from squeezecam.errors import InputError
from squeezecam.module import Squeeze
from squeezecam.tap import evaluating

MOST = 8


def stages(squeeze: Squeeze, inputs: Any, most: int = MOST) -> list[list[str]]:
    """Modules of ``squeeze.model`` with weights, in groups, the last to run first.

    Containers are opened, the one with the most weights first, until there are at least ``most`` parts or nothing is
    left to open. The part that runs last, the classifier, is always a stage of its own; the others are put together
    into stages of about equal numbers of parts. What stands beside the parts (a class token on the model itself) is
    told by :func:`left_over`.

    Args:
        squeeze: the attached model; its block belongs to no stage.
        inputs: a batch, to see in which order the parts run.
        most: number of stages, at least 1.

    Raises:
        InputError: no module of the model has weights.

    """
    if most < 1:
        raise InputError(f"the number of stages is {most}, expected at least 1")
    parts = {name: module for name, module in squeeze.model.named_children() if _weights(module)}
    while len(parts) < most:
        openable = {name: m for name, m in parts.items() if any(_weights(child) for child in m.children())}
        if not openable:
            break
        widest = max(openable, key=lambda name: _weights(openable[name]))
        module = parts.pop(widest)
        parts |= {f"{widest}.{name}": child for name, child in module.named_children() if _weights(child)}
    if not parts and _weights(squeeze.model):
        parts = {"": squeeze.model}
    if not parts:
        raise InputError("the model has no weights that could be randomised")
    order = _order(squeeze, parts, inputs)
    if most == 1 or len(order) == 1:
        return [order]
    rest, count = order[1:], min(most - 1, len(order) - 1)
    edges = [round(i * len(rest) / count) for i in range(count + 1)]
    return [order[:1], *(rest[low:high] for low, high in pairwise(edges))]


def left_over(model: nn.Module, planned: list[list[str]]) -> list[str]:
    """Modules with weights of their own that belong to none of the parts in ``planned``."""
    covered = {id(part) for stage in planned for name in stage for part in model.get_submodule(name).modules()}
    return [
        name
        for name, module in model.named_modules()
        if id(module) not in covered and next(module.parameters(recurse=False), None) is not None
    ]


def stage_name(names: list[str]) -> str:
    """Of one stage: its module, or the first and the last of them."""
    first, last = names[0] or "the model", names[-1]
    if len(names) == 1:
        return first
    folder, _, own = last.rpartition(".")
    return f"{first} to {own if folder == first.rpartition('.')[0] else last}"


def _weights(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _order(squeeze: Squeeze, parts: dict[str, nn.Module], inputs: Any) -> list[str]:
    """Names of the parts that run, the last to end first."""
    ended: list[str] = []

    def note(name: str) -> Any:
        return lambda *_: ended.append(name)

    handles = [module.register_forward_hook(note(name)) for name, module in parts.items()]
    args, kwargs = tree.as_call(inputs)
    try:
        with torch.no_grad(), evaluating(squeeze):
            squeeze.model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    found = list(dict.fromkeys(reversed(ended)))
    return found or list(reversed(parts))
