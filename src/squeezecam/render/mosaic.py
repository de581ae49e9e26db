"""A clip as one picture: a few of its frames, row by row."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FRAMES = 4
ACROSS = 2
GAP = 40
"""Of how many parts of a frame's width one lies between two frames."""


def chosen_frames(count: int) -> list[int]:
    """Up to :data:`FRAMES` of ``count`` frames, evenly spaced, from 0."""
    some = min(FRAMES, count)
    return [int((i + 0.5) * count / some) for i in range(some)]


def mosaic(clip: Tensor, between: float = 0.0) -> Tensor:
    """Frames of ``(..., T, H, W)`` beside and below one another, ``(..., H', W')``, with lines of ``between``."""
    frames = clip[..., chosen_frames(clip.shape[-3]), :, :]
    across = min(ACROSS, frames.shape[-3])
    if short := -frames.shape[-3] % across:
        empty = frames.new_full((*frames.shape[:-3], short, *frames.shape[-2:]), between)
        frames = torch.cat([frames, empty], -3)
    gap = max(1, frames.shape[-1] // GAP)
    frames = F.pad(frames, (0, gap, 0, gap), value=between)
    columns: Tensor = frames.unflatten(-3, (-1, across))
    rows = columns.movedim(-3, -2)  # (..., rows, H, columns, W)
    return rows.flatten(-2).flatten(-3, -2)[..., :-gap, :-gap]


def frame_words(count: int) -> str:
    """Which frames a mosaic shows, counted from 1."""
    shown = chosen_frames(count)
    return f"frame{'s' * (len(shown) > 1)} {', '.join(str(i + 1) for i in shown)} of {count}"
