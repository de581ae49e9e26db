"""The published method written out literally: float64, Python loops, one sample at a time.

Independent of the package: nothing of it is imported, and no tensor operation computes anything. Positions are kept as
flat lists in row-major order beside the sizes of the grid.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Grid = tuple[int, ...]


def flat_channels(features: Tensor, channel_axis: int) -> tuple[list[list[float]], Grid]:
    """One sample's features with channels on ``channel_axis`` (batch axis removed): a list of positions per channel."""
    axis = channel_axis % features.ndim
    grid = tuple(size for i, size in enumerate(features.shape) if i != axis)
    return [features.select(axis, c).reshape(-1).tolist() for c in range(features.shape[axis])], grid


def squeeze(channels: list[list[float]]) -> list[float]:
    """Step 2: the mean of every channel over its positions."""
    return [sum(values) / len(values) for values in channels]


def excite(z: list[float], w1: Tensor, w2: Tensor) -> list[float]:
    """Step 3: ``s = sigmoid(W2 relu(W1 z))``."""
    hidden = [max(0.0, sum(w * x for w, x in zip(row, z, strict=True))) for row in w1.tolist()]
    raised = [sum(w * h for w, h in zip(row, hidden, strict=True)) for row in w2.tolist()]
    return [1 / (1 + math.exp(-value)) for value in raised]


def keep(s: list[float], threshold: float = 1.282) -> list[bool]:
    """Step 5: gates above the mean by more than ``threshold`` population standard deviations."""
    mean = sum(s) / len(s)
    std = math.sqrt(sum((g - mean) ** 2 for g in s) / len(s))
    return [g > mean + threshold * std for g in s]


def average_kept(channels: list[list[float]], s: list[float], kept: list[bool]) -> list[float]:
    """Step 6: the unweighted mean of the kept channels of the scaled map, position by position."""
    chosen = [c for c, flag in enumerate(kept) if flag]
    return [sum(s[c] * channels[c][x] for c in chosen) / len(chosen) for x in range(len(channels[0]))]


def _cubic(t: float, a: float = -0.75) -> float:
    t = abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def cubic_line(values: list[float], length: int) -> list[float]:
    """Cubic convolution (a = -0.75) along one axis, ``align_corners=False``, edges repeated."""
    out = []
    for i in range(length):
        source = (i + 0.5) * len(values) / length - 0.5
        base = math.floor(source)
        taps = [(values[min(max(j, 0), len(values) - 1)], _cubic(source - j)) for j in range(base - 1, base + 3)]
        out.append(sum(value * weight for value, weight in taps))
    return out


def linear_line(values: list[float], length: int) -> list[float]:
    """Linear interpolation along one axis, ``align_corners=False``."""
    out = []
    for i in range(length):
        source = max(0.0, (i + 0.5) * len(values) / length - 0.5)
        low = min(math.floor(source), len(values) - 1)
        high = min(low + 1, len(values) - 1)
        out.append(values[low] * (1 - (source - low)) + values[high] * (source - low))
    return out


def cubic_picture(values: list[float], grid: Grid, size: Grid) -> list[float]:
    """Bicubic: first along the width, then along the height."""
    (h, w), (height, width) = grid, size
    rows = [cubic_line(values[y * w : (y + 1) * w], width) for y in range(h)]
    columns = [cubic_line([row[x] for row in rows], height) for x in range(width)]
    return [columns[x][y] for y in range(height) for x in range(width)]


def upsample(values: list[float], grid: Grid, size: Grid) -> list[float]:
    """Step 6: bicubic to the input's size; frames of a clip linearly in time."""
    if len(grid) == 1:
        return cubic_line(values, size[0])
    if len(grid) == 2:
        return cubic_picture(values, grid, size)
    area = grid[1] * grid[2]
    frames = [cubic_picture(values[t * area : (t + 1) * area], grid[1:], size[1:]) for t in range(grid[0])]
    series = [linear_line([frame[x] for frame in frames], size[0]) for x in range(size[1] * size[2])]
    return [series[x][t] for t in range(size[0]) for x in range(size[1] * size[2])]


def published(features: Tensor, w1: Tensor, w2: Tensor, size: Grid, channel_axis: int = 0) -> dict[str, Tensor]:
    """Steps 2 to 6 for one sample: SE vector, kept channels, native map, and the map at ``size``, cut at 0."""
    channels, grid = flat_channels(features.double(), channel_axis)
    s = excite(squeeze(channels), w1.double(), w2.double())
    kept = keep(s)
    native = average_kept(channels, s, kept)
    large = [max(0.0, value) for value in upsample(native, grid, size)]
    return {
        "gates": torch.tensor(s, dtype=torch.float64),
        "kept": torch.tensor(kept),
        "raw": torch.tensor(native, dtype=torch.float64).view(grid),
        "heatmap": torch.tensor(large, dtype=torch.float64).view(size),
    }
