"""Metrics for heatmaps: one metric, one file, one reference.

Functions on batches of tensors, on any device; heatmaps are raw values, and each metric says how it normalises them. A
model is only ever a function from inputs to (N, K). What a heatmap with NaN gives is NaN; shapes that do not fit are an
:class:`~squeezecam.errors.InputError`. Metrics have the names of their functions: ``METRICS`` describes them all.
"""

from squeezecam.metrics.adcc import AdccParts, adcc, adcc_parts
from squeezecam.metrics.average_drop import average_drop
from squeezecam.metrics.average_gain import average_gain
from squeezecam.metrics.baseline import baseline, gaussian_blur
from squeezecam.metrics.boxes import box_overlap, boxes_to_mask, mask_to_boxes
from squeezecam.metrics.channel_faithfulness import (
    ChannelFaithfulness,
    channel_evidence,
    channel_faithfulness,
    opposing_share,
)
from squeezecam.metrics.coherency import coherency
from squeezecam.metrics.complexity import complexity
from squeezecam.metrics.components import Components, connected_components, threshold_components
from squeezecam.metrics.controls import all_channel_mean, centred_gaussian, random_channels, random_map
from squeezecam.metrics.correlation import pearson, spearman
from squeezecam.metrics.curve import Curve
from squeezecam.metrics.deletion import deletion
from squeezecam.metrics.energy_pointing_game import energy_pointing_game
from squeezecam.metrics.imputation import linear_imputation
from squeezecam.metrics.increase_in_confidence import increase_in_confidence
from squeezecam.metrics.insertion import insertion
from squeezecam.metrics.map_area import map_area
from squeezecam.metrics.mask_iou import mask_iou
from squeezecam.metrics.masked_confidence import Confidence, mask_inputs, masked_confidence
from squeezecam.metrics.max_box_acc import BoxAccuracy, box_ious, max_box_acc, max_box_acc_v2
from squeezecam.metrics.metric import Metric
from squeezecam.metrics.model_randomisation import RandomisationCurve, model_randomisation
from squeezecam.metrics.normalise import min_max
from squeezecam.metrics.pointing_game import pointing_game
from squeezecam.metrics.ranking import first_pixels, pixel_ranks
from squeezecam.metrics.registry import METRICS, describe
from squeezecam.metrics.road import road, road_combined
from squeezecam.metrics.sensitivity_max import sensitivity_max
from squeezecam.metrics.sparseness import sparseness
from squeezecam.metrics.ssim import ssim
from squeezecam.metrics.statistics import Interval, bootstrap_difference, bootstrap_mean

__all__ = [
    "METRICS",
    "AdccParts",
    "BoxAccuracy",
    "ChannelFaithfulness",
    "Components",
    "Confidence",
    "Curve",
    "Interval",
    "Metric",
    "RandomisationCurve",
    "adcc",
    "adcc_parts",
    "all_channel_mean",
    "average_drop",
    "average_gain",
    "baseline",
    "bootstrap_difference",
    "bootstrap_mean",
    "box_ious",
    "box_overlap",
    "boxes_to_mask",
    "centred_gaussian",
    "channel_evidence",
    "channel_faithfulness",
    "coherency",
    "complexity",
    "connected_components",
    "deletion",
    "describe",
    "energy_pointing_game",
    "first_pixels",
    "gaussian_blur",
    "increase_in_confidence",
    "insertion",
    "linear_imputation",
    "map_area",
    "mask_inputs",
    "mask_iou",
    "mask_to_boxes",
    "masked_confidence",
    "max_box_acc",
    "max_box_acc_v2",
    "min_max",
    "model_randomisation",
    "opposing_share",
    "pearson",
    "pixel_ranks",
    "pointing_game",
    "random_channels",
    "random_map",
    "road",
    "road_combined",
    "sensitivity_max",
    "sparseness",
    "spearman",
    "ssim",
    "threshold_components",
]
