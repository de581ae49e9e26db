"""The interval and the verdict, held against tables, against simulation and against each other."""

from __future__ import annotations

import pytest
import torch

from squeezecam.errors import InputError
from squeezecam.parity.statistics import Paired, judge, paired, seeds_needed
from squeezecam.parity.student import t_quantile


@pytest.mark.parametrize(
    ("freedom", "half", "tail"),
    [(1, 12.7062, 63.657), (2, 4.30265, 9.92484), (4, 2.77645, 4.60409), (9, 2.26216, 3.24984), (30, 2.04227, 2.75)],
)
def test_quantiles_are_those_of_the_printed_tables(freedom: int, half: float, tail: float) -> None:
    assert t_quantile(0.975, freedom) == pytest.approx(half, rel=1e-5)
    assert t_quantile(0.995, freedom) == pytest.approx(tail, rel=1e-4)
    assert t_quantile(0.025, freedom) == pytest.approx(-half, rel=1e-5)


def test_many_degrees_of_freedom_are_nearly_normal() -> None:
    assert t_quantile(0.975, 5000) == pytest.approx(1.96, abs=1e-3)
    assert t_quantile(0.5, 3) == pytest.approx(0, abs=1e-8)


def test_the_paired_interval_is_the_textbook_one() -> None:
    found = paired([10, 12, 9, 11], [11, 12, 11, 12])  # differences 1, 0, 2, 1
    assert (found.mean, found.count) == (1, 4)
    assert found.deviation == pytest.approx(0.816497, abs=1e-6)
    assert found.high - found.mean == pytest.approx(3.182446 * 0.816497 / 2, abs=1e-5)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(2000, 5, generator=generator) + 0.7
    covered = sum(found.low <= 0.7 <= found.high for found in (paired([0.0] * 5, row) for row in draws.tolist()))
    assert covered / 2000 == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(
    ("low", "high", "word", "also"),
    [
        (-0.4, 0.3, "not worse", "by more than 0.5 points"),
        (-0.4, -0.1, "not worse", "a loss smaller than that is shown"),
        (0.1, 0.9, "not worse", "better than without"),
        (-1.2, -0.1, "worse", "worse"),
        (-3.0, -0.6, "worse", "worse"),
        (-0.6, 0.6, "undecided", "seeds are too few"),
        (-0.6, 0.1, "undecided", "needed"),
    ],
)
def test_the_verdict_is_that_of_the_interval(low: float, high: float, word: str, also: str) -> None:
    found = judge(Paired((low + high) / 2, low, high, 1.0, 5), 0.5)
    assert found.word == word
    assert also in found.sentence
    assert (found.needed is not None) == (word == "undecided")


def test_as_many_seeds_as_are_asked_for_do_decide_in_four_of_five_studies() -> None:
    needed = seeds_needed(1.0, 0.5)
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(600, needed, generator=generator).tolist()
    decided = sum(judge(paired([0.0] * needed, row), 0.5).word == "not worse" for row in draws) / 600
    assert 0.74 < decided < 0.86
    assert seeds_needed(0.1, 0.5) < 5 < needed


def test_a_network_that_repeats_itself_exactly_is_decided_at_once() -> None:
    found = judge(paired([90.0, 91.0], [90.0, 91.0]), 0.5)
    assert found.word == "not worse"
    assert seeds_needed(0.0, 0.5) == 2


def test_equal_pairs_are_believed_only_as_far_as_the_scores_resolve() -> None:
    few, many = paired([75.0, 75.5], [75.0, 75.5], 0.5), paired([75.0] * 6, [75.0] * 6, 0.5)
    assert few.deviation == pytest.approx(0.204124, abs=1e-6)
    assert (judge(few, 0.5).word, judge(many, 0.5).word) == ("undecided", "not worse")
    assert paired([70.0, 72.0, 75.0], [71.0, 70.0, 75.0], 0.5).deviation > 1  # a larger one stands


def test_what_cannot_be_paired_is_told() -> None:
    with pytest.raises(InputError, match="at least two"):
        paired([1.0], [2.0])
    with pytest.raises(InputError, match="3 and 2 values"):
        paired([1.0, 2, 3], [1.0, 2])
    with pytest.raises(InputError, match="positive"):
        judge(Paired(0, -1, 1, 1, 5), 0)
    with pytest.raises(InputError, match="freedom"):
        t_quantile(0.9, 0)
