"""Pictures of clips for documents: frames in a row, a spectrogram with its map, bars of stream importance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from squeezecam.errors import InputError
from squeezecam.render.arrays import as_map
from squeezecam.render.chart import bar_chart
from squeezecam.render.figure import contact_sheet, panel, tile
from squeezecam.render.parts import LARGE, NORMAL, framed, stack
from squeezecam.render.scale import Scale, find_scale
from squeezecam.render.text import text_block
from squeezecam.video.strip import Series, Strip
from squeezecam.wording import number_of

if TYPE_CHECKING:
    from squeezecam.streams import StreamImportance


def frame_strip(
    pictures: Sequence[Any], maps: Sequence[Any], *, captions: Sequence[str] | None = None, count: int = 8,
    title: str = "", size: int = 150, box: Any = None, scale: Scale | None = None,
) -> Image.Image:  # fmt: skip
    """``count`` frames, evenly spaced, in a row with their maps on one scale.

    Args:
        pictures: PIL pictures or uint8 arrays ``(H, W)`` or ``(H, W, 3)``, one per frame.
        maps: raw maps ``(h, w)``, one per frame; negative values are cold.
        captions: one per frame.
        count: how many are shown.
        title: of the figure.
        size: side of each tile in pixels.
        box: where on the pictures the maps lie, x0, y0, x1, y1; None: all over.
        scale: what the colours stand for, such as the scale of the whole clip; None: up to the maximum of those shown.

    Raises:
        InputError: numbers of frames that do not match.

    """
    if not len(pictures) or len(pictures) != len(maps) or (captions is not None and len(captions) != len(maps)):
        raise InputError(f"{len(pictures)} pictures and {len(maps)} maps: give one map (and caption) per frame")
    chosen = np.unique(np.linspace(0, len(maps) - 1, min(count, len(maps))).round().astype(int)).tolist()
    heat = [np.maximum(as_map(maps[i]), 0) for i in chosen]
    scale = scale or find_scale(heat, "shared")
    tiles = [
        tile(_picture(pictures[i]), values, caption=captions[i] if captions else f"frame {i}", scale=scale,
             show_scale=False, size=size, box=box)
        for i, values in zip(chosen, heat, strict=True)
    ]  # fmt: skip
    return contact_sheet(tiles, columns=len(tiles), title=title, scale=scale)


def gray_rows(sound: Any) -> Any:
    """Rows of a spectrogram ``(F, T)``, each scaled to [0, 1] by itself: frequencies differ in loudness by orders."""
    low, high = np.quantile(sound, (0.02, 0.98), axis=1, keepdims=True)
    return np.clip((sound - low) / np.maximum(high - low, 1e-12), 0, 1)


def spectrogram(values: Any, heatmap: Any, *, title: str = "", footer: str = "", height: int = 240) -> Image.Image:
    """A spectrogram (or cepstral coefficients) in gray, lowest frequency at the bottom, with its map over it.

    Args:
        values: ``(F, T)`` as the model takes them, lowest frequency first; scaled row by row for viewing.
        heatmap: raw map ``(f, t)`` of any grid.
        title, footer: of the figure.
        height: in pixels; the width follows from the length, up to 1200.

    """
    sound = as_map(values)
    gray = gray_rows(sound)[::-1]
    width = int(np.clip(4 * sound.shape[1], height, 1200))
    words = f"sound · {number_of(sound.shape[0], 'row')}, {number_of(sound.shape[1], 'time step')}"
    picture = Image.fromarray((gray * 255).round().astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)
    return panel(picture, np.maximum(as_map(heatmap), 0)[::-1], title=title, footer=footer, words=words)


def curves(
    seconds: Any, fields: Sequence[tuple[str, Sequence[Series]]], *, title: str = "", width: int = 720
) -> Image.Image:
    """Curves over a clip, field below field, each with its own axis and legend.

    Args:
        seconds: times ``(n,)`` of the frames.
        fields: a line of text, and the series drawn together.
        title: of the figure.
        width: in pixels.

    """
    parts = [text_block(title, width, LARGE)] if title else []
    for name, series in fields:
        parts += [text_block(name, width, NORMAL)] if name else []
        parts.append(Image.fromarray(Strip(width, np.asarray(seconds, float), series, words=False).draw(None)))
    return framed(stack(parts, gap=4), 4)


def importance_bars(
    found: StreamImportance, *, title: str = "importance of the streams", noun: str = "clip", width: int = 560
) -> Image.Image:
    """Bars per measure, means over the clips (or what ``noun`` calls them), the ablation always beside the gates."""
    charts = []
    for row in found.rows():
        bars = [(name, float(row[name])) for name in found.names]
        if all(np.isfinite(value) for _, value in bars):
            charts.append(bar_chart(bars, title=row["measure"], value_format=".3g", width=width))
    head = text_block(f"{title}, mean over {number_of(len(found), noun)}", width, LARGE)
    return framed(stack([head, *charts], gap=0), 4)


def _picture(given: Any) -> Image.Image:
    if isinstance(given, Image.Image):
        return given
    array = given.detach().cpu().numpy() if hasattr(given, "detach") else np.asarray(given)
    return Image.fromarray(np.asarray(array, dtype=np.uint8)).convert("RGB")
