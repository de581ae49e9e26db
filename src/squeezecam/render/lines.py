"""Lines over named steps, each with its label."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

from PIL import Image, ImageDraw

from squeezecam.errors import InputError
from squeezecam.render.parts import LARGE, MAT, PAPER, RULE, SMALL, canvas, framed, stack
from squeezecam.render.text import GRAY, INK, draw_text, line_height, shorten, text_block, text_width

# Okabe and Ito's colours, which people who see few colours can tell apart; black is left to the text.
_COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (230, 159, 0), (150, 120, 20))
_DRAWN = 2  # everything is drawn twice as large and made smaller: Pillow's lines have rough edges


def line_chart(
    lines: Mapping[str, Sequence[float]],
    steps: Sequence[str],
    *,
    title: str = "",
    footer: str = "",
    limits: tuple[float, float] = (0.0, 1.0),
    quiet: Collection[str] = (),
    width: int = 900,
    height: int = 340,
) -> Image.Image:
    """A chart of one line per entry of ``lines``, labelled at its right end.

    Args:
        lines: a value for each step, by label; NaN leaves a gap.
        steps: names of the steps, written below the axis, longer ones shortened.
        title: what is shown; wrapped to two lines.
        footer: wrapped to four lines.
        limits: of the upright axis; values beyond are drawn at the edge.
        quiet: labels of lines to be drawn in gray, dashed: what the others are compared with.
        width: of the whole chart in pixels.
        height: of the field in pixels.

    Raises:
        InputError: no lines, lines without a value per step, or limits out of order.
    """
    if not lines or not steps or any(len(values) != len(steps) for values in lines.values()):
        raise InputError(f"a chart needs lines with a value for each of the {len(steps)} steps")
    low, high = limits
    if not low < high:
        raise InputError(f"limits must be (lower, higher), got {limits}")
    line = line_height(SMALL)
    label_width = min(width // 3, max(text_width(label, SMALL) for label in lines))
    left, right = text_width("-0.00", SMALL) + 8, label_width + 22
    room = width - left - right
    top = line // 2 + 1
    columns = [left + round((i + 0.5) * room / len(steps)) for i in range(len(steps))]

    def y_of(value: float) -> float:
        return top + (high - min(max(value, low), high)) / (high - low) * height

    image = canvas(width, top + height + 2 * line + 10)
    field = Image.new("RGB", (width * _DRAWN, image.height * _DRAWN), PAPER)
    draw = ImageDraw.Draw(field)

    def at(x: float, y: float) -> tuple[float, float]:
        return x * _DRAWN, y * _DRAWN

    draw.rectangle((*at(left, top), *at(left + room, top + height)), fill=MAT)
    step = 0.25 if high - low <= 1.5 else 0.5 if high - low <= 3 else (high - low) / 4
    marks = [low + step * i for i in range(math.floor((high - low) / step + 1e-9) + 1)]
    for mark in marks:
        draw.line((*at(left, y_of(mark)), *at(left + room, y_of(mark))), fill=RULE, width=_DRAWN)
    colours = _assigned(lines, quiet)
    for label in sorted(lines, key=lambda name: name not in quiet):  # gray ones below the others
        points = [(x, y_of(v)) if math.isfinite(v) else None for x, v in zip(columns, lines[label], strict=True)]
        _draw_line(draw, points, colours[label], label in quiet)
    image.paste(field.resize(image.size, Image.Resampling.LANCZOS))
    draw = ImageDraw.Draw(image)
    for mark in marks:
        text = f"{mark:.2f}"
        draw_text(draw, (left - 6 - text_width(text, SMALL), y_of(mark) - line / 2), text, SMALL, GRAY)
    for i, (x, name) in enumerate(zip(columns, steps, strict=True)):
        text = shorten(name, max(24, 2 * room // len(steps) - 8), SMALL)
        place = min(max(x - text_width(text, SMALL) / 2, 0), width - text_width(text, SMALL))
        draw_text(draw, (place, top + height + 6 + (i % 2) * line), text, SMALL, INK)  # neighbours on two rows
    ends = {label: _last(values) for label, values in lines.items()}
    for label, y in _apart(
        {k: y_of(v) if v is not None else top + height for k, v in ends.items()}, line, top + height
    ):
        x = left + room + 6
        draw.line((x, y, x + 10, y), fill=colours[label], width=3)
        draw_text(draw, (x + 14, y - line / 2), shorten(label, label_width, SMALL), SMALL, INK)
    blocks = [image]
    if title:
        blocks.insert(0, text_block(title, width, LARGE))
    if footer:
        blocks.append(text_block(footer, width, SMALL, fill=GRAY, max_lines=4))
    return framed(stack(blocks, gap=10), 16)


def _assigned(lines: Mapping[str, Sequence[float]], quiet: Collection[str]) -> dict[str, tuple[int, int, int]]:
    loud = [label for label in lines if label not in quiet]
    colours = {label: _COLOURS[i % len(_COLOURS)] for i, label in enumerate(loud)}
    return {label: colours.get(label, (150, 153, 158)) for label in lines}


def _draw_line(
    draw: ImageDraw.ImageDraw,
    points: Sequence[tuple[float, float] | None],
    colour: tuple[int, int, int],
    dashed: bool,
) -> None:
    for a, b in pairwise(points):
        if a is None or b is None:
            continue
        pieces = 9 if dashed else 1
        for piece in range(0, pieces, 2):
            ends = [
                (_DRAWN * (a[0] + (b[0] - a[0]) * t), _DRAWN * (a[1] + (b[1] - a[1]) * t))
                for t in (piece / pieces, (piece + 1) / pieces)
            ]
            draw.line((*ends[0], *ends[1]), fill=colour, width=2 * _DRAWN)
    radius = 3 * _DRAWN
    for point in points:
        if point is not None:
            x, y = point[0] * _DRAWN, point[1] * _DRAWN
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _last(values: Sequence[float]) -> float | None:
    return next((value for value in reversed(values) if math.isfinite(value)), None)


def _apart(places: Mapping[str, float], step: int, lowest: float) -> list[tuple[str, float]]:
    """Labels from top to bottom, pushed apart where their lines end together."""
    order = sorted(places.items(), key=lambda item: item[1])
    found: list[float] = []
    for _, y in order:
        found.append(max(y, found[-1] + step) if found else y)
    for i in range(len(found) - 1, -1, -1):
        found[i] = min(found[i], lowest if i == len(found) - 1 else found[i + 1] - step)
    return [(label, y) for (label, _), y in zip(order, found, strict=True)]
