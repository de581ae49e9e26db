"""Parts that figures are put together from: fitted pictures, colour bars, rows and stacks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from squeezecam.errors import InputError
from squeezecam.render.colormap import Colours, colour_table
from squeezecam.render.scale import Scale, number
from squeezecam.render.text import GRAY, INK, draw_text, line_height, text_width

PAPER, MAT, RULE = (255, 255, 255), (241, 242, 244), (200, 203, 208)
SMALL, NORMAL, LARGE = 12, 14, 20
BAR = 14

# Up to this many pixels a picture is enlarged pixel by pixel: smoothing it would show what is not there.
_PIXELATED = 128
_MAX_CANVAS = 150_000_000


def canvas(width: int, height: int, colour: tuple[int, int, int] = PAPER) -> Image.Image:
    """An empty figure.

    Raises:
        InputError: more pixels than a viewer opens.
    """
    if width * height > _MAX_CANVAS:
        raise InputError(f"the figure would have {width} x {height} pixels; put fewer pictures on it, or smaller ones")
    return Image.new("RGB", (width, height), colour)


def fit(picture: Image.Image, width: int, height: int) -> Image.Image:
    """Bring a picture to at most ``width`` x ``height``, its aspect kept; very small ones are enlarged by pixels."""
    factor = min(width / picture.width, height / picture.height)
    if factor >= 2 and max(picture.size) <= _PIXELATED:
        whole = int(factor)
        return picture.convert("RGB").resize((picture.width * whole, picture.height * whole), Image.Resampling.NEAREST)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def fit_area(picture: Image.Image, side: int) -> Image.Image:
    """Bring a picture to the area of a square of ``side``, no side longer than twice that: wide ones keep detail."""
    aspect = math.sqrt(picture.width / picture.height)
    width, height = min(side * aspect, 2 * side), min(side / aspect, 2 * side)
    return fit(picture, math.ceil(width), math.ceil(height))


def scaled_box(
    box: tuple[float, float, float, float] | None, picture: Image.Image, shown: Image.Image
) -> tuple[float, float, float, float] | None:
    """A box in pixels of ``picture`` in pixels of ``shown``, which is the same picture at another size."""
    if box is None:
        return None
    across, down = shown.width / picture.width, shown.height / picture.height
    return box[0] * across, box[1] * down, box[2] * across, box[3] * down


def outlined(picture: Image.Image, box: tuple[float, float, float, float] | None) -> Image.Image:
    """The picture with a thin frame along the box, where that leaves something out."""
    if box is None or covers(box, picture):
        return picture
    x0, y0 = (max(0, round(edge)) for edge in box[:2])
    x1, y1 = min(picture.width, round(box[2])) - 1, min(picture.height, round(box[3])) - 1
    framed_picture = picture.copy()
    if x1 > x0 and y1 > y0:
        draw = ImageDraw.Draw(framed_picture)
        draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=INK)  # dark and light: seen on any picture
        draw.rectangle((x0, y0, x1, y1), outline=PAPER)
    return framed_picture


def covers(box: tuple[float, float, float, float], picture: Image.Image) -> bool:
    """Whether the whole picture lies in the box, up to a hundredth of a pixel."""
    left, top, right, bottom = box
    return max(left, top) <= 0.01 and right >= picture.width - 0.01 and bottom >= picture.height - 0.01


def on_mat(picture: Image.Image, width: int, height: int) -> Image.Image:
    """The picture in the middle of a light field."""
    field = canvas(width, height, MAT)
    field.paste(picture, ((width - picture.width) // 2, (height - picture.height) // 2))
    return field


def row(parts: Sequence[Image.Image], gap: int, align: Literal["top", "bottom"] = "top") -> Image.Image:
    """Side by side."""
    height = max(part.height for part in parts)
    image = canvas(sum(part.width for part in parts) + gap * (len(parts) - 1), height)
    x = 0
    for part in parts:
        image.paste(part, (x, 0 if align == "top" else height - part.height))
        x += part.width + gap
    return image


def stack(parts: Sequence[Image.Image], gap: int = 0) -> Image.Image:
    """One below the other, left edges in line."""
    image = canvas(max(part.width for part in parts), sum(part.height for part in parts) + gap * (len(parts) - 1))
    y = 0
    for part in parts:
        image.paste(part, (0, y))
        y += part.height + gap
    return image


def framed(image: Image.Image, margin: int) -> Image.Image:
    """With an empty margin around it."""
    paper = canvas(image.width + 2 * margin, image.height + 2 * margin)
    paper.paste(image, (margin, margin))
    return paper


def upright_bar(scale: Scale, height: int, colours: Colours) -> Image.Image:
    """A vertical colour bar, hottest at the top, with its numbers."""
    line = line_height(SMALL)
    height = max(height, 2 * line)  # beside very flat pictures: as high as its numbers
    ticks = [tick for tick in _ticks(scale) if tick[0] != 0.5 or scale.flat or height >= 4 * line]
    image = canvas(BAR + 8 + max(text_width(text, SMALL) for _, text in ticks), height)
    table = _bar_colours(scale, height - 2, colours)[::-1]
    strip = Image.fromarray(np.repeat(table[:, None], BAR - 2, axis=1))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, BAR - 1, height - 1), outline=RULE)
    image.paste(strip, (1, 1))
    for place, text in ticks:
        y = round((1 - place) * (height - 1))
        draw.line((BAR, y, BAR + 3, y), fill=GRAY)
        top = min(max(y - line // 2, -2), height - line + 1)
        draw_text(draw, (BAR + 7, top), text, SMALL, INK)
    return image


def level_bar(scale: Scale | None, width: int, colours: Colours) -> Image.Image:
    """A horizontal colour bar, hottest at the right; without a scale it says ``lowest`` and ``highest``."""
    ticks = [(0.0, "lowest"), (1.0, "highest")] if scale is None else _ticks(scale)
    image = canvas(width, BAR + 5 + line_height(SMALL))
    table = _bar_colours(scale, width - 2, colours)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, width - 1, BAR - 1), outline=RULE)
    image.paste(Image.fromarray(np.repeat(table[None], BAR - 2, axis=0)), (1, 1))
    for place, text in ticks:
        x, wide = place * (width - 1), text_width(text, SMALL)
        draw.line((x, BAR, x, BAR + 3), fill=GRAY)
        draw_text(draw, (min(max(x - wide / 2, 0), width - wide), BAR + 5), text, SMALL, INK)
    return image


def _ticks(scale: Scale) -> list[tuple[float, str]]:
    if scale.flat:
        return [(0.5, number(scale.hi))]
    return [(0.0, number(scale.lo)), (0.5, number((scale.lo + scale.hi) / 2)), (1.0, number(scale.hi))]


def _bar_colours(scale: Scale | None, length: int, colours: Colours) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    table = colour_table(colours)
    places = np.linspace(0, 1, max(length, 1))
    if scale is not None and scale.flat:
        places = np.full_like(places, 0.5 if scale.signed else 0.0)
    return table[np.rint(places * (len(table) - 1)).astype(np.intp)]
