"""Min-max normalisation of heatmaps, the one that the metrics' papers use."""

from __future__ import annotations

from torch import Tensor


def min_max(maps: Tensor) -> Tensor:
    """Each map (N, *S) scaled to [0, 1] by its own minimum and maximum.

    A constant map becomes all zeros: it distinguishes nothing. A map with a NaN or an infinite value becomes NaN.
    """
    flat = maps.flatten(1)
    low = flat.amin(dim=1, keepdim=True)
    spread = flat.amax(dim=1, keepdim=True) - low
    # The extremes pass NaN and infinity on.
    step = spread.masked_fill(spread == 0, 1).masked_fill(~spread.isfinite(), float("nan"))
    return ((flat - low) / step).view_as(maps)
