"""What is drawn in the pictures of the embedded default: enlarged digits, and clutter as bold as they are.

All of it is "ink": float32 (h, w) in [0, 1], how much of each pixel is covered, cut to the covered pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Floats = NDArray[np.float32]
Stroke = list[tuple[float, float]]

_SUPER = 4  # clutter is drawn this many times larger and averaged down: smooth edges


def digit_ink(rng: np.random.Generator, sprite: NDArray[np.uint8], size: float) -> Floats:
    """Enlarge an 8x8 sprite (0 to 16) smoothly to about ``size`` pixels, turned by up to 15 degrees."""
    return _enlarge(rng, sprite, size, 15.0)


def clutter_ink(rng: np.random.Generator, kind: str, sprites: NDArray[np.uint8], size: float) -> Floats:
    """Draw one distractor of about ``size`` pixels.

    Args:
        rng: where chance comes from.
        kind: one of ``CLUTTER``.
        sprites: digits, (M, 8, 8) from 0 to 16: one of them is cut for the kind "pieces".
        size: in pixels.
    """
    if kind == "pieces":
        return _pieces(rng, sprites[rng.integers(len(sprites))], size)
    return _stroked(_SHAPES[kind], rng, size)


def _enlarge(rng: np.random.Generator, sprite: NDArray[np.uint8], size: float, turn: float) -> Floats:
    padded = np.pad(sprite.astype(np.float32) / 16, 2)
    angle = np.deg2rad(rng.uniform(-turn, turn))
    step_x, step_y = 8 / (size * rng.uniform(0.85, 1.15)), 8 / size  # sprite pixels per picture pixel
    side, centre = int(size * 1.6), padded.shape[0] / 2
    rows = np.array(
        [[np.cos(angle) * step_x, np.sin(angle) * step_x], [-np.sin(angle) * step_y, np.cos(angle) * step_y]]
    )
    shift = centre - rows.sum(1) * side / 2
    affine = (rows[0, 0], rows[0, 1], shift[0], rows[1, 0], rows[1, 1], shift[1])
    smooth = Image.fromarray(padded).transform(
        (side, side), Image.Transform.AFFINE, affine, resample=Image.Resampling.BICUBIC
    )
    return _tight(np.clip((np.asarray(smooth) - 0.42) / 0.3, 0, 1))


def _tight(ink: Floats) -> Floats:
    """Cut to the box of the pixels that count as covered, so that a digit's box is that of its mask."""
    covered = ink > 0.5
    rows, columns = np.flatnonzero(covered.any(1)), np.flatnonzero(covered.any(0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _pieces(rng: np.random.Generator, sprite: NDArray[np.uint8], size: float) -> Floats:
    """A digit cut into quarters, each turned and put elsewhere: its strokes without its shape."""
    quarters = [sprite[r : r + 4, c : c + 4] for r in (4, 0) for c in (4, 0)]
    turned = [np.rot90(quarter, int(rng.integers(1, 4))) for quarter in quarters]
    return _enlarge(rng, np.block([turned[:2], turned[2:]]), size, 45.0)


def _stroked(shape: Callable[[np.random.Generator], list[Stroke]], rng: np.random.Generator, size: float) -> Floats:
    """Draw the strokes of a shape in the unit square, turned at random, as bold as a digit's."""
    side = int(size)
    canvas = Image.new("L", (side * _SUPER, side * _SUPER))
    pen = ImageDraw.Draw(canvas)
    width = rng.uniform(0.1, 0.18) * side * _SUPER
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    for stroke in shape(rng):
        points = ((np.array(stroke) - 0.5) @ turn * 0.8 + 0.5) * side * _SUPER
        pen.line([(float(px), float(py)) for px, py in points], fill=255, width=int(width), joint="curve")
        for px, py in points[[0, -1]]:
            pen.ellipse((px - width / 2, py - width / 2, px + width / 2, py + width / 2), fill=255)
    return _tight(np.asarray(canvas.reduce(_SUPER), dtype=np.float32) / np.float32(255))


def _circle(radius: float) -> Stroke:
    return [(0.5 + radius * np.cos(a), 0.5 + radius * np.sin(a)) for a in np.linspace(0, 2 * np.pi, 25)]


def _ring(rng: np.random.Generator) -> list[Stroke]:
    return [_circle(0.45), _circle(rng.uniform(0.02, 0.12))]


def _bars(rng: np.random.Generator) -> list[Stroke]:
    return [[(0.05, y), (0.95, y)] for y in np.linspace(0.2, 0.8, rng.integers(2, 4))]


def _cross(rng: np.random.Generator) -> list[Stroke]:
    middle = rng.uniform(0.35, 0.65)
    return [[(0.05, middle), (0.95, middle)], [(0.5, 0.05), (0.5, 0.95)]]


def _polygon(rng: np.random.Generator) -> list[Stroke]:
    angles = np.linspace(0, 2 * np.pi, int(rng.integers(3, 5)) + 1)
    return [[(0.5 + 0.48 * np.cos(a), 0.5 + 0.48 * np.sin(a)) for a in angles]]


def _zigzag(rng: np.random.Generator) -> list[Stroke]:
    return [[(x, rng.uniform(0, 0.35) + 0.65 * (i % 2)) for i, x in enumerate(np.linspace(0, 1, rng.integers(5, 8)))]]


def _scribble(rng: np.random.Generator) -> list[Stroke]:
    phase = rng.uniform(0, 2 * np.pi, 2)
    turns = rng.uniform(1.8, 2.4), rng.uniform(2.7, 3.4)  # enough crossings not to pass for a 0 or an 8
    t = np.linspace(0, 2 * np.pi, 60)
    return [
        list(
            zip(0.5 + 0.45 * np.sin(turns[0] * t + phase[0]), 0.5 + 0.45 * np.sin(turns[1] * t + phase[1]), strict=True)
        )
    ]


def _dots(rng: np.random.Generator) -> list[Stroke]:
    return [[(px, py), (px + 0.01, py)] for px, py in rng.uniform(0.05, 0.95, (int(rng.integers(4, 8)), 2))]


_SHAPES: dict[str, Callable[[np.random.Generator], list[Stroke]]] = {
    "ring": _ring,
    "bars": _bars,
    "cross": _cross,
    "polygon": _polygon,
    "zigzag": _zigzag,
    "scribble": _scribble,
    "dots": _dots,
}
CLUTTER = ("pieces", *_SHAPES)
