"""Increase in confidence: how often the marked part alone is more convincing than the picture."""

from __future__ import annotations

from torch import Tensor

from squeezecam.metrics.masked_confidence import check_confidence
from squeezecam.metrics.metric import Metric

METRIC = Metric(
    name="increase_in_confidence",
    higher_is_better=True,
    category="faithfulness",
    reference="Chattopadhyay et al., Grad-CAM++, WACV 2018, arXiv 1710.11063",
    description="1 where the class probability rises when the picture is multiplied by its heatmap, else 0",
)


def increase_in_confidence(full: Tensor, masked: Tensor) -> Tensor:
    """1 where ``masked > full``, else 0, as floats of the shape given; the mean is the paper's figure over 100.

    ``full`` and ``masked``: probabilities, see :func:`~squeezecam.metrics.average_drop`. NaN stays NaN.
    """
    check_confidence(full, masked)
    return (masked > full).to(full.dtype).masked_fill(full.isnan() | masked.isnan(), float("nan"))
