"""Overlap of the thresholded map with the object."""

from __future__ import annotations

from torch import Tensor

from squeezecam.errors import InputError
from squeezecam.metrics.checks import finite_rows, maps_and_masks, nan_where_not
from squeezecam.metrics.metric import Metric
from squeezecam.metrics.normalise import min_max

METRIC = Metric(
    name="mask_iou",
    higher_is_better=True,
    category="localisation",
    reference="Jaccard index of the thresholded map, as in Zhou et al., CVPR 2016, arXiv 1512.04150",
    description="intersection over union of the object and the pixels at or above a share of the map's range",
)


def mask_iou(heatmap: Tensor, mask: Tensor, *, threshold: float = 0.5) -> Tensor:
    """Intersection over union (N,) in [0, 1] of ``min_max(heatmap) >= threshold`` and the object.

    Args:
        heatmap: (N, *S), raw values; min-max normalised per map. A constant map marks nothing. NaN gives NaN.
        mask: (N, *S), non-zero on the object; NaN results where it is empty.
        threshold: above 0, up to 1. There is no best value for all methods: see ``max_box_acc``.
    """
    maps, mask = maps_and_masks(heatmap, mask)
    if not 0 < threshold <= 1:
        raise InputError(f"threshold is {threshold}, expected more than 0 and at most 1")
    marked = min_max(maps) >= threshold
    shared = (marked & mask).flatten(1).sum(dim=1).to(maps.dtype)
    union = (marked | mask).flatten(1).sum(dim=1)
    return nan_where_not(shared / union.clamp_min(1), finite_rows(maps) & mask.flatten(1).any(dim=1))
