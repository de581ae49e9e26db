"""The strip below the picture: what is shown, its score, the curve over the clip with the present moment, the scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from squeezecam.render.colormap import colour_table
from squeezecam.render.parts import LARGE, MAT, PAPER, RULE, SMALL
from squeezecam.render.scale import Scale, number
from squeezecam.render.text import GRAY, INK, draw_text, line_height, shorten, text_width, wrap

if TYPE_CHECKING:
    from numpy.typing import NDArray

MARGIN = 10
CURVE = 64
NARROWEST = 480
"""Least width in pixels: below, nothing could be read."""
COLOURS = ((208, 70, 52), (58, 104, 168), (60, 140, 96), (150, 96, 176), (176, 128, 40), (96, 96, 96))
NOW = (28, 30, 34)
_BAR = 90


@dataclass(frozen=True)
class Series:
    """One curve: a name, its values ``(n,)`` over the clip (NaN: no value), and the limits of its axis."""

    name: str
    values: NDArray[np.floating]
    limits: tuple[float, float] = (0.0, 1.0)


class Strip:
    """Draws the strip of one frame after another; text and playhead are all that is drawn anew.

    Args:
        width: of the strip, at least ``NARROWEST``.
        seconds: times ``(n,)`` of the frames.
        curves: series drawn in one field, in the colours of the legend.
        footer: what holds for the whole clip (model, method).
        scale: of the heatmaps; its numbers and colours are in the strip. None: no heatmaps belong to it.
        words: leave room for the title and the small line above the curves; without it they begin at the top.

    """

    def __init__(
        self,
        width: int,
        seconds: NDArray[np.floating],
        curves: Sequence[Series],
        *,
        footer: str = "",
        scale: Scale | None = None,
        words: bool = True,
    ) -> None:
        self.seconds, self.curves = seconds, list(curves)
        self._left, self._right = MARGIN + 36, width - MARGIN - 1
        self._words = words
        self._top = MARGIN + (line_height(LARGE) + 2 * line_height(SMALL) + 4 if words else 0)
        bottom = self._top + CURVE
        height = bottom + line_height(SMALL) * (4 if scale is not None else 2) + 14
        self.size = (width, height + height % 2)
        self._base = Image.new("RGB", self.size, PAPER)
        self._bottom = bottom
        self._draw_field(ImageDraw.Draw(self._base))
        if scale is not None:
            self._draw_footer(footer, scale)

    def draw(self, index: int | None, title: str = "", detail: str = "") -> NDArray[np.uint8]:
        """The strip of frame ``index``, ``(height, width, 3)``: a title such as class and score, and a small line.

        Without a frame there is no playhead, and words are drawn only where there is room for them.
        """
        image = self._base.copy()
        draw = ImageDraw.Draw(image)
        inside = self.size[0] - 2 * MARGIN
        if self._words:
            draw_text(draw, (MARGIN, MARGIN - 4), shorten(title, inside, LARGE), LARGE, INK)
        for row, line in enumerate(wrap(detail, inside, SMALL, 2) if self._words else []):
            y = MARGIN - 4 + line_height(LARGE) + row * line_height(SMALL)
            draw_text(draw, (MARGIN, y), line, SMALL, GRAY)
        if index is None:
            return np.asarray(image)
        x = self._place(float(self.seconds[index]))
        draw.line((x, self._top, x, self._bottom), fill=NOW)
        for series, colour in zip(self.curves, _colours(len(self.curves)), strict=True):
            value = float(series.values[index])
            if np.isfinite(value):
                y = self._level(value, series.limits)
                draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour, outline=PAPER)
        return np.asarray(image)

    def _place(self, seconds: float) -> int:
        first, last = float(self.seconds[0]), float(self.seconds[-1])
        share = (seconds - first) / (last - first) if last > first else 0.0
        return round(self._left + share * (self._right - self._left))

    def _level(self, value: float, limits: tuple[float, float]) -> int:
        share = (min(max(value, limits[0]), limits[1]) - limits[0]) / (limits[1] - limits[0])
        return round(self._bottom - 1 - share * (CURVE - 2))

    def _draw_field(self, draw: ImageDraw.ImageDraw) -> None:
        draw.rectangle((self._left, self._top, self._right, self._bottom), fill=MAT, outline=RULE)
        low, high = self.curves[0].limits if self.curves else (0.0, 1.0)
        for value, y in ((high, self._top - 2), (low, self._bottom - line_height(SMALL) + 2)):
            text = number(value)
            draw_text(draw, (self._left - 5 - text_width(text, SMALL), y), text, SMALL, GRAY)
        if low < 0 < high:
            y = self._level(0.0, (low, high))
            draw.line((self._left, y, self._right, y), fill=RULE)
        # At most a few points per pixel column are drawn, so that an hour is no slower than a second.
        step = max(1, len(self.seconds) // (4 * self.size[0]))
        chosen = range(0, len(self.seconds), step)
        for series, colour in zip(self.curves, _colours(len(self.curves)), strict=True):
            run: list[tuple[int, int]] = []
            for i in chosen:
                value = float(series.values[i])
                if not np.isfinite(value):
                    _polyline(draw, run, colour)
                    run = []
                    continue
                run.append((self._place(float(self.seconds[i])), self._level(value, series.limits)))
            _polyline(draw, run, colour)
        y = self._bottom + 3
        begin, end = f"{float(self.seconds[0]):.1f} s", f"{float(self.seconds[-1]):.1f} s"
        draw_text(draw, (self._left, y), begin, SMALL, GRAY)
        draw_text(draw, (self._right - text_width(end, SMALL), y), end, SMALL, GRAY)
        x, y = MARGIN, y + line_height(SMALL) + 2
        for series, colour in zip(self.curves, _colours(len(self.curves)), strict=True):
            draw.rectangle((x, y + 5, x + 9, y + 9), fill=colour)
            name = shorten(series.name, max(40, self._right - x - 20), SMALL)
            draw_text(draw, (x + 14, y), name, SMALL, INK)
            x += 30 + text_width(name, SMALL)

    def _draw_footer(self, footer: str, scale: Scale) -> None:
        draw = ImageDraw.Draw(self._base)
        y = self._bottom + 2 * line_height(SMALL) + 7
        draw_text(draw, (MARGIN, y), shorten(footer, self.size[0] - 2 * MARGIN, SMALL), SMALL, GRAY)
        y += line_height(SMALL)
        table = colour_table()[np.linspace(0, 255, _BAR).astype(np.intp)]
        self._base.paste(Image.fromarray(np.repeat(table[None], 9, axis=0)), (MARGIN, y + 4))
        draw_text(draw, (MARGIN + _BAR + 8, y), scale.describe(), SMALL, GRAY)


def _colours(count: int) -> list[tuple[int, int, int]]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def _polyline(draw: ImageDraw.ImageDraw, points: list[tuple[int, int]], colour: tuple[int, int, int]) -> None:
    if len(points) == 1:
        draw.point(points, fill=colour)
    elif points:
        draw.line(points, fill=colour, width=2)


def compose(
    pictures: Sequence[NDArray[np.uint8]], strip: NDArray[np.uint8] | None, size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Pictures side by side, centred over the strip, on a canvas of ``size`` (width, height)."""
    canvas = np.full((size[1], size[0], 3), 24, np.uint8)
    wide = sum(picture.shape[1] for picture in pictures)
    x = (size[0] - wide) // 2
    for picture in pictures:
        canvas[: picture.shape[0], x : x + picture.shape[1]] = picture
        x += picture.shape[1]
    if strip is not None:
        canvas[size[1] - strip.shape[0] :, : strip.shape[1]] = strip
    return canvas
