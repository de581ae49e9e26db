"""Figures of one picture: the panel (picture, overlay, native grid, colour bar, words) and the tile; sheets of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from PIL import Image

from squeezecam.errors import InputError
from squeezecam.render.arrays import as_map
from squeezecam.render.colormap import Colours
from squeezecam.render.overlay import Blend, Box, overlay
from squeezecam.render.parts import (
    LARGE,
    MAT,
    NORMAL,
    SMALL,
    canvas,
    covers,
    fit,
    fit_area,
    framed,
    level_bar,
    on_mat,
    outlined,
    row,
    scaled_box,
    stack,
    upright_bar,
)
from squeezecam.render.scale import How, Scale, number, single_scale
from squeezecam.render.text import AMBER, GRAY, INK, text_block


def panel(
    picture: Image.Image,
    heatmap: Any,
    *,
    title: str = "",
    footer: str = "",
    notice: str = "",
    words: str = "",
    raw: Any = None,
    box: Box | None = None,
    scale: How | tuple[float, float] | Scale = "per sample",
    colours: Colours = "heat",
    blend: Blend | None = None,
    alpha: float | None = None,
    size: int = 320,
) -> Image.Image:
    """One explained picture: original and overlay side by side, a colour bar with its numbers, and words around them.

    Args:
        picture: the original picture, of any size; small ones are enlarged pixel by pixel.
        heatmap: (h, w), raw values for the region ``box``.
        title: what was predicted, such as ``"7 digit · 98.2 %"``; wrapped to two lines.
        footer: method and status; wrapped to four lines. A line with the scale is added.
        notice: a doubt that must not be overlooked (a status that is not ``ok``), in another colour.
        words: what the picture is; empty: a picture of so many pixels.
        raw: the map on its native grid (h, w), drawn cell by cell as a third picture; None: left out.
        box: see `squeezecam.render.overlay.overlay`; likewise ``scale``, ``colours``, ``blend`` and ``alpha``.
        size: side in pixels of the square whose area each picture gets.

    Raises:
        InputError: a wrong shape, box or scale.
    """
    used = single_scale(heatmap, scale, signed=colours == "signed")
    shown = fit_area(picture, size)
    place = scaled_box(box, picture, shown)
    laid = overlay(shown, heatmap, box=place, scale=used, colours=colours, blend=blend, alpha=alpha)
    seen = "overlay" if box is None or covers(box, picture) else "overlay · the model saw what is framed"
    parts = [
        _captioned(shown, words or f"picture · {picture.width} x {picture.height} pixels"),
        _captioned(outlined(laid, place), seen),
    ]
    if raw is not None:
        grid = as_map(raw)
        bare = overlay(
            Image.new("RGB", shown.size, MAT), grid, box=place, scale=used, colours=colours, blend="constant",
            alpha=1.0, resample="nearest", dim=1.0,
        )  # fmt: skip
        parts.append(_captioned(bare, f"native grid · {grid.shape[0]} x {grid.shape[1]}"))
    parts.append(upright_bar(used, shown.height, colours))
    body = row(parts, gap=12)
    width = max(body.width, 400)
    blocks = [body]
    if notice:
        blocks.insert(0, text_block(notice, width, NORMAL, fill=AMBER, max_lines=6))
    if title:
        blocks.insert(0, text_block(title, width, LARGE, max_lines=2))
    below = "\n".join(line for line in (footer, used.describe()) if line)
    blocks.append(text_block(below, width, SMALL, fill=GRAY, max_lines=5))
    return framed(stack(blocks, gap=8), 16)


def tile(
    picture: Image.Image,
    heatmap: Any = None,
    *,
    caption: str = "",
    notice: str = "",
    box: Box | None = None,
    scale: How | tuple[float, float] | Scale = "per sample",
    show_scale: bool = True,
    colours: Colours = "heat",
    blend: Blend | None = None,
    alpha: float | None = None,
    size: int = 200,
) -> Image.Image:
    """A small overlay in a square of ``size``, with a caption of up to three lines and the scale's numbers below.

    Without a heatmap it is the picture alone. ``show_scale=False`` leaves the numbers out, for sheets on which one
    colour bar has them. Other arguments and errors as in `panel`.
    """
    shown = fit(picture, size, size)
    numbers = ""
    if heatmap is not None:
        used = single_scale(heatmap, scale, signed=colours == "signed")
        place = scaled_box(box, picture, shown)
        laid = overlay(shown, heatmap, box=place, scale=used, colours=colours, blend=blend, alpha=alpha)
        shown = outlined(laid, place)
        numbers = f"constant {number(used.hi)}" if used.flat else f"{number(used.lo)} to {number(used.hi)}"
    blocks = [on_mat(shown, size, size)]
    if caption:
        blocks.append(text_block(caption, size, SMALL, fill=INK, max_lines=3))
    if notice:
        blocks.append(text_block(notice, size, SMALL, fill=AMBER))
    if numbers and show_scale:
        blocks.append(text_block(numbers, size, SMALL, fill=GRAY, max_lines=1))
    return stack(blocks, gap=4)


def contact_sheet(
    panels: Sequence[Image.Image],
    *,
    columns: int | None = None,
    title: str = "",
    notice: str = "",
    footer: str = "",
    scale: Scale | None = None,
    colours: Colours = "heat",
) -> Image.Image:
    """Panels or tiles in a grid, in reading order, with one colour bar below where they share ``scale``.

    Args:
        panels: pictures of any size; a column is as wide as its widest, a row as high as its highest.
        columns: None: about as wide as high.
        title: wrapped to two lines.
        notice: what must not be overlooked about all panels, in another colour; wrapped to six lines.
        footer: wrapped to four lines.
        scale: the shared scale; None: no bar (each panel has its own).
        colours: the colours of that bar.

    Raises:
        InputError: no panels, no columns, or a sheet too large to be opened.
    """
    if not panels:
        raise InputError("no pictures for the contact sheet")
    if columns is not None and columns < 1:
        raise InputError(f"a contact sheet needs at least one column, got {columns}")
    widest, highest = max(p.width for p in panels), max(p.height for p in panels)
    count = columns or max(1, round(math.sqrt(len(panels) * highest / widest * 1.4)))
    count = min(count, len(panels))
    rows = [panels[start : start + count] for start in range(0, len(panels), count)]
    widths = [max(line[i].width for line in rows if i < len(line)) for i in range(count)]
    gap = 16
    grid = canvas(
        sum(widths) + gap * (count - 1), sum(max(p.height for p in line) for line in rows) + gap * (len(rows) - 1)
    )
    y = 0
    for line in rows:
        for i, part in enumerate(line):
            grid.paste(part, (sum(widths[:i]) + gap * i, y))
        y += max(part.height for part in line) + gap
    width = max(grid.width, 240)
    blocks = [grid]
    if notice:
        blocks.insert(0, text_block(notice, width, NORMAL, fill=AMBER, max_lines=6))
    if title:
        blocks.insert(0, text_block(title, width, LARGE))
    if scale is not None:
        blocks.append(level_bar(scale, min(width, 360), colours))
    words = "\n".join(line for line in (footer, "" if scale is None else scale.describe()) if line)
    if words:
        blocks.append(text_block(words, width, SMALL, fill=GRAY, max_lines=5))
    return framed(stack(blocks, gap=12), 16)


def _captioned(picture: Image.Image, caption: str) -> Image.Image:
    return stack([picture, text_block(caption, max(picture.width, 90), SMALL, fill=GRAY)], gap=4)
