import pytest
import torch

from squeezecam import metrics
from squeezecam.errors import InputError
from squeezecam.metrics import (
    METRICS,
    all_channel_mean,
    bootstrap_difference,
    bootstrap_mean,
    centred_gaussian,
    channel_evidence,
    channel_faithfulness,
    describe,
    map_area,
    opposing_share,
    random_channels,
    random_map,
)

NAN = float("nan")
WEIGHT = torch.tensor([[4.0, -2.0, 1.0, 0.5], [0.0, 0.0, 0.0, 0.0]])


def linear_head(features):
    return features.mean(dim=(2, 3)) @ WEIGHT.T


def test_channel_faithfulness_by_hand():
    features = torch.ones(1, 4, 2, 2)
    kept = torch.tensor([[True, False, True, False]])
    score = torch.tensor([[3.0, 0.0, 2.0, 1.0]])
    result = channel_faithfulness(
        linear_head, features, kept, score, torch.tensor([0]), outputs="scores", draws=50, seed=1
    )
    # Logit 4 - 2 + 1 + .5 = 3.5. Without channels 0 and 2: -1.5, a drop of 5. The two lowest are 1 and 3:
    # -2 + .5, a drop of -1.5. Two of four at random: half of 3.5 on average.
    assert result.full.item() == pytest.approx(3.5)
    assert result.kept_drop.item() == pytest.approx(5)
    assert result.lowest_drop.item() == pytest.approx(-1.5)
    assert result.random_drop.item() == pytest.approx(1.75, abs=0.6)
    # Effects (4, -2, 1, .5) are in the order of the scores.
    assert result.correlation.item() == pytest.approx(1)


def test_channel_correlation_sees_a_wrong_order_and_an_unfitted_block():
    features = torch.ones(3, 4, 2, 2)
    score = torch.stack([-WEIGHT[0], torch.ones(4), torch.tensor([NAN, 0, 0, 0])])
    kept = torch.tensor([[True, False, False, False]] * 3)
    result = channel_faithfulness(linear_head, features, kept, score, torch.zeros(3, dtype=torch.long))
    assert result.correlation[0].item() == pytest.approx(-1)
    assert result.correlation[1].isnan()
    assert result.kept_drop.isnan().tolist() == [False, False, True]


def test_channel_groups_by_hand():
    features = torch.ones(1, 4, 1, 1)
    score = torch.tensor([[4.0, 1.0, 3.0, 2.0]])
    seen = []

    def head(batch):
        seen.append((batch[:, :, 0, 0] == 0).tolist())
        return linear_head(batch)

    kept = torch.zeros(1, 4, dtype=torch.bool)
    result = channel_faithfulness(head, features, kept, score, torch.tensor([0]), groups=2, draws=1, outputs="scores")
    # In order of score: channels 0, 2 | 3, 1. Effects 5 / 2 and -1.5 / 2.
    assert seen[0][-2:] == [[True, False, True, False], [False, True, False, True]]
    assert result.correlation.item() == pytest.approx(1)
    assert result.kept_drop.item() == result.random_drop.item() == result.lowest_drop.item() == 0


def test_the_effect_of_a_group_is_that_per_channel():
    weight = torch.tensor([[2.0, 2.0, 2.0, 2.5, 2.5, 1.0, 1.0]])
    result = channel_faithfulness(
        lambda features: features.mean(dim=(2, 3)) @ weight.T,
        torch.ones(1, 7, 1, 1),
        torch.zeros(1, 7, dtype=torch.bool),
        torch.arange(7.0, 0.0, -1.0)[None],
        torch.tensor([0]),
        groups=3,
        outputs="scores",
    )
    # Groups of 3, 2 and 2 by falling score, whose ablation costs 6, 5 and 2: 2, 2.5 and 1 per channel. Ranks (3, 2, 1)
    # against (2, 3, 1): 1 - 6 * 2 / 24.
    assert result.correlation.item() == pytest.approx(0.5)


def test_channel_results_do_not_depend_on_batch_and_chunks():
    generator = torch.Generator().manual_seed(0)
    features, score = torch.rand(3, 4, 3, 3, generator=generator), torch.rand(3, 4, generator=generator)
    kept, target = score > 0.5, torch.tensor([0, 1, 0])
    whole = channel_faithfulness(linear_head, features, kept, score, target)
    for i in range(3):
        part = slice(i, i + 1)
        one = channel_faithfulness(linear_head, features[part], kept[part], score[part], target[part], batch_size=2)
        for a, b in zip(one, whole, strict=True):
            torch.testing.assert_close(a[0], b[i], equal_nan=True)
    with pytest.raises(InputError, match=r"\(3, 4, 3, 3\).*\(3, 5\)"):
        channel_faithfulness(linear_head, features, torch.ones(3, 5), score, target)


