"""Pointing game: does the highest point of the map lie on the object?"""

from __future__ import annotations

import torch
from torch import Tensor

from squeezecam.errors import InputError
from squeezecam.metrics.checks import finite_rows, maps_and_masks, nan_where_not
from squeezecam.metrics.metric import Metric

METRIC = Metric(
    name="pointing_game",
    higher_is_better=True,
    category="localisation",
    reference="Zhang et al., Top-down Neural Attention by Excitation Backprop, IJCV 2018, arXiv 1608.00507",
    description="1 where the maximum of the map lies on the object (or within a tolerance), else 0",
)


def pointing_game(heatmap: Tensor, mask: Tensor, *, tolerance: float = 0.0) -> Tensor:
    """1.0 for a hit, 0.0 for a miss, NaN where there is no object: (N,).

    Args:
        heatmap: (N, *S), raw values; no normalisation matters. Of several equal maxima the first in row-major order
            is the point. A constant map points nowhere: a miss. A NaN map gives NaN.
        mask: (N, *S), non-zero on the object; for boxes :func:`~squeezecam.metrics.boxes_to_mask` (their union).
        tolerance: pixels; a hit is also a point whose Euclidean distance to the nearest object pixel is at most this.
            The paper uses 15 on pictures of their original size; the default is 0. Pictures only, (N, H, W).
    """
    maps, mask = maps_and_masks(heatmap, mask)
    if not tolerance >= 0:
        raise InputError(f"tolerance is {tolerance}, expected 0 or more pixels")
    if tolerance and maps.ndim != 3:
        raise InputError(f"a tolerance in pixels is for maps (N, H, W); these have shape {tuple(maps.shape)}")
    flat = maps.flatten(1)
    point = flat.argmax(dim=1)
    if tolerance == 0:
        hit = mask.flatten(1).gather(1, point[:, None])[:, 0]
    else:
        height, width = mask.shape[1:]
        rows = torch.arange(height, device=maps.device)[None, :, None] - (point // width)[:, None, None]
        columns = torch.arange(width, device=maps.device)[None, None, :] - (point % width)[:, None, None]
        hit = (mask & (rows.square() + columns.square() <= tolerance**2)).flatten(1).any(dim=1)
    hit = hit & (flat != flat[:, :1]).any(dim=1)
    return nan_where_not(hit.to(maps.dtype), finite_rows(maps) & mask.flatten(1).any(dim=1))
