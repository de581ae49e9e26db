"""How both arms are trained: one recipe, and augmentations that depend on a seed alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from squeezecam import tree
from squeezecam.errors import InputError

Augment = Callable[[Any, torch.Generator], Any]
"""A batch of inputs and a generator to a changed batch; all of its chance comes from the generator."""


@dataclass(frozen=True)
class Recipe:
    """AdamW with a linear rise and a cosine fall of the rate.

    Attributes:
        epochs: passes over the training data.
        batch_size: samples in a step; what is left over at the end of a pass is a smaller step.
        lr: highest rate.
        weight_decay: of every parameter, those of the block included.
        rise: share of the steps in which the rate rises.
        augment: a name of :data:`AUGMENTS`, or a function of a batch and a generator.

    """

    epochs: int = 10
    batch_size: int = 64
    lr: float = 2e-3
    weight_decay: float = 0.01
    rise: float = 0.15
    augment: str | Augment = "none"

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2 or not self.lr > 0:
            raise InputError(
                f"epochs, batch_size and lr are {self.epochs}, {self.batch_size} and {self.lr}: "
                "expected at least 1, at least 2, and more than 0"
            )
        if isinstance(self.augment, str) and self.augment not in AUGMENTS:
            raise InputError(f"unknown augmentation '{self.augment}'; expected one of {', '.join(AUGMENTS)}")

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of ``step`` (from 0) of ``steps``."""
        rising = max(1, round(self.rise * steps))
        if step < rising:
            return self.lr * (step + 1) / rising
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))

    @property
    def augmentation(self) -> Augment:
        """The function itself."""
        return AUGMENTS[self.augment] if isinstance(self.augment, str) else self.augment

    def as_dict(self) -> dict[str, Any]:
        """Plain values; a function by its name."""
        name = self.augment if isinstance(self.augment, str) else getattr(self.augment, "__qualname__", "a function")
        return {**asdict(self), "augment": name}


def flip(inputs: Any, generator: torch.Generator) -> Any:
    """Mirror each picture with probability one half."""
    return _on_pictures(inputs, _flip, generator)


def shift(inputs: Any, generator: torch.Generator) -> Any:
    """Move each picture by up to an eighth of its sides; the rim is mirrored."""
    return _on_pictures(inputs, _shift, generator)


AUGMENTS: dict[str, Augment] = {
    "none": lambda inputs, generator: inputs,
    "flip": flip,
    "shift": shift,
    "flip-shift": lambda inputs, generator: shift(flip(inputs, generator), generator),
}


def _on_pictures(inputs: Any, change: Callable[[Tensor, torch.Generator], Tensor], generator: torch.Generator) -> Any:
    """Every tensor (N, C, H, W) in ``inputs`` changed; other shapes are no pictures."""
    found = [(path, tensor) for path, tensor in tree.leaves(inputs) if tensor.ndim == 4]
    if not found:
        raise InputError("this augmentation is for pictures (N, C, H, W): augment='none', or a function of your own")
    for path, tensor in found:
        inputs = tree.replace(inputs, path, change(tensor, generator))
    return inputs


def _flip(pictures: Tensor, generator: torch.Generator) -> Tensor:
    mirrored = (torch.rand(len(pictures), generator=generator) < 0.5).to(pictures.device)
    return torch.where(mirrored[:, None, None, None], pictures.flip(-1), pictures)


def _shift(pictures: Tensor, generator: torch.Generator) -> Tensor:
    height, width = pictures.shape[-2:]
    far = (height // 8, width // 8)
    padded = F.pad(pictures, (far[1], far[1], far[0], far[0]), mode="reflect")
    moved = []
    for number in range(len(pictures)):
        top, left = (int(torch.randint(0, 2 * f + 1, (), generator=generator)) for f in far)
        moved.append(padded[number, :, top : top + height, left : left + width])
    return torch.stack(moved)
