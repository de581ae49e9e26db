"""The embedded default: pictures of one handwritten digit among clutter, drawn by code from small sprites.

Every picture is a pure function of (split, seed, index), and the digit's mask is known to the pixel, so that maps can
be judged without any download. The digits stand anywhere in the picture, and the clutter is as bold as they are (partly
digits cut to pieces): neither the centre of the picture nor "where something is drawn" explains a class.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from squeezecam.data.demo_ink import CLUTTER, Floats, clutter_ink, digit_ink
from squeezecam.errors import InputError

__all__ = ["CLUTTER", "SIDE", "Box", "DemoBatch", "DemoImages", "DemoItem", "sprites"]

Box = tuple[int, int, int, int]

SIDE = 96
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_SPLITS = {"train": 0, "test": 1}


@dataclass(frozen=True)
class DemoItem:
    """One picture with its ground truth. ``label``, ``mask`` and ``box`` are those of the first digit.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        labels: the class of each digit, 0 to 9; no class twice.
        masks: bool (K, H, W), the pixels that each digit covers.
        boxes: per digit the tight box of its mask, (x0, y0, x1, y1) in pixels, x1 and y1 exclusive.
        clutter: the kinds of distractors in the picture (names from ``CLUTTER``), in drawing order.
        clutter_boxes: their boxes, which may overlap one another but never a digit's.
    """

    image: NDArray[np.uint8]
    labels: tuple[int, ...]
    masks: NDArray[np.bool_]
    boxes: tuple[Box, ...]
    clutter: tuple[str, ...]
    clutter_boxes: tuple[Box, ...]

    @property
    def label(self) -> int:
        """Class of the first digit."""
        return self.labels[0]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Mask of the first digit, bool (H, W)."""
        mask: NDArray[np.bool_] = self.masks[0]
        return mask

    @property
    def box(self) -> Box:
        """Box of the first digit, (x0, y0, x1, y1), x1 and y1 exclusive."""
        return self.boxes[0]


class DemoBatch(NamedTuple):
    """Several pictures as tensors. For ``digits=2`` labels, masks and boxes have an axis of 2 after the first."""

    images: torch.Tensor  # float32 (N, 3, H, W) in [0, 1]: what the demo model takes
    labels: torch.Tensor  # int64 (N,)
    masks: torch.Tensor  # bool (N, H, W)
    boxes: torch.Tensor  # int64 (N, 4)


class DemoImages:
    """A data set of ``size`` pictures of 96 x 96 pixels; item ``i`` depends on ``(split, seed, i, digits)`` alone.

    Args:
        split: ``"train"`` or ``"test"``: the sprites that the digits (and the pieces in the clutter) come from.
            The splits share no sprite.
        size: number of pictures, at least 1.
        seed: any int from 0 on; different seeds give different pictures.
        digits: 1, or 2 for two digits of different classes in each picture.

    Raises:
        InputError: an unknown split, a size below 1, a negative seed, or ``digits`` other than 1 or 2.
    """

    def __init__(self, split: Literal["train", "test"], size: int, seed: int = 0, digits: int = 1) -> None:
        if split not in _SPLITS:
            raise InputError(f"split is {split!r}; expected 'train' or 'test'")
        if size < 1 or seed < 0:
            raise InputError(f"size is {size} and seed is {seed}; expected a size from 1 and a seed from 0")
        if digits not in (1, 2):
            raise InputError(f"digits is {digits!r}; expected 1 or 2")
        self.split: Literal["train", "test"] = split
        self.size = size
        self.seed = seed
        self.digits = digits

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> DemoItem:
        if not -self.size <= index < self.size:
            raise IndexError(f"index {index} in a data set of {self.size} pictures")
        rng = np.random.default_rng((self.seed, _SPLITS[self.split], self.digits, index % self.size))
        return _draw(rng, *sprites(self.split), self.digits)

    def __iter__(self) -> Iterator[DemoItem]:
        return (self[i] for i in range(self.size))

    def batch(self, indices: Iterable[int]) -> DemoBatch:
        """Return the pictures at ``indices`` as tensors (see ``DemoBatch``), in that order."""
        items = [self[i] for i in indices]
        if not items:
            raise InputError("no indices given; expected at least one")
        images = torch.from_numpy(np.stack([item.image for item in items])).permute(0, 3, 1, 2).contiguous()
        labels = torch.tensor([item.labels for item in items])
        masks = torch.from_numpy(np.stack([item.masks for item in items]))
        boxes = torch.tensor([item.boxes for item in items])
        if self.digits == 1:
            labels, masks, boxes = labels[:, 0], masks[:, 0], boxes[:, 0]
        return DemoBatch(images.float() / 255, labels, masks, boxes)


