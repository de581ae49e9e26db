"""Methods side by side: a grid with pictures as rows and methods as columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from PIL import Image, ImageDraw

from squeezecam.errors import InputError
from squeezecam.render.colormap import Colours
from squeezecam.render.figure import tile
from squeezecam.render.overlay import Blend, Box
from squeezecam.render.parts import LARGE, MAT, NORMAL, RULE, SMALL, canvas, framed, level_bar, row, stack
from squeezecam.render.scale import Scale, find_scale
from squeezecam.render.text import AMBER, GRAY, INK, text_block

GridScale = Literal["per map", "row", "column", "shared"]

_WORDS = {
    "per map": "scale per map: each has its own, the numbers are below it",
    "row": "one scale per row, the numbers are below each map",
    "column": "one scale per column, the numbers are below each map",
}


def comparison_grid(
    pictures: Sequence[Image.Image],
    maps: Sequence[Sequence[Any]],
    *,
    column_labels: Sequence[str],
    row_labels: Sequence[str] | None = None,
    captions: Sequence[Sequence[str]] | None = None,
    boxes: Sequence[Box | None] | None = None,
    scale: GridScale | tuple[float, float] | Scale = "per map",
    colours: Colours = "heat",
    blend: Blend | None = None,
    alpha: float | None = None,
    size: int = 168,
    title: str = "",
    notice: str = "",
    footer: str = "",
) -> Image.Image:
    """Compare maps: one row per picture, the picture itself first, then one overlay per column.

    Args:
        pictures: the original pictures, one per row.
        maps: per row, one raw map (h, w) per column; None where there is none, which is shown as such.
        column_labels: names of the columns, such as methods.
        row_labels: names of the rows, such as predictions.
        captions: per row and column, a line below the map, such as ``"1.02 forwards"``.
        boxes: per row, what the network saw; see `squeezecam.render.overlay.overlay`.
        scale: ``per map`` (methods differ in unit, so this is the default), ``row``, ``column``, ``shared`` (one scale
            for all), ``(lo, hi)`` or a `Scale`. The numbers are always on the figure.
        colours: see `squeezecam.render.overlay.overlay`; likewise ``blend`` and ``alpha``.
        size: side of each picture's square in pixels.
        title: wrapped to two lines.
        notice: what must not be overlooked, in another colour; wrapped to eight lines.
        footer: wrapped to four lines.

    Raises:
        InputError: numbers of rows or columns that do not match.
    """
    _check(pictures, maps, column_labels, row_labels, captions, boxes)
    scales = _scales(maps, scale, signed=colours == "signed")
    single = scale == "shared" or not isinstance(scale, str)
    gap = 10
    label_width = 104 if row_labels else 0
    header = [canvas(label_width, 1)] if row_labels else []
    header += [text_block(label, size, NORMAL, max_lines=2, centred=True) for label in ("picture", *column_labels)]
    lines = [row(header, gap, align="bottom")]
    for i, picture in enumerate(pictures):
        cells = [text_block(row_labels[i], label_width, NORMAL, max_lines=6)] if row_labels else []
        cells.append(tile(picture, size=size))
        for j, heatmap in enumerate(maps[i]):
            used, caption = scales[i][j], captions[i][j] if captions else ""
            if used is None:
                cells.append(_missing(size, caption))
                continue
            cells.append(
                tile(
                    picture,
                    heatmap,
                    caption=caption,
                    box=boxes[i] if boxes else None,
                    scale=used,
                    show_scale=not single,
                    colours=colours,
                    blend=blend,
                    alpha=alpha,
                    size=size,
                )
            )
        lines.append(row(cells, gap))
    grid = stack(lines, gap=gap)
    known = [used for line in scales for used in line if used is not None]
    common = known[0] if single and known else None
    words = _WORDS[scale] if isinstance(scale, str) and scale in _WORDS else common.describe() if common else ""
    blocks = [grid, level_bar(common, min(grid.width, 320), colours)]
    if notice:
        blocks.insert(0, text_block(notice, grid.width, NORMAL, fill=AMBER, max_lines=8))
    if title:
        blocks.insert(0, text_block(title, grid.width, LARGE))
    blocks.append(
        text_block("\n".join(line for line in (words, footer) if line), grid.width, SMALL, fill=GRAY, max_lines=5)
    )
    return framed(stack(blocks, gap=12), 16)


def _scales(
    maps: Sequence[Sequence[Any]], scale: GridScale | tuple[float, float] | Scale, *, signed: bool
) -> list[list[Scale | None]]:
    def of(group: Sequence[Any], how: Any) -> Scale | None:
        there = [heatmap for heatmap in group if heatmap is not None]
        return find_scale(there, how, signed=signed) if there else None

    if scale == "per map":
        chosen = [[of([heatmap], "per sample") for heatmap in line] for line in maps]
    elif scale == "row":
        chosen = [[of(line, "shared")] * len(line) for line in maps]
    elif scale == "column":
        chosen = [[of(column, "shared") for column in zip(*maps, strict=True)] for _ in maps]
    else:
        chosen = [[of([heatmap for line in maps for heatmap in line], scale)] * len(line) for line in maps]
    return [
        [None if heatmap is None else used for heatmap, used in zip(line, row_scales, strict=True)]
        for line, row_scales in zip(maps, chosen, strict=True)
    ]


def _missing(size: int, caption: str) -> Image.Image:
    field = canvas(size, size, MAT)
    ImageDraw.Draw(field).rectangle((0, 0, size - 1, size - 1), outline=RULE)
    words = text_block("no map", size - 2, SMALL, fill=GRAY, centred=True, background=MAT)
    field.paste(words, (1, (size - words.height) // 2))
    return stack([field, text_block(caption, size, SMALL, fill=INK)], gap=4) if caption else field


def _check(
    pictures: Sequence[Image.Image],
    maps: Sequence[Sequence[Any]],
    column_labels: Sequence[str],
    row_labels: Sequence[str] | None,
    captions: Sequence[Sequence[str]] | None,
    boxes: Sequence[Box | None] | None,
) -> None:
    if not pictures or not column_labels:
        raise InputError("a comparison needs at least one picture and one column")
    rows, columns = len(pictures), len(column_labels)
    for name, given in (("maps", maps), ("row_labels", row_labels), ("captions", captions), ("boxes", boxes)):
        if given is not None and len(given) != rows:
            raise InputError(f"{name} has {len(given)} rows for {rows} pictures")
    for name, table in (("maps", maps), ("captions", captions)):
        for i, line in enumerate(table or ()):
            if len(line) != columns:
                raise InputError(f"row {i} of {name} has {len(line)} entries for {columns} columns")
