"""Coherency: whether the marked part alone is explained by the same map."""

from __future__ import annotations

import torch
from torch import Tensor

from squeezecam.metrics.checks import as_maps, finite_rows, nan_where_not, same_shape
from squeezecam.metrics.correlation import pearson
from squeezecam.metrics.metric import Metric

METRIC = Metric(
    name="coherency",
    higher_is_better=True,
    category="faithfulness",
    reference="Poppi et al., Revisiting the Evaluation of Class Activation Mapping, CVPRW 2021, arXiv 2104.10252",
    description="correlation of the heatmap with the heatmap of the picture seen through it, scaled to [0, 1]",
)


def coherency(heatmap: Tensor, heatmap_of_masked: Tensor) -> Tensor:
    """``(r + 1) / 2`` (N,) in [0, 1], r the Pearson correlation of two maps (N, *S); no normalisation matters.

    ``heatmap_of_masked`` explains, for the same class, the inputs of
    :func:`~squeezecam.metrics.masked_confidence.mask_inputs`. A constant map has no linear relation to anything: r
    counts as 0, hence 0.5. NaN gives NaN.
    """
    first, second = as_maps(heatmap, rank=None), as_maps(heatmap_of_masked, rank=None)
    same_shape(first, second, ("heatmap", "heatmap_of_masked"))
    value = (torch.nan_to_num(pearson(first, second), nan=0.0) + 1) / 2
    return nan_where_not(value, finite_rows(first) & finite_rows(second))