@cache
def sprites(split: Literal["train", "test"]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the sprites of a split, uint8 (M, 8, 8) from 0 to 16, and their classes, uint8 (M,). Read-only.

    Source: E. Alpaydin, C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI, 1998 (see ``assets/README.md``).
    """
    packed = (resources.files("squeezecam") / "assets" / "digits.npz").read_bytes()
    with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
        pictures: NDArray[np.uint8] = arrays[f"{split}_sprites"]
        labels: NDArray[np.uint8] = arrays[f"{split}_labels"]
    pictures.setflags(write=False)  # shared by every data set of the process
    labels.setflags(write=False)
    return pictures, labels


def _draw(rng: np.random.Generator, pictures: NDArray[np.uint8], labels: NDArray[np.uint8], digits: int) -> DemoItem:
    classes = rng.permutation(10)[:digits]
    luma = float(rng.uniform(45, 210))
    image = _background(rng, luma)
    largest = 40.0 if digits == 1 else 34.0
    boxes: list[Box] = []
    while len(boxes) < digits:  # two large digits may leave no room for each other: start again
        boxes, inks = [], []
        for label in classes:
            ink = digit_ink(rng, pictures[rng.choice(np.flatnonzero(labels == label))], rng.uniform(21, largest))
            box = _place(rng, ink, boxes, tries=20)
            if box is None:
                break
            boxes.append(box)
            inks.append(ink)

    kinds: list[str] = []
    places: list[Box] = []
    for kind in rng.choice(CLUTTER, size=rng.integers(4, 8) - digits):
        size = float(rng.uniform(16, 32))
        ink = clutter_ink(rng, str(kind), pictures, size)
        place = _place(rng, ink, boxes, tries=20)
        if place is not None:
            _paint(image, ink, place, _ink_colour(rng, luma))
            kinds.append(str(kind))
            places.append(place)

    masks = np.zeros((digits, SIDE, SIDE), dtype=bool)
    for mask, box, ink in zip(masks, boxes, inks, strict=True):
        _paint(image, ink, box, _ink_colour(rng, luma))
        mask[box[1] : box[3], box[0] : box[2]] = ink > 0.5
    image += rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(2, 9))
    return DemoItem(
        image=image.clip(0, 255).astype(np.uint8),
        labels=tuple(int(label) for label in classes),
        masks=masks,
        boxes=tuple(boxes),
        clutter=tuple(kinds),
        clutter_boxes=tuple(places),
    )


def _colour(rng: np.random.Generator, luma: float, spread: float) -> Floats:
    tint = rng.uniform(-spread, spread, 3).astype(np.float32)
    return np.clip(luma + tint - tint @ _LUMA, 0, 255).astype(np.float32)


def _ink_colour(rng: np.random.Generator, background: float) -> Floats:
    """A colour darker or lighter than the background: digits and clutter draw from the same ones."""
    step = float(rng.uniform(65, 120))
    darker = background - step > 5 and (background + step > 250 or rng.random() < 0.5)
    return _colour(rng, background - step if darker else min(background + step, 250), 110)


def _background(rng: np.random.Generator, luma: float) -> Floats:
    """A gradient between two colours, under coarse noise and one of stripes, checks and nothing; (H, W, 3)."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    along = np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y
    across = np.float32(-np.sin(angle)) * x + np.float32(np.cos(angle)) * y
    ramp = (along[..., None] + 1.42) / 2.84
    image = (1 - ramp) * _colour(rng, luma - rng.uniform(0, 18), 70) + ramp * _colour(rng, luma, 70)
    cells = int(rng.integers(3, 13))
    noise = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    coarse = np.asarray(Image.fromarray(noise).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    pitch, strength = rng.uniform(8, 40), rng.uniform(4, 16)
    stripes, checks = np.sin(pitch * along), np.sin(pitch * along) * np.sin(pitch * across)
    pattern = (stripes, checks, np.zeros_like(along))[rng.integers(3)]
    mixed = image + (rng.uniform(6, 22) * coarse + strength * pattern)[..., None]
    return np.asarray(mixed, dtype=np.float32)


def _place(rng: np.random.Generator, ink: Floats, taken: list[Box], tries: int) -> Box | None:
    """Find a box for ``ink`` inside the picture and clear of ``taken``; None if no try succeeds."""
    height, width = ink.shape
    for _ in range(tries):
        x, y = int(rng.integers(1, SIDE - width)), int(rng.integers(1, SIDE - height))
        if all(x > b[2] + 1 or x + width < b[0] - 1 or y > b[3] + 1 or y + height < b[1] - 1 for b in taken):
            return x, y, x + width, y + height
    return None


def _paint(image: Floats, ink: Floats, box: Box, colour: Floats) -> None:
    window = image[box[1] : box[3], box[0] : box[2]]
    window += ink[..., None] * (colour - window)
