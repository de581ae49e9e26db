"""Bootstrap intervals: how far a mean, or a difference between two methods, can be trusted."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from squeezecam.errors import InputError
from squeezecam.metrics.checks import same_shape, shape_of

_CELLS = 4_000_000


class Interval(NamedTuple):
    """A mean with its bootstrap interval."""

    mean: float
    low: float
    high: float
    samples: int
    """values that count: those that are not NaN"""


def bootstrap_mean(values: Tensor, *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
    """Mean of (N,) values with its percentile bootstrap interval (Efron and Tibshirani 1993, section 13.3).

    NaN values are left out; ``samples`` says how many remain, and without any all figures are NaN. Computed in float64
    on the CPU, the same on every machine for one seed.

    Args:
        values: (N,), one figure per sample.
        level: coverage, 0.95 for a 95 % interval.
        resamples: draws with replacement.
        seed: of the draws.
    """
    if values.ndim != 1:
        raise InputError(f"values have shape {shape_of(values)}, expected (N,): one figure per sample")
    if not 0 < level < 1 or resamples < 1:
        raise InputError(f"level is {level} and resamples is {resamples}: expected 0 < level < 1, and at least 1")
    kept = values.detach().cpu().double()
    kept = kept[~kept.isnan()]
    count = kept.numel()
    if count == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    generator = torch.Generator().manual_seed(seed)
    rows = max(1, _CELLS // count)
    means = [
        kept[torch.randint(count, (min(rows, resamples - start), count), generator=generator)].mean(dim=1)
        for start in range(0, resamples, rows)
    ]
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.cat(means).quantile(tails).tolist()
    return Interval(float(kept.mean()), low, high, count)


def bootstrap_difference(
    first: Tensor, second: Tensor, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Mean of ``first - second`` over the same samples (N,), with its bootstrap interval: a paired comparison.

    An interval that does not contain 0 speaks for a real difference. Pairs in which either value is NaN are left out.
    Arguments as for :func:`bootstrap_mean`.
    """
    same_shape(first, second, ("first", "second"))
    return bootstrap_mean(
        first.detach().cpu().double() - second.detach().cpu().double(), level=level, resamples=resamples, seed=seed
    )
