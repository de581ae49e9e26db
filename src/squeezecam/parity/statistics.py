"""Paired differences over seeds, and what they say about a stated margin.

The interval is that of the paired t: with five to ten seeds the percentile bootstrap of a mean is too narrow (its draws
repeat the few values that there are: of five it covers about 83 % in place of 95 %), while the t is exact for normal
differences. It is the interval over seeds, of training runs on *these* data; that other pictures would be drawn is no
part of it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from squeezecam.errors import InputError
from squeezecam.parity.student import t_quantile

LEVEL = 0.95
POWER = 0.8
MOST_SEEDS = 100_000


@dataclass(frozen=True)
class Paired:
    """A paired difference in points, positive where the second arm is better.

    Attributes:
        mean, low, high: of the differences, with the two-sided 95 % interval of the paired t.
        deviation: standard deviation of the differences (n - 1), at least what the resolution of the scores gives.
        count: pairs.

    """

    mean: float
    low: float
    high: float
    deviation: float
    count: int


@dataclass(frozen=True)
class Verdict:
    """The outcome of the non-inferiority test.

    Attributes:
        word: ``"not worse"``, ``"worse"`` or ``"undecided"``.
        sentence: the same in full, with the margin.
        needed: seeds that would be needed, where undecided.

    """

    word: str
    sentence: str
    needed: int | None = None


def paired(first: Sequence[float], second: Sequence[float], resolution: float = 0.0) -> Paired:
    """``second - first``, pair by pair, with the interval of the paired t over the pairs.

    ``resolution`` is the step between two possible scores, 100 / N points of accuracy on N test samples. Rounding to
    it alone gives a difference a deviation of ``resolution / sqrt(6)`` (two uniform errors), below which no measured
    one is believed: a few pairs that happen to be equal are no proof of equality.

    Raises:
        InputError: sequences of different lengths, or fewer than two pairs.

    """
    if len(first) != len(second) or len(first) < 2:
        raise InputError(f"{len(first)} and {len(second)} values: expected as many of both, and at least two")
    differences = [b - a for a, b in zip(first, second, strict=True)]
    mean, deviation = statistics.fmean(differences), max(statistics.stdev(differences), resolution / math.sqrt(6))
    half = t_quantile((1 + LEVEL) / 2, len(differences) - 1) * deviation / math.sqrt(len(differences))
    return Paired(mean, mean - half, mean + half, deviation, len(differences))


def judge(difference: Paired, margin: float, unit: str = "points") -> Verdict:
    """Non-inferiority at the one-sided level of 2.5 %: is the lower end of the 95 % interval above ``-margin``?

    ``"worse"`` is said where the whole interval lies below zero and not above ``-margin``: a loss is shown, and that it
    is smaller than the margin is not. An interval between ``-margin`` and zero is *not worse by more than the margin*,
    and the sentence says that there is a small loss.

    Raises:
        InputError: a margin that is not positive.

    """
    if not margin > 0:
        raise InputError(f"the margin must be positive, got {margin}: the loss in {unit} that would not matter")
    amount = f"{margin:.3g} {unit}"
    if difference.low > -margin:
        small = "; a loss smaller than that is shown" if difference.high < 0 else ""
        better = "; better than without" if difference.low > 0 else ""
        return Verdict("not worse", f"not worse by more than {amount}{small}{better}")
    if difference.high < 0:
        return Verdict("worse", "worse")
    needed = seeds_needed(difference.deviation, margin)
    return Verdict(
        "undecided", f"undecided: {difference.count} seeds are too few, about {needed} needed for {amount}", needed
    )


def seeds_needed(deviation: float, margin: float) -> int:
    """Pairs with which the test for ``margin`` succeeds in 80 % of the cases, if in truth there is no difference.

    The smallest n with ``(t(.975, n - 1) + t(.8, n - 1)) * deviation / sqrt(n) <= margin``.
    """

    def enough(count: int) -> bool:
        quantiles = t_quantile((1 + LEVEL) / 2, count - 1) + t_quantile(POWER, count - 1)
        return quantiles * deviation / math.sqrt(count) <= margin

    low, high = 2, 2
    while not enough(high):
        low, high = high, 2 * high
        if high > MOST_SEEDS:
            return MOST_SEEDS
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return high
