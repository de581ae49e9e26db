"""Score curves while pixels are exchanged in the order of a heatmap: the common part of insertion and deletion."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from squeezecam.errors import InputError
from squeezecam.metrics.checks import finite_rows, maps_for_inputs, nan_where_not, per_sample
from squeezecam.metrics.predict import Outputs, Predict, scores_in_batches, segments
from squeezecam.metrics.ranking import first_pixels, pixel_counts, pixel_ranks


class Curve(NamedTuple):
    """A score per sample, and the curve that it summarises."""

    score: Tensor
    """(N,): area under the curve, or its mean where the metric says so."""
    values: Tensor
    """(N, P): score of the target class at every point."""
    shares: Tensor
    """(P,): share of the pixels exchanged at every point."""


def exchange_curve(
    predict: Predict,
    start: Tensor,
    end: Tensor,
    heatmap: Tensor,
    target: Tensor,
    *,
    steps: int,
    outputs: Outputs,
    batch_size: int,
    ranks: Tensor | None = None,
) -> Curve:
    """Curve from ``start`` to ``end`` (both (N, C, *S)), pixels going over highest heatmap value (N, *S) first.

    ``steps`` equal portions (to whole pixels) give ``steps + 1`` points; the area is by the trapezoidal rule over the
    share of pixels, so a score that is 1 throughout gives 1. Ties: see :func:`~squeezecam.metrics.ranking.pixel_ranks`.
    ``ranks`` is what that gives, scattered, where it is at hand.
    """
    maps = maps_for_inputs(heatmap, start, rank=None)
    samples, pixels = maps.shape[0], math.prod(maps.shape[1:])
    target = per_sample(target, samples).to(start.device)
    if not 1 <= steps <= pixels:
        raise InputError(f"steps is {steps}, expected 1 to {pixels}, the number of pixels of heatmap and inputs")
    start, end = start.detach(), end.detach()
    ranks = (pixel_ranks(maps, scattered=True) if ranks is None else ranks).to(start.device)
    counts = pixel_counts(pixels, torch.arange(steps + 1) / steps).to(start.device)

    def build(first: int, last: int) -> Tensor:
        made = start.new_empty(last - first, *start.shape[1:])
        at = 0
        for sample, low, high in segments(first, last, steps + 1):
            exchanged = first_pixels(ranks[sample].expand(high - low, *ranks.shape[1:]), counts[low:high]).unsqueeze(1)
            torch.where(exchanged, end[sample], start[sample], out=made[at : at + high - low])
            at += high - low
        return made

    classes = target.repeat_interleave(steps + 1)
    values = scores_in_batches(predict, build, classes, outputs=outputs, batch_size=batch_size).view(samples, steps + 1)
    values = nan_where_not(values, finite_rows(maps).to(values.device))
    shares = counts.to(values) / pixels
    return Curve(torch.trapezoid(values, shares, dim=1), values, shares)
