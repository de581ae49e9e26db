"""Sparseness: how unequally a map spreads its values."""

from __future__ import annotations

import torch
from torch import Tensor

from squeezecam.metrics.checks import as_maps, finite_rows, nan_where_not, widest
from squeezecam.metrics.metric import Metric

METRIC = Metric(
    name="sparseness",
    higher_is_better=True,
    category="complexity",
    reference="Chalasani et al., Concise Explanations of Neural Networks, ICML 2020, arXiv 1810.06583",
    description="Gini index of the absolute values of the map",
)


def sparseness(heatmap: Tensor) -> Tensor:
    """Gini index (N,) of the absolute values of (N, *S): 0 all equal, (P - 1) / P one pixel alone.

    ``sum_i (2 i - P - 1) a_i / (P sum_i a_i)`` over the P values sorted upwards, i from 1. It does not change with the
    scale, so nothing is normalised. NaN for an all-zero map, whose index is undefined, and for a NaN map.
    """
    maps = as_maps(heatmap, rank=None)
    values = maps.flatten(1).abs().sort(dim=1).values
    pixels, kind = values.shape[1], widest(values.device)
    weights = 2 * torch.arange(1, pixels + 1, device=values.device, dtype=kind) - pixels - 1
    # The weights are of both signs and reach P: float64 keeps the sum exact enough for large maps.
    total = values.sum(dim=1, dtype=kind)
    index = (values.to(kind) * weights).sum(dim=1) / (pixels * total)
    return nan_where_not(index.to(maps.dtype), finite_rows(maps) & (total > 0))
