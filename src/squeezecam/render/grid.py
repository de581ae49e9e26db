"""The native grid of a feature map, drawn over the picture that it was made from."""

from __future__ import annotations

from PIL import Image, ImageDraw

from squeezecam.render.parts import LARGE, SMALL, framed, scaled_box, stack
from squeezecam.render.text import GRAY, text_block

Box = tuple[float, float, float, float]
LINE, EDGE = (255, 255, 0), (0, 0, 0)
SMALLEST, LARGEST = 480, 1024
"""Longer side of the picture in the panel: small pictures are enlarged, pixel by pixel, so that cells can be seen."""


def lines_over(picture: Image.Image, rows: int, columns: int, box: Box | None = None) -> Image.Image:
    """A copy of ``picture`` with the lines of ``rows`` x ``columns`` cells.

    ``box`` (x0, y0, x1, y1) in pixels is the part that the cells cover, None for all of it; what lies outside is
    dimmed.
    Every line is bright with a dark edge where cells are wide enough, so that it is seen on any picture.
    """
    drawn = picture.convert("RGB")
    width, height = drawn.size
    x0, y0, x1, y1 = box or (0, 0, width, height)
    if box is not None:
        left, top = round(max(x0, 0)), round(max(y0, 0))
        inside = (left, top, round(min(x1, width)), round(min(y1, height)))
        dimmed = Image.blend(drawn, Image.new("RGB", drawn.size, (128, 128, 128)), 0.6)
        dimmed.paste(drawn.crop(inside), (left, top))
        drawn = dimmed
    pen = ImageDraw.Draw(drawn)
    across = [((x0 + (x1 - x0) * i / columns, y0), (x0 + (x1 - x0) * i / columns, y1)) for i in range(1, columns)]
    down = [((x0, y0 + (y1 - y0) * i / rows), (x1, y0 + (y1 - y0) * i / rows)) for i in range(1, rows)]
    if min((x1 - x0) / columns, (y1 - y0) / rows) >= 12:
        for line in (*across, *down):
            pen.line(line, fill=EDGE, width=3)
    for line in (*across, *down):
        pen.line(line, fill=LINE)
    return drawn


def grid_panel(
    picture: Image.Image, rows: int, columns: int, *, box: Box | None = None, title: str = "", footer: str = ""
) -> Image.Image:
    """The picture with the cells over it, large enough to be seen, under a title and over a footer."""
    factor = max(1.0, SMALLEST / max(picture.size)) if max(picture.size) < LARGEST else LARGEST / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    how = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS
    shown = picture.convert("RGB").resize(size, how)
    place = None if box is None else scaled_box(box, picture, shown)
    body = lines_over(shown, rows, columns, place)
    width = max(body.width, 360)
    blocks = [text_block(title, width, LARGE, max_lines=2)] if title else []
    blocks.append(body)
    if footer:
        blocks.append(text_block(footer, width, SMALL, fill=GRAY, max_lines=6))
    return framed(stack(blocks, gap=8), 16)
