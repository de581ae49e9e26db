"""The data of a study on the embedded default: small pictures of one digit, that a network learns within seconds."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from squeezecam.data.demo import sprites
from squeezecam.errors import InputError
from squeezecam.parity.samples import InMemory

PIXELS = 48
SMALLEST, LARGEST = 20, 28
PIECES = 2
TRIES = 30
NOISE = 0.06


class Digits(InMemory):
    """Pictures of 48 x 48 pixels: a bright digit anywhere on a dark, noisy ground, pieces of others beside it.

    Simpler than the pictures of the demo itself, on which a network needs minutes to begin to learn. Float RGB in
    [0, 1], (N, 3, 48, 48); ``boxes`` (N, 4) are those of the digits: x0, y0, x1, y1 in pixels.

    Args:
        split: the hands that the digits come from: ``"train"`` or ``"test"``.
        count: of the pictures.
        seed: picture number ``i`` depends on split, seed and ``i`` alone.

    Raises:
        InputError: another split, or not a single picture.

    """

    def __init__(self, split: str, count: int, seed: int) -> None:
        if split not in ("train", "test") or count < 1:
            raise InputError(f"split is '{split}' and count {count}; expected 'train' or 'test', and at least 1")
        drawn, known = sprites("train" if split == "train" else "test")
        shapes, labels = torch.from_numpy(drawn.copy()).float() / 16, torch.from_numpy(known.copy()).long()
        pictures, boxes = torch.zeros(count, 3, PIXELS, PIXELS), torch.zeros(count, 4)
        chosen = torch.zeros(count, dtype=torch.long)
        for number in range(count):
            rng = np.random.default_rng((seed, split == "test", number))
            digit = int(rng.integers(len(shapes)))
            chosen[number] = labels[digit]
            canvas = torch.full((PIXELS, PIXELS), float(rng.uniform(0.1, 0.3)))
            boxes[number] = box = _paint(canvas, shapes[digit], rng)
            for _ in range(PIECES):
                piece = shapes[int(rng.integers(len(shapes)))].clone()
                piece[:, 4:] = 0  # the left half of a digit: strokes like those of the digits, and no whole one
                _paint(canvas, piece if rng.random() < 0.5 else piece.T, rng, beside=box)
            noise = torch.from_numpy(rng.standard_normal((3, PIXELS, PIXELS)).astype(np.float32))
            pictures[number] = (canvas[None] + NOISE * noise).clamp(0, 1)
        super().__init__(pictures, chosen)
        self.boxes = boxes


def _paint(canvas: Tensor, shape: Tensor, rng: np.random.Generator, beside: Tensor | None = None) -> Tensor:
    """Lay ``shape`` (8, 8) enlarged on the canvas, in place, and return its box; nothing where there is no room."""
    for _ in range(TRIES):
        side = int(rng.integers(SMALLEST, LARGEST + 1))
        top, left = (int(rng.integers(0, PIXELS - side + 1)) for _ in range(2))
        large = F.interpolate(shape[None, None], (side, side), mode="bilinear")[0, 0]
        y, x = ((large.amax(axis) > 0.25).nonzero() for axis in (1, 0))
        box = torch.tensor([left + x.min(), top + y.min(), left + x.max() + 1, top + y.max() + 1]).float()
        if beside is None or bool((box[:2] >= beside[2:]).any() or (box[2:] <= beside[:2]).any()):
            part = canvas[top : top + side, left : left + side]
            part.copy_(torch.maximum(part, float(rng.uniform(0.7, 0.95)) * large))
            return box
    return torch.zeros(4)