def test_opposing_share_by_hand():
    evidence = channel_evidence(torch.tensor([[1.0, 1.0, 2.0, 1.0]] * 3), WEIGHT, torch.tensor([0, 0, 1]))
    assert evidence.tolist() == [[4, -2, 2, 0.5], [4, -2, 2, 0.5], [0, 0, 0, 0]]
    kept = torch.tensor([[True, True, True, False], [False] * 4, [True] * 4])
    share = opposing_share(kept, evidence)
    assert share[0].item() == pytest.approx(1 / 3)
    assert share[1].isnan()
    assert share[2].item() == 0
    with pytest.raises(InputError, match=r"\(3, 4\).*\(3, 3\)"):
        opposing_share(kept, evidence[:, :3])


def test_controls():
    features = torch.arange(24.0).view(1, 6, 2, 2).repeat(3, 1, 1, 1)
    # Channel c holds 4 c + (0..3); the mean over c of 4 c is 10.
    assert all_channel_mean(features)[0].tolist() == [[10, 11], [12, 13]]
    torch.testing.assert_close(random_channels(features, share=1.0), all_channel_mean(features))
    single = random_channels(features, 0.1, torch.Generator().manual_seed(0))
    assert all((single[i] == features[i]).all(dim=-1).all(dim=-1).any() for i in range(3))
    assert torch.equal(single, random_channels(features, 0.1, torch.Generator().manual_seed(0)))
    assert len({random_channels(features, 0.1, torch.Generator().manual_seed(s))[0, 0, 0].item() for s in range(9)}) > 2
    maps = random_map(4, (3, 5), torch.Generator().manual_seed(0))
    assert maps.shape == (4, 3, 5)
    assert torch.equal(maps, random_map(4, (3, 5), torch.Generator().manual_seed(0)))
    with pytest.raises(InputError, match="share"):
        random_channels(features, 0)
    with pytest.raises(InputError, match=r"\(3, 6\)"):
        all_channel_mean(features.flatten(2).mean(2))


def test_gaussian_is_centred_symmetric_and_as_wide_as_said():
    bump = centred_gaussian(2, 40, 80)
    torch.testing.assert_close(bump, bump.flip(1))
    torch.testing.assert_close(bump, bump.flip(2))
    assert torch.equal(bump[0], bump[1])
    # Half a pixel off the centre, then a quarter of the height further: exp(-1/2) of it.
    assert (bump[0, 29, 40] / bump[0, 19, 40]).item() == pytest.approx(
        torch.tensor((9.5**2 - 0.5**2) / (2 * 10**2)).neg().exp().item(), rel=1e-4
    )
    assert 0.3 < map_area(bump)[0] < 0.4


def test_bootstrap_by_hand():
    constant = bootstrap_mean(torch.full((20,), 0.5))
    assert (constant.mean, constant.low, constant.high, constant.samples) == (0.5, 0.5, 0.5, 20)
    # 0 or 1 with n = 400: standard error .5 / 20 = .025, so about .5 +- 1.96 * .025
    half = bootstrap_mean(torch.tensor([0.0, 1.0]).repeat(200), resamples=4000)
    assert half.low == pytest.approx(0.451, abs=0.006)
    assert half.high == pytest.approx(0.549, abs=0.006)
    assert bootstrap_mean(torch.tensor([1.0, NAN, 3.0])).samples == 2
    assert bootstrap_mean(torch.tensor([1.0, NAN, 3.0])).mean == 2
    empty = bootstrap_mean(torch.tensor([NAN]))
    assert empty.samples == 0
    assert empty.mean != empty.mean
    values = torch.randn(50)
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)
    assert bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)


def test_paired_difference_is_sharper_than_two_means():
    generator = torch.Generator().manual_seed(0)
    hard = torch.randn(100, generator=generator)
    ours, theirs = hard + 0.1 + 0.02 * torch.randn(100, generator=generator), hard
    difference = bootstrap_difference(ours, theirs)
    assert difference.low > 0.09
    assert difference.high < 0.11
    assert bootstrap_mean(ours).low < bootstrap_mean(theirs).high
    assert bootstrap_difference(torch.tensor([1.0, NAN]), torch.tensor([0.5, 0.0])).samples == 1
    with pytest.raises(InputError, match=r"\(2,\).*\(3,\)"):
        bootstrap_difference(torch.zeros(2), torch.zeros(3))


def test_interval_covers_the_truth_as_often_as_it_says():
    generator = torch.Generator().manual_seed(0)
    hits = 0
    for seed in range(120):
        interval = bootstrap_mean(torch.rand(60, generator=generator), resamples=300, seed=seed)
        hits += interval.low <= 0.5 <= interval.high
    assert 0.88 <= hits / 120 <= 0.99


def test_registry_names_public_functions_and_helps_with_typing_errors():
    for name, metric in METRICS.items():
        assert name == metric.name
        assert callable(getattr(metrics, name))
        assert metric.reference
        assert metric.description
    assert describe("insertion").higher_is_better is True
    assert describe("deletion").higher_is_better is False
    assert describe("map_area").higher_is_better is None
    with pytest.raises(InputError, match="insertion"):
        describe("insertoin")
