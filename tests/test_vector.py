"""Keep rules and interventions on SE vectors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from squeezecam import vector
from squeezecam.errors import InputError


def open_gates(channels: int, count: int) -> torch.Tensor:
    """``count`` gates at 1, the others at 0."""
    return (torch.arange(channels) < count).double()[None]


def test_the_std_is_that_of_the_population():
    # mean 1/3; population std .471: limit .938, the third passes. Sample std .577: limit 1.074, none would.
    kept = vector.zscore(torch.tensor([[0.0, 0.0, 1.0]]))
    assert kept.mask.tolist() == [[False, False, True]]
    assert not kept.fallback.any()


def test_top_tenth_of_a_normal_distribution():
    gates = torch.erfinv(torch.linspace(-0.9999, 0.9999, 20001, dtype=torch.float64))[None]
    for threshold, share in ((1.282, 0.10), (0.674, 0.25), (1.645, 0.05)):
        assert vector.zscore(gates, threshold).share.item() == pytest.approx(share, abs=2e-3)


def test_open_gates_pass_below_the_bound_of_37_8_percent_and_not_above():
    below, above = vector.zscore(open_gates(1000, 378)), vector.zscore(open_gates(1000, 379))
    assert below.mask.sum() == 378
    assert not below.fallback.any()
    assert above.fallback.all()
    assert above.mask[0].tolist() == [True] * 379 + [False] * 621  # the top tenth, with all that tie with it


def test_saturated_gates_keep_the_top_tenth_by_the_score():
    gates = torch.cat([torch.full((1, 8), 1e-3), 0.99 + torch.arange(32).float()[None] * 1e-4], 1)
    kept = vector.zscore(gates)
    assert kept.fallback.all()
    assert kept.mask[0].nonzero().flatten().tolist() == [36, 37, 38, 39]


@pytest.mark.parametrize("rule", ["zscore", "quantile:0.1", "topk:3", "all"])
def test_equal_scores_keep_every_channel_and_say_so(rule):
    kept = vector.keep_rule(rule)(torch.full((2, 40), 0.5))
    assert kept.mask.all()
    assert kept.tied.all()
    assert not kept.fallback.any()


def test_gates_that_differ_by_little_are_not_tied():
    # mean .4992; std .0006: limit .49997, only the last passes
    kept = vector.zscore(torch.tensor([[0.499] * 9 + [0.501]]))
    assert not kept.tied.any()
    assert not kept.fallback.any()
    assert kept.mask.tolist() == [[False] * 9 + [True]]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60),
    st.sampled_from(["zscore", "zscore:3", "quantile:0.01", "topk:1"]),
)
def test_never_nothing_and_nothing_kept_below_something_dropped(values, rule):
    score = torch.tensor([values])
    kept = vector.keep_rule(rule)(score)
    assert kept.mask.any()
    if not kept.mask.all():
        assert score[kept.mask].min() > score[~kept.mask].max()


@pytest.mark.parametrize(
    ("channels", "share", "count"),
    [
        (1280, 0.1, 128),
        (100, 0.07, 7),
        (100, 0.55, 55),
        (30, 0.1, 3),
        (15, 0.1, 2),
        (7, 0.1, 1),
        (10, 1.0, 10),
        (10, 0.001, 1),
    ],
)
def test_quantile_keeps_the_exact_count(channels, share, count):
    kept = vector.quantile(torch.randperm(channels)[None].float(), share)
    assert kept.mask.sum() == count


@pytest.mark.parametrize(("k", "count"), [(1, 1), (5, 5), (20, 20), (50, 20)])
def test_topk_keeps_the_exact_count_of_the_highest(k, count):
    score = torch.randperm(20)[None].float()
    kept = vector.topk(score, k)
    assert kept.mask.sum() == count
    assert kept.mask[0].tolist() == (score[0] >= 20 - count).tolist()


def test_ties_at_the_limit_are_all_kept():
    score = torch.tensor([[3.0, 2.0, 2.0, 2.0, 1.0]])
    assert vector.topk(score, 2).mask.tolist() == [[True, True, True, True, False]]
    assert vector.quantile(score, 0.4).mask.tolist() == [[True, True, True, True, False]]


@pytest.mark.parametrize("rule", ["zscore", "quantile:0.2", "topk:4", "all"])
def test_a_row_does_not_see_the_other_rows(rule):
    score = torch.randn(6, 50, dtype=torch.float64)
    together = vector.keep_rule(rule)(score)
    for i in range(6):
        alone = vector.keep_rule(rule)(score[i : i + 1])
        assert torch.equal(alone.mask[0], together.mask[i])
        assert alone.fallback[0] == together.fallback[i]


def test_the_rule_sees_the_order_and_not_the_amplitude():
    score = torch.randn(4, 200, dtype=torch.float64)
    assert torch.equal(vector.zscore(score).mask, vector.zscore(0.1 * score + 0.5).mask)


def test_a_row_that_is_not_finite_keeps_nothing_and_leaves_the_others_alone():
    score = torch.randn(3, 40)
    alone = vector.zscore(score[[0, 2]])
    score[1, 7] = float("nan")
    kept = vector.zscore(score)
    assert not kept.mask[1].any()
    assert not kept.fallback[1]
    assert torch.equal(kept.mask[[0, 2]], alone.mask)


def test_half_precision_scores_are_judged_in_single():
    score = torch.randn(2, 64).half()
    assert torch.equal(vector.zscore(score).mask, vector.zscore(score.float()).mask)


def test_rules_by_name():
    score = torch.randn(3, 100)
    assert torch.equal(vector.keep_rule(None)(score).mask, vector.zscore(score, 1.282).mask)
    assert torch.equal(vector.keep_rule("zscore:0.674")(score).mask, vector.zscore(score, 0.674).mask)
    assert torch.equal(vector.keep_rule("quantile")(score).mask, vector.quantile(score, 0.1).mask)
    assert vector.keep_rule("topk:16")(score).mask.sum(1).tolist() == [16, 16, 16]
    assert vector.keep_rule("all")(score).share.tolist() == [1, 1, 1]


def test_a_function_may_be_the_rule_and_gets_the_fallback():
    score = torch.tensor([[0.1, 0.9, 0.2], [0.1, 0.3, 0.2]])
    kept = vector.keep_rule(lambda s: s > 0.5)(score)
    assert kept.mask.tolist() == [[False, True, False], [False, True, False]]
    assert kept.fallback.tolist() == [False, True]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("zscor", r"unknown keep rule 'zscor'; expected 'zscore\[:z\]', .*'topk:k' or 'all'$"),
        ("topk", "unknown keep rule"),
        ("topk:half", "'half' is not a number"),
        ("topk:0", "at least 1, got 0"),
        ("quantile:0", "lie in"),
        ("quantile:10", "lie in"),
        ("zscore:nan", "nan"),
        ("all:3", "unknown keep rule"),
        (0.1, r"unknown keep rule 0\.1; expected a function, or one of the names"),
        (lambda s: s, "bool mask of shape"),
        (lambda s: s[0] > 0, "bool mask of shape"),
        (lambda s: None, "NoneType"),
    ],
)
def test_what_is_no_rule_is_refused(rule, words):
    with pytest.raises(InputError, match=words):
        vector.keep_rule(rule)(torch.randn(2, 10))


def test_scores_need_samples_and_channels():
    with pytest.raises(InputError, match=r"\(10,\)"):
        vector.zscore(torch.randn(10))


def test_interventions():
    gates = torch.tensor([[0.1, 0.2, 0.6], [0.3, 0.3, 0.9]])
    before = gates.clone()
    mask = torch.tensor([[True, False, False], [False, False, True]])
    torch.testing.assert_close(vector.intervene(gates, mask, "keep"), torch.tensor([[0.1, 0, 0], [0, 0, 0.9]]))
    torch.testing.assert_close(vector.intervene(gates, mask, "drop"), torch.tensor([[0, 0.2, 0.6], [0.3, 0.3, 0]]))
    torch.testing.assert_close(vector.intervene(gates, mask, "mean"), torch.tensor([[0.3, 0.2, 0.6], [0.3, 0.3, 0.5]]))
    torch.testing.assert_close(vector.intervene(gates, mask[0], "drop", rest=0.5)[:, 0], torch.tensor([0.5, 0.5]))
    assert torch.equal(gates, before)


@pytest.mark.parametrize(
    ("channels", "how"),
    [(torch.tensor([0, 2]), "drop"), (torch.tensor([1, 0, 1]), "drop"), (torch.ones(3, dtype=torch.bool), "remove"),
     (torch.ones(4, dtype=torch.bool), "drop")],
)  # fmt: skip
def test_interventions_that_cannot_be_meant_are_refused(channels, how):
    with pytest.raises(InputError):
        vector.intervene(torch.rand(2, 3), channels, how)
