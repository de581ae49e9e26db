"""Squeeze-and-excitation blocks that a network has already: their gates for an input, in one forward pass, with nothing
to fit.

EfficientNet, MobileNetV3, SE-ResNet and RegNetY of timm, torchvision and transformers. A block is known by the name of
its class and checked on the numbers: what comes out has to be what went in times one gate per channel.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from squeezecam import heatmap, tree, vector
from squeezecam.errors import InputError, SiteError
from squeezecam.tap import evaluating

_NAME = re.compile(
    r"(squeeze_?excit|excitation|excite|^se$|^c?se_?(module|layer|block|unit|net)|selayer|semodule)", re.IGNORECASE
)
_TOLERANCE = {torch.float16: 2e-2, torch.bfloat16: 5e-2}
_LAST_STEPS = (lambda v: v, torch.sigmoid, F.hardsigmoid, lambda v: F.relu6(v + 3) / 6)


@dataclass(frozen=True)
class NativeBlock:
    """An SE block of the model: the name of the module and of its class."""

    name: str
    kind: str


@dataclass
class NativeReading:
    """What one pass showed.

    Attributes:
        output: what the model returned.
        gates: SE vectors ``(N, C)`` per block, in the order in which they ran, at least float32.
        features: scaled features ``(N, C, *S)`` of the blocks that were asked for.

    """

    output: Any
    gates: dict[str, Tensor]
    features: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def heatmap(self, name: str | None = None, *, keep: str | vector.KeepRule | None = None) -> Tensor:
        """The published map of a block on its native grid, ``(N, *S)``: the mean of the kept channels of the scaled
        features.

        Args:
            name: the block; None: the last one whose features were kept.
            keep: keep rule, see :func:`squeezecam.vector.keep_rule`; None: the published z-score rule.

        Raises:
            InputError: the features of that block were not kept.

        """
        name = name if name is not None else next(reversed(self.features), None)
        if name is None or name not in self.features:
            raise InputError(f"the features of '{name}' were not kept; kept: {', '.join(self.features) or 'none'}")
        scaled = self.features[name]
        kept = vector.keep_rule(keep)(self.gates[name]).mask
        how = "energy" if bool((scaled < 0).any()) else "mean"
        return heatmap.aggregate(scaled, torch.ones_like(self.gates[name]), kept, how)


def find_native(model: nn.Module) -> list[NativeBlock]:
    """SE blocks of ``model`` by the names of their classes; an empty list where it has none."""
    found: list[NativeBlock] = []
    for name, module in model.named_modules():
        kind = type(module).__name__
        inside = any(name.startswith(f"{block.name}.") for block in found)
        if name and not inside and _NAME.search(kind) and any(True for _ in module.parameters()):
            found.append(NativeBlock(name, kind))
    return found


def read_native(model: nn.Module, inputs: Any, *, features: Sequence[str] | None = None) -> NativeReading:
    """Gates of every SE block of ``model`` for ``inputs``: one forward pass, no gradients, nothing changed.

    Args:
        model: a network with SE blocks.
        inputs: what it takes: a tensor, a tuple or a dict.
        features: names of the blocks whose scaled features are kept as well; None: of the last one that runs.

    Raises:
        SiteError: the model has no SE blocks, or none that scales its input by one gate per channel.
        InputError: a name in ``features`` that is no block.

    """
    blocks = find_native(model)
    unknown = [name for name in features or () if name not in {block.name for block in blocks}]
    if unknown:
        raise InputError(f"'{unknown[0]}' is no SE block of the model; see squeezecam.native_se.find_native(model)")
    if not blocks:
        raise SiteError(f"{type(model).__name__} has no squeeze-and-excitation blocks of its own: attach one instead")
    reading = NativeReading(None, {})
    args, kwargs = tree.as_call(inputs)
    with torch.no_grad(), evaluating(model), contextlib.ExitStack() as stack:
        for block in blocks:
            watcher = _Watcher(block.name, reading, features)
            module = model.get_submodule(block.name)
            stack.enter_context(module.register_forward_pre_hook(watcher.before))
            stack.enter_context(module.register_forward_hook(watcher.after))
            for child in module.modules():
                if child is not module:
                    stack.enter_context(child.register_forward_hook(watcher.inside))
        reading.output = model(*args, **kwargs)
    if not reading.gates:
        raise SiteError(
            f"none of the {len(blocks)} blocks that look like SE blocks ({blocks[0].kind}) scales its input by one "
            "gate per channel"
        )
    return reading


class _Watcher:
    """Sees one block run: its input (a copy: an activation may work in place), what its parts return, its output."""

    def __init__(self, name: str, reading: NativeReading, features: Sequence[str] | None) -> None:
        self.name, self.reading, self.features = name, reading, features
        self.given: Tensor | None = None
        self.parts: list[Tensor] = []

    def before(self, module: nn.Module, args: Any) -> None:
        given = args[0] if args and isinstance(args[0], Tensor) and args[0].ndim >= 3 else None
        self.given, self.parts = None if given is None else given.clone(), []

    def inside(self, module: nn.Module, args: Any, output: Any) -> None:
        if self.given is not None and isinstance(output, Tensor) and output.shape[0] == self.given.shape[0]:
            self.parts.append(output.clone())

    def after(self, module: nn.Module, args: Any, output: Any) -> None:
        given, self.given = self.given, None
        if given is None or not isinstance(output, Tensor) or output.shape != given.shape:
            return
        gates = _gates(given, output, self.parts)
        if gates is None:
            return
        self.reading.gates[self.name] = gates
        if self.features is None:
            self.reading.features.clear()
        if self.features is None or self.name in self.features:
            self.reading.features[self.name] = output.clone()


def _gates(given: Tensor, output: Tensor, parts: list[Tensor]) -> Tensor | None:
    """The gates ``(N, C)`` among what the parts returned, the last first, for which ``output = gates * given``."""
    n, c = given.shape[:2]
    tolerance = _TOLERANCE.get(given.dtype, 1e-4) * float(output.abs().amax().clamp_min(1e-30))
    for part in reversed(parts):
        if part.numel() != n * c:
            continue
        for step in _LAST_STEPS:
            gates = step(part.reshape(n, c).float() if part.dtype != torch.float64 else part.reshape(n, c))
            scaled = given * gates.to(given.dtype).view(n, c, *[1] * (given.ndim - 2))
            if float((scaled - output).abs().amax()) <= tolerance:
                return gates
    return None
