"""MaxBoxAcc and MaxBoxAccV2: localisation by boxes, at the threshold that serves the method best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from squeezecam.errors import InputError
from squeezecam.metrics.boxes import Boxes, box_overlap, padded_boxes
from squeezecam.metrics.checks import as_maps, finite_rows, shape_of
from squeezecam.metrics.components import threshold_components
from squeezecam.metrics.metric import Metric
from squeezecam.metrics.normalise import min_max

METRIC = Metric(
    name="max_box_acc",
    higher_is_better=True,
    category="localisation",
    reference="Choe et al., Evaluating Weakly Supervised Object Localization Methods Right, CVPR 2020, "
    "arXiv 2001.07437",
    description="share of samples whose largest blob's box overlaps a true box by IoU 0.5, at the best map threshold",
)
METRIC_V2 = Metric(
    name="max_box_acc_v2",
    higher_is_better=True,
    category="localisation",
    reference="Choe et al., Evaluation for Weakly Supervised Object Localization, TPAMI 2022, arXiv 2007.04178",
    description="the same with the best of all blobs' boxes, averaged over IoU 0.3, 0.5 and 0.7",
)


class BoxAccuracy(NamedTuple):
    """Localisation accuracy of a set of samples."""

    value: float
    """share of samples in [0, 1]; NaN without samples"""
    thresholds: tuple[float, ...]
    """map threshold at which it was reached, for each IoU asked for"""
    samples: int
    """samples that count: those with boxes and a finite map"""


def default_thresholds(count: int = 100) -> Tensor:
    """``count`` thresholds 0, 1 / count, ... below 1. The authors' code uses 1000 on maps of 256 levels."""
    return torch.arange(count, dtype=torch.float64) / count


def box_ious(
    heatmap: Tensor, boxes: Boxes, *, thresholds: Tensor | None = None, every_component: bool = False
) -> Tensor:
    """Overlap (N, T) of the map's box with the best true box, per map threshold.

    At threshold t the pixels with ``min_max(heatmap) >= t`` are split into connected components (8 neighbours). The
    box is that of the component with most pixels (of equal ones the first in row-major order), or, for
    ``every_component`` (V2), whichever of all components' boxes fits best. Boxes are half-open, so a box of w by h
    pixels has area w h. (The authors' code works on maps of 256 levels, adds a pixel to each side of a box, ranks
    components by polygon area, and counts the outlines of holes as components: small differences.)

    Rows of batches may be concatenated before :func:`max_box_acc`: the best threshold is one for all samples.

    Args:
        heatmap: (N, H, W), raw values; min-max normalised per map. A constant map has no box above threshold 0. A row
            of NaN for a NaN map.
        boxes: the true boxes of each sample, in pixels of the heatmap; ``mask_to_boxes`` makes them from masks. A row
            of NaN where there is none.
        thresholds: (T,), each in [0, 1]; default :func:`default_thresholds`.
        every_component: False for MaxBoxAcc, True for MaxBoxAccV2.
    """
    maps = as_maps(heatmap)
    if len(boxes) != maps.shape[0]:
        raise InputError(f"heatmap has shape {shape_of(maps)} and there are boxes for {len(boxes)} samples")
    levels = (default_thresholds() if thresholds is None else thresholds).to(maps)
    if levels.ndim != 1 or not levels.numel() or bool(((levels < 0) | (levels > 1)).any()):
        raise InputError(f"thresholds have shape {shape_of(levels)}, expected (T,) with values in [0, 1]")
    true_boxes = padded_boxes(boxes, maps.device)
    scaled, finite, order = min_max(maps), finite_rows(maps).tolist(), levels.argsort()
    ious = torch.full((maps.shape[0], levels.numel()), float("nan"), dtype=maps.dtype, device=maps.device)
    for index in range(maps.shape[0]):
        real = true_boxes[index][~true_boxes[index].isnan().any(dim=1)]
        if finite[index] and real.numel():
            ious[index, order] = _best_overlap(scaled[index], real, levels[order], every_component).to(maps.dtype)
    return ious


def _best_overlap(scaled: Tensor, real: Tensor, levels: Tensor, every_component: bool) -> Tensor:
    """Overlaps (T,) for one normalised map (H, W), its true boxes (B, 4) and rising levels (T,)."""
    found = threshold_components(scaled, levels)
    overlap = box_overlap(found.boxes, real).amax(dim=1) if found.mask.numel() else real.new_zeros(0)
    if not every_component:
        largest = torch.zeros_like(levels, dtype=torch.long).scatter_reduce(0, found.mask, found.area, reduce="amax")
        candidate = found.area == largest[found.mask]
        # Components come ordered by mask and position: the first candidate of each mask is the one.
        order = candidate.long().cumsum(0)
        before = torch.zeros_like(largest).scatter_add(0, found.mask, candidate.long()).cumsum(0)
        before = before - torch.zeros_like(largest).scatter_add(0, found.mask, candidate.long())
        overlap = overlap * (candidate & (order == before[found.mask] + 1))
    return overlap.new_zeros(levels.shape).scatter_reduce(0, found.mask, overlap, reduce="amax")


def max_box_acc(ious: Tensor, *, deltas: Sequence[float] = (0.5,), thresholds: Tensor | None = None) -> BoxAccuracy:
    """``mean over deltas of max over thresholds of mean over samples of [IoU >= delta]``.

    Args:
        ious: (N, T) from :func:`box_ious`; rows of NaN are left out, and ``samples`` says how many remain.
        deltas: IoU from which on a sample counts; 0.5 in MaxBoxAcc.
        thresholds: (T,) as given to :func:`box_ious`, to name the best one; default as there.
    """
    levels = default_thresholds() if thresholds is None else thresholds
    if ious.ndim != 2 or levels.shape != ious.shape[1:]:
        raise InputError(
            f"ious have shape {shape_of(ious)} and thresholds have shape {shape_of(levels)}: expected (N, T) and (T,)"
        )
    rows = ious[~ious.isnan().any(dim=1)].cpu().double()
    if not rows.shape[0]:
        return BoxAccuracy(float("nan"), tuple(float("nan") for _ in deltas), 0)
    best = [(rows >= delta).double().mean(dim=0).max(dim=0) for delta in deltas]
    value = sum(float(result.values) for result in best) / len(best)
    return BoxAccuracy(value, tuple(float(levels[int(result.indices)]) for result in best), rows.shape[0])


def max_box_acc_v2(ious: Tensor, *, thresholds: Tensor | None = None) -> BoxAccuracy:
    """MaxBoxAccV2: the mean over IoU 0.3, 0.5 and 0.7, each at its own best threshold.

    ``ious`` must come from ``box_ious(..., every_component=True)``; otherwise as :func:`max_box_acc`.
    """
    return max_box_acc(ious, deltas=(0.3, 0.5, 0.7), thresholds=thresholds)
