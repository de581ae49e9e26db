"""The second pass: native maps from the spool on the frames, the strip below, the sound beside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from squeezecam.video.progress import Advance
from squeezecam.video.reading import ClipInfo, Frame, read_frames
from squeezecam.video.strip import NARROWEST, Series, Strip, compose
from squeezecam.video.writing import ClipWriter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from squeezecam.render.scale import Scale

Draw = Callable[[Frame], "NDArray[np.uint8]"]
"""Lays whatever belongs to a frame on its pixels; a new array."""
Words = Callable[[int], tuple[str, str]]
"""Title and small line of the strip for the frame with that number."""


@dataclass
class Seconds:
    """Where the time went, so that decoding and encoding can be told from the model's own work."""

    spent: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, since: float) -> float:
        """Book the time since ``since`` under ``name``; returns now."""
        now = time.perf_counter()
        self.spent[name] = self.spent.get(name, 0.0) + now - since
        return now


def canvas_size(size: tuple[int, int], pictures: int, strip: int) -> tuple[int, int]:
    """Width and height, both even, of a canvas for pictures of ``size`` side by side over a strip ``strip`` high."""
    width = max(size[0] * pictures, NARROWEST)
    height = size[1] + size[1] % 2 + strip
    return width + width % 2, height + height % 2


def draw_clip(
    info: ClipInfo,
    out: Path,
    draw: Draw,
    words: Words,
    seconds: NDArray[np.floating],
    curves: Sequence[Series],
    *,
    footer: str,
    scale: Scale,
    side_by_side: bool,
    sound: bool,
    advance: Advance,
    booked: Seconds,
) -> list[str]:
    """Write the clip with its overlays and return what is to be said about it.

    Args:
        info: of the clip.
        out: the mp4 to write.
        draw: from a frame to its overlay.
        words: title and small line per frame.
        seconds: times ``(n,)`` of the frames that were explained; further frames are not written.
        curves: for the strip.
        footer: of the strip.
        scale: of the heatmaps.
        side_by_side: the original to the left of the overlay.
        sound: take over the clip's sound.
        advance: told of every frame.
        booked: where the time is noted.

    """
    width = canvas_size(info.size, 1 + side_by_side, 0)[0]
    strip = Strip(width, seconds, curves, footer=footer, scale=scale)
    size = canvas_size(info.size, 1 + side_by_side, strip.size[1])
    notes: list[str] = []
    with ClipWriter(
        out, size, info.rate, sound=info.path if sound and info.sound else None, aspect=info.aspect
    ) as writer:
        mark = time.perf_counter()
        for frame in read_frames(info.path):
            if frame.index >= len(seconds):
                break
            mark = booked.add("decoding", mark)
            drawn = draw(frame)
            pictures = [frame.pixels, drawn] if side_by_side else [drawn]
            picture = compose(pictures, strip.draw(frame.index, *words(frame.index)), size)
            mark = booked.add("drawing", mark)
            writer.write(picture, frame.seconds)
            mark = booked.add("encoding", mark)
            advance(1)
    booked.add("encoding", mark)
    notes += writer.notes
    return notes


def rows_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Scores per frame as CSV."""
    from squeezecam.render.table import csv_table

    return csv_table(rows)
