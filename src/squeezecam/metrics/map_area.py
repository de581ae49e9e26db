"""Map area: how much of the picture a map covers. To be printed beside average drop."""

from __future__ import annotations

from torch import Tensor

from squeezecam.metrics.checks import as_maps
from squeezecam.metrics.metric import Metric
from squeezecam.metrics.normalise import min_max

METRIC = Metric(
    name="map_area",
    higher_is_better=None,
    category="complexity",
    reference="the complexity of Poppi et al. 2021 (arXiv 2104.10252), under its plain name",
    description="mean of the min-max normalised map: 0 a single point, 1 nearly everywhere at its maximum",
)


def map_area(heatmap: Tensor) -> Tensor:
    """Mean (N,) in [0, 1] of the min-max normalised heatmap (N, *S). A constant map has 0, a NaN map NaN."""
    return min_max(as_maps(heatmap, rank=None)).flatten(1).mean(dim=1)
