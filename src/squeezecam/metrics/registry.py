"""All metrics by name."""

from __future__ import annotations

import difflib

from squeezecam.errors import InputError
from squeezecam.metrics.adcc import METRIC as ADCC
from squeezecam.metrics.average_drop import METRIC as AVERAGE_DROP
from squeezecam.metrics.average_gain import METRIC as AVERAGE_GAIN
from squeezecam.metrics.channel_faithfulness import METRIC as CHANNEL_FAITHFULNESS
from squeezecam.metrics.channel_faithfulness import METRIC_OPPOSING as OPPOSING_SHARE
from squeezecam.metrics.coherency import METRIC as COHERENCY
from squeezecam.metrics.complexity import METRIC as COMPLEXITY
from squeezecam.metrics.deletion import METRIC as DELETION
from squeezecam.metrics.energy_pointing_game import METRIC as ENERGY_POINTING_GAME
from squeezecam.metrics.increase_in_confidence import METRIC as INCREASE_IN_CONFIDENCE
from squeezecam.metrics.insertion import METRIC as INSERTION
from squeezecam.metrics.map_area import METRIC as MAP_AREA
from squeezecam.metrics.mask_iou import METRIC as MASK_IOU
from squeezecam.metrics.max_box_acc import METRIC as MAX_BOX_ACC
from squeezecam.metrics.max_box_acc import METRIC_V2 as MAX_BOX_ACC_V2
from squeezecam.metrics.metric import Metric
from squeezecam.metrics.model_randomisation import METRIC as MODEL_RANDOMISATION
from squeezecam.metrics.pointing_game import METRIC as POINTING_GAME
from squeezecam.metrics.road import METRIC as ROAD
from squeezecam.metrics.road import METRIC_COMBINED as ROAD_COMBINED
from squeezecam.metrics.sensitivity_max import METRIC as SENSITIVITY_MAX
from squeezecam.metrics.sparseness import METRIC as SPARSENESS

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        INSERTION,
        DELETION,
        AVERAGE_DROP,
        INCREASE_IN_CONFIDENCE,
        AVERAGE_GAIN,
        COHERENCY,
        ADCC,
        ROAD,
        ROAD_COMBINED,
        POINTING_GAME,
        ENERGY_POINTING_GAME,
        MASK_IOU,
        MAX_BOX_ACC,
        MAX_BOX_ACC_V2,
        SENSITIVITY_MAX,
        SPARSENESS,
        COMPLEXITY,
        MAP_AREA,
        MODEL_RANDOMISATION,
        CHANNEL_FAITHFULNESS,
        OPPOSING_SHARE,
    )
}


def describe(name: str) -> Metric:
    """Descriptor of the metric with this name; an unknown name is an InputError that names those that are close."""
    if name not in METRICS:
        near = difflib.get_close_matches(name, METRICS, n=3) or list(METRICS)
        raise InputError(f"there is no metric {name!r}; try {', '.join(near)}")
    return METRICS[name]
