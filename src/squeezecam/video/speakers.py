"""Faces on a frame: the map inside each box, a frame around it in the colour of the verdict, the score above."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from squeezecam.render.parts import NORMAL
from squeezecam.render.scale import Scale
from squeezecam.render.text import draw_text, line_height, text_width
from squeezecam.video.paint import Painter
from squeezecam.video.reading import Frame
from squeezecam.video.tracks import FaceTrack

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPEAKS, SILENT = (46, 160, 67), (150, 154, 160)


class SpeakerPainter:
    """Draws the maps of several faces on one scale."""

    def __init__(self, faces: Sequence[FaceTrack], scale: Scale) -> None:
        self.faces, self.scale = faces, scale

    def __call__(self, frame: Frame, shown: Sequence[tuple[int, NDArray[np.float32], float]]) -> NDArray[np.uint8]:
        """A new frame; ``shown`` holds, per face, its number, its map ``(h, w)`` and the probability that it speaks."""
        pixels = frame.pixels.copy()
        height, width = pixels.shape[:2]
        for index, heat, _ in shown:
            box = self.faces[index].box(frame.index)
            if box is not None and box[0] < width and box[1] < height and box[2] > 0 and box[3] > 0:
                painter = Painter((width, height), (heat.shape[0], heat.shape[1]), self.scale, box, dim=1.0)
                pixels = painter(pixels, heat)
        image = Image.fromarray(pixels)
        draw = ImageDraw.Draw(image)
        for index, _, probability in shown:
            box = self.faces[index].box(frame.index)
            if box is None:
                continue
            colour = SPEAKS if probability > 0.5 else SILENT
            draw.rectangle([round(edge) for edge in box], outline=colour, width=3)
            text = f"{self.faces[index].name} {probability:.0%}"
            x = min(max(round(box[0]), 0), max(0, width - text_width(text, NORMAL) - 8))
            y = max(0, round(box[1]) - line_height(NORMAL) - 2)
            draw.rectangle((x, y, x + text_width(text, NORMAL) + 8, y + line_height(NORMAL)), fill=colour)
            draw_text(draw, (x + 4, y + 1), text, NORMAL, (255, 255, 255))
        return np.asarray(image)
