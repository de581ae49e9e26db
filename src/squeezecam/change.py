"""Where a stream changes over time: what differs from frame to frame can tell one frame's score from another's.

Ours, not of the published method. A score for every frame, as an active speaker's, has to come from what moves: in the
trained Light-ASD the channels that are kept are active on eyes, nose and mouth alike, and change on the mouth.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from squeezecam.errors import InputError
from squeezecam.frames import time_axis, valid_frames
from squeezecam.heatmap import at_least_float32
from squeezecam.layout import Layout

AGGREGATE = "change"
"""Its name among the aggregations."""
REACH = 25
"""Frames before and after over which change is looked at: a second each of the usual 25 a second."""
FEWEST = 8
"""Frames below which ``None`` does not stand for it: too short for change to say much."""


def local_variance(features: Tensor, axis: int, inside: Tensor | None = None, reach: int = REACH) -> Tensor:
    """Variance over time of every channel and position, within ``reach`` frames before and after: shaped as given.

    Args:
        features: ``(N, C, *S)``.
        axis: which is time.
        inside: ``(N, T)`` bool, frames that are no padding; None: all. The others do not enter, and are 0.
        reach: in frames; at the ends of a clip there are fewer.

    """
    values = at_least_float32(features).movedim(axis, -1)
    frames = values.shape[-1]
    valid = values.new_ones(len(values), frames) if inside is None else inside.to(values.dtype)
    valid = valid.view(len(values), *[1] * (values.ndim - 2), frames)
    # Around the clip's own mean, so that the difference of two large sums does not drown a small variance.
    mean = (values * valid).sum(-1, keepdim=True) / valid.sum(-1, keepdim=True).clamp_min(1)
    values = (values - mean) * valid
    count = _window(valid, reach).clamp_min(1)
    first, second = _window(values, reach) / count, _window(values.square(), reach) / count
    return ((second - first.square()).clamp_min(0) * valid).movedim(-1, axis)


def spread_by_change(
    raw: Tensor, features: Tensor, gates: Tensor, kept: Tensor, layout: Layout, lengths: Any = None
) -> Tensor:
    """Native maps weighted by how much the kept channels change at each position: ``(N, K, *S)``.

    The weight is the mean over the kept channels of the variance of the scaled features within a second before and
    after. Every frame keeps the sum of its map, so that a frame without evidence stays cold, and what changes at
    another moment gets no heat where nothing is now. A frame around which nothing changes keeps its map.

    Args:
        raw: maps of the stream.
        features: ``(N, C, *S)`` that they were made of.
        gates: ``(N, C)``, or ``(N, T, C)``.
        kept: bool, shaped as the gates.
        layout: of the features; it must name time.
        lengths: ``(N,)`` frames of each clip that are no padding.

    Raises:
        InputError: there is no time axis, or no other one.

    """
    axis = time_axis(layout)
    if axis is None or features.ndim < 4:
        raise InputError(
            f"aggregate='{AGGREGATE}' needs maps over time and space; the layout '{layout}' names "
            + ("no time axis" if axis is None else "no other axis than time")
        )
    steps = features.shape[axis]
    inside = None if lengths is None else valid_frames(lengths, len(features), steps, features.device)
    weights = at_least_float32(gates).square() * kept / kept.sum(-1, keepdim=True).clamp_min(1)
    # Those in use are a tenth of the channels, mostly: the rest costs time and says nothing.
    used = kept.flatten(0, -2).any(0).nonzero()[:, 0]
    weights, features = weights.index_select(-1, used), features.index_select(1, used)
    variance = local_variance(features, axis, inside)
    if weights.ndim == 2:
        weights = weights[:, None].expand(-1, steps, -1)
    frames = variance.movedim(axis, 1).flatten(3)  # (N, T, C, positions)
    heat = torch.einsum("ntcx,ntc->ntx", frames, weights.to(frames.dtype))
    whole = raw.movedim(axis, 2)  # (N, K, T, *rest)
    own = whole.flatten(3)
    weighted = heat[:, None] * own.clamp_min(0)
    total = weighted.sum(-1, keepdim=True)
    share = weighted / torch.where(total > 0, total, 1.0)
    found = torch.where(total > 0, share * own.sum(-1, keepdim=True), own)
    return found.view(whole.shape).movedim(2, axis)


def _window(values: Tensor, reach: int) -> Tensor:
    """Sums over the last axis within ``reach`` steps before and after."""
    steps = values.shape[-1]
    sums = torch.nn.functional.pad(values.cumsum(-1), (1, 0))
    at = torch.arange(steps, device=values.device)
    return sums[..., (at + reach + 1).clamp_max(steps)] - sums[..., (at - reach).clamp_min(0)]
