"""Complexity: the part of ADCC that penalises broad maps."""

from __future__ import annotations

from torch import Tensor

from squeezecam.metrics.map_area import map_area
from squeezecam.metrics.metric import Metric

METRIC = Metric(
    name="complexity",
    higher_is_better=False,
    category="complexity",
    reference="Poppi et al., Revisiting the Evaluation of Class Activation Mapping, CVPRW 2021, arXiv 2104.10252",
    description="L1 norm of the min-max normalised map over its number of pixels",
)


def complexity(heatmap: Tensor) -> Tensor:
    """L1 norm (N,) of the min-max normalised map (N, *S) per pixel, in [0, 1]: the same number as the map area."""
    return map_area(heatmap)
