"""Pictures to measure on, loaded when their turn comes, with what is known about them."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from squeezecam.errors import InputError
from squeezecam.misfed import named


@dataclass(frozen=True)
class Item:
    """One picture or clip: ``(C, *S)`` as the model takes it, and where its object is, if that is known.

    ``make_inputs`` makes what the model takes of pictures in the place of this one, where other inputs of its own
    belong to it.
    """

    picture: Tensor
    boxes: Tensor | None = None
    mask: Tensor | None = None
    target: int | None = None
    make_inputs: Callable[[Tensor], Any] | None = None


class Source(Protocol):
    """Pictures that are loaded when their turn comes."""

    @property
    def truth(self) -> bool:
        """Whether there are boxes or masks."""
        ...

    @property
    def targets(self) -> bool:
        """Whether the items name the class to explain."""
        ...

    def names(self) -> list[str]:
        """A name for each picture."""
        ...

    def load(self, index: int) -> Item:
        """The picture, or an :class:`InputError` that says why there is none."""
        ...

    def subsets(self, index: int) -> list[str]:
        """Subsets that the picture belongs to."""
        ...

    def identity(self) -> object:
        """What changes when the pictures or their boxes change."""
        ...


FORMS = {1: "(C, T) for a map over time", 2: "(C, H, W)", 3: "(C, T, H, W) for a map with frames, or slices"}
"""A picture, by the axes of the model's map."""


def check_picture(picture: Any, name: str, rank: int | None = None) -> None:
    """Refuse what is no picture for a map of ``rank`` axes; None: of any number.

    Raises:
        InputError: no tensor, or one of another number of axes.

    """
    if not isinstance(picture, Tensor):
        raise InputError(
            f"image {name} is {named(picture)}; expected a tensor (C, H, W): make it one with the model's own "
            "preprocessing"
        )
    if rank is not None and picture.ndim != rank + 1:
        form = FORMS.get(rank, f"channels and {rank} axes")
        raise InputError(f"image {name} has shape {tuple(picture.shape)}, expected {form}")


@dataclass
class Given:
    """A :class:`Source` made of what is in memory."""

    images: Any
    boxes: Sequence[Any] | None = None
    masks: Any = None
    target: Any = None
    named: Sequence[str] | None = None
    flags: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = _length(self.images)
        if count is None or not hasattr(self.images, "__getitem__"):  # a loader has a length, and no first picture
            raise InputError(f"images is {named(self.images)}; expected a tensor (N, C, H, W), a list or a data set")
        self.target = _for_all(self.target, count)
        for what, value in (
            ("boxes", self.boxes), ("masks", self.masks), ("target", self.target), ("names", self.named),
            *self.flags.items(),
        ):  # fmt: skip
            given = None if value is None else _length(value)
            if value is not None and given is None:
                raise InputError(f"{what} is {named(value)}; expected one entry for each of the {count} images")
            if given is not None and given != count:
                raise InputError(f"{what} has {given} entries for {count} images")

    @property
    def truth(self) -> bool:  # noqa: D102
        return self.boxes is not None or self.masks is not None

    @property
    def targets(self) -> bool:  # noqa: D102
        return self.target is not None

    def names(self) -> list[str]:  # noqa: D102
        return [str(i) for i in range(len(self.images))] if self.named is None else list(self.named)

    def load(self, index: int) -> Item:  # noqa: D102
        picture = self.images[index]
        picture = picture[0] if isinstance(picture, (tuple, list)) else picture
        boxes = None if self.boxes is None else torch.as_tensor(self.boxes[index]).reshape(-1, 4)
        mask = None if self.masks is None else torch.as_tensor(self.masks[index])
        return Item(picture, boxes, mask, None if self.target is None else int(self.target[index]))

    def subsets(self, index: int) -> list[str]:  # noqa: D102
        return [name for name, flags in self.flags.items() if bool(flags[index])]

    def identity(self) -> object:  # noqa: D102
        parts = hashlib.sha256()
        for index in range(len(self.images)):
            item = self.load(index)
            check_picture(item.picture, str(index))
            for tensor in (item.picture, item.boxes, item.mask):
                if tensor is not None:
                    parts.update(tensor.detach().cpu().double().numpy().tobytes())
            parts.update(str((item.target, self.subsets(index))).encode())
        return parts.hexdigest()


def _length(value: Any) -> int | None:
    """How many entries there are; None where that cannot be told."""
    try:
        return len(value)
    except TypeError:
        return None


def _for_all(target: Any, count: int) -> Any:
    """One class is that of all images."""
    try:
        return [operator.index(target)] * count
    except TypeError:
        return target
