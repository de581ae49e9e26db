"""Horizontal bars with labels and values."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from PIL import Image, ImageDraw

from squeezecam.errors import InputError
from squeezecam.render.parts import LARGE, MAT, NORMAL, RULE, SMALL, canvas, framed, stack
from squeezecam.render.scale import number
from squeezecam.render.text import GRAY, INK, draw_text, line_height, shorten, text_block, text_width

_PLAIN, _MARKED = (96, 125, 167), (224, 83, 64)


def bar_chart(
    bars: Sequence[tuple[str, float]],
    *,
    title: str = "",
    footer: str = "",
    marked: Collection[str] = (),
    value_format: str | None = None,
    limits: tuple[float, float] | None = None,
    width: int = 640,
) -> Image.Image:
    """A bar chart, one bar per ``(label, value)`` in the order given; lengths are from zero, so they compare truly.

    Args:
        bars: labels and values; NaN and infinities are written, without a bar.
        title: what is shown, with its unit and whether higher is better; wrapped to two lines.
        footer: wrapped to four lines.
        marked: labels of bars to be drawn in another colour.
        value_format: a format specification for the values, such as ``".1%"``; None: three significant digits.
        limits: the values at the ends of the axis, for charts that are to be compared; zero is always on it, and longer
            bars are cut there. None: those of the values.
        width: of the chart in pixels.

    Raises:
        InputError: no bars, or limits out of order.
    """
    if not bars:
        raise InputError("no bars for the chart")
    if limits is not None and not limits[0] < limits[1]:
        raise InputError(f"limits must be (lower, higher), got {limits}")
    finite = [value for _, value in bars if math.isfinite(value)]
    low, high = min(0.0, *(limits or finite or [0.0])), max(0.0, *(limits or finite or [0.0]))
    span = (high - low) or 1.0
    written = [format(value, value_format) if value_format else number(value) for _, value in bars]
    label_width = min(max(text_width(label, NORMAL) for label, _ in bars), width * 2 // 5)
    value_width = max(text_width(text, NORMAL) for text in written)
    # Values stand at the bars' ends: to the left of negative ones, so both sides need the room.
    left = label_width + 12 + (value_width + 6 if low < 0 else 0)
    room = max(40, width - left - value_width - 6)
    step, thick = line_height(NORMAL) + 8, line_height(NORMAL)
    image = canvas(left + room + value_width + 6, step * len(bars))
    draw = ImageDraw.Draw(image)
    zero = left + round(-low / span * room)
    for i, ((label, value), text) in enumerate(zip(bars, written, strict=True)):
        top = i * step + (step - thick) // 2
        draw.rectangle((left, top, left + room, top + thick - 1), fill=MAT)
        draw_text(draw, (0, top), shorten(label, label_width, NORMAL), NORMAL, INK)
        end = zero
        if math.isfinite(value):
            end = left + round((min(max(value, low), high) - low) / span * room)
            if end != zero:
                colour = _MARKED if label in marked else _PLAIN
                draw.rectangle((min(zero, end), top, max(zero, end), top + thick - 1), fill=colour)
        x = end - 6 - text_width(text, NORMAL) if value < 0 and math.isfinite(value) else end + 6
        draw_text(draw, (x, top), text, NORMAL, INK)
    draw.line((zero, 0, zero, image.height), fill=RULE)
    blocks = [image]
    if title:
        blocks.insert(0, text_block(title, image.width, LARGE))
    if footer:
        blocks.append(text_block(footer, image.width, SMALL, fill=GRAY, max_lines=4))
    return framed(stack(blocks, gap=10), 16)
