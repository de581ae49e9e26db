"""Average drop: the share of the confidence that is lost when only the marked part is seen."""

from __future__ import annotations

from torch import Tensor

from squeezecam.metrics.masked_confidence import check_confidence
from squeezecam.metrics.metric import Metric

METRIC = Metric(
    name="average_drop",
    higher_is_better=False,
    category="faithfulness",
    reference="Chattopadhyay et al., Grad-CAM++, WACV 2018, arXiv 1710.11063",
    description="share of the class probability lost when the picture is multiplied by its heatmap (relative)",
)


def average_drop(full: Tensor, masked: Tensor) -> Tensor:
    """Relative drop ``max(0, full - masked) / full`` per sample, in [0, 1]; its mean is the paper's figure over 100.

    ``full`` and ``masked``: probabilities, any one shape, from
    :func:`~squeezecam.metrics.masked_confidence.masked_confidence`. Where ``full`` is 0 nothing can be lost: 0. NaN
    stays NaN. An all-ones mask has no drop at all: judge with the area beside it.
    """
    check_confidence(full, masked)
    return (full - masked).clamp_min(0) / full.masked_fill(full == 0, 1)
