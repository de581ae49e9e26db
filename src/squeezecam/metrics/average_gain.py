"""Average gain: the share of the missing confidence that the marked part alone wins."""

from __future__ import annotations

from torch import Tensor

from squeezecam.metrics.masked_confidence import check_confidence
from squeezecam.metrics.metric import Metric

METRIC = Metric(
    name="average_gain",
    higher_is_better=True,
    category="faithfulness",
    reference="Zhang et al., Opti-CAM, CVIU 2024, arXiv 2301.07002",
    description="share of the missing class probability gained when the picture is multiplied by its heatmap",
)


def average_gain(full: Tensor, masked: Tensor) -> Tensor:
    """Relative gain ``max(0, masked - full) / (1 - full)`` per sample, in [0, 1]: the counterpart of average drop.

    ``full`` and ``masked``: probabilities, see :func:`~squeezecam.metrics.average_drop`. Where ``full`` is 1 nothing
    can be gained: 0. NaN stays NaN.
    """
    check_confidence(full, masked)
    room = 1 - full
    return (masked - full).clamp_min(0) / room.masked_fill(room == 0, 1)
