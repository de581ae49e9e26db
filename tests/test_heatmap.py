"""Aggregation and upsampling."""

import pytest
import torch

import oracle
from squeezecam import heatmap
from squeezecam.errors import InputError
from squeezecam.sizes import enlarged

GRIDS = [((5,), (17,)), ((9,), (4,)), ((3, 4), (11, 9)), ((7, 7), (30, 30)), ((6, 5), (3, 4)), ((2, 3, 3), (5, 7, 8))]


def test_each_aggregation_on_numbers_that_one_can_check():
    features = torch.tensor([[[3.0, -1.0], [1.0, 1.0], [100.0, 100.0]]])
    gates = torch.tensor([[0.5, 1.0, 1.0]])
    kept = torch.tensor([[True, True, False]])
    assert heatmap.aggregate(features, gates, kept, "mean").tolist() == [[1.25, 0.25]]
    assert heatmap.aggregate(features, gates, kept, "positive").tolist() == [[1.25, 0.5]]
    expected = torch.tensor([[((1.5**2 + 1) / 2) ** 0.5, ((0.5**2 + 1) / 2) ** 0.5]])
    torch.testing.assert_close(heatmap.aggregate(features, gates, kept, "energy"), expected)


@pytest.mark.parametrize("strength", [0.8, -0.8])
def test_the_first_principal_component_is_told_from_a_second_one_that_is_nearly_as_strong(strength):
    first = torch.tensor([3.0, -1.0, -1.0, -1.0], dtype=torch.float64) / 12**0.5
    second = torch.tensor([0.0, 2.0, -1.0, -1.0], dtype=torch.float64) / 6**0.5
    features = torch.stack([first, strength * second])[None].view(1, 2, 2, 2)
    # Unit vectors at right angles, mean 0, variances 1 and 0.64: the answer is the first, to 0.67 * 0.64**24 = 1.5e-5.
    torch.testing.assert_close(heatmap.principal(features), first.view(1, 2, 2), atol=3e-5, rtol=0)


def test_the_principal_component_is_that_of_a_decomposition():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, 12, 5, 4, generator=generator, dtype=torch.float64)
    features[:, :4] += 2 * torch.randn(3, 1, 5, 4, generator=generator, dtype=torch.float64)
    flat = features.flatten(2)
    _, sizes, patterns = torch.linalg.svd(flat - flat.mean(2, keepdim=True))
    assert bool((sizes[:, 1] < 0.8 * sizes[:, 0]).all())
    expected = patterns[:, 0]
    energy = flat.square().sum(1)
    side = ((energy - energy.mean(1, keepdim=True)) * expected).sum(1, keepdim=True).sign()
    torch.testing.assert_close(heatmap.principal(features).flatten(1), side * expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(2, 6, 5), (2, 6, 3, 4), (2, 6, 2, 3, 4)])
def test_aggregation_averages_only_the_kept_channels_of_each_sample(shape):
    features, gates = torch.rand(shape, dtype=torch.float64), torch.rand(2, 6, dtype=torch.float64)
    kept = torch.tensor([[True, False, True, False, False, True], [False, True, False, False, False, False]])
    found = heatmap.aggregate(features, gates, kept)
    for i in range(2):
        channels, grid = oracle.flat_channels(features[i], 0)
        expected = oracle.average_kept(channels, gates[i].tolist(), kept[i].tolist())
        torch.testing.assert_close(found[i], torch.tensor(expected).double().view(grid), atol=1e-7, rtol=0)


def test_after_a_layer_norm_the_mean_cancels_and_the_others_find_the_evidence():
    features = torch.randn(1, 4, 4, 64, dtype=torch.float64)
    features[0, 1, 2, :8] += 12  # eight channels fire at one position
    normed = torch.nn.functional.layer_norm(features, (64,)).permute(0, 3, 1, 2)
    gates, everything = torch.ones(1, 64).double(), torch.ones(1, 64, dtype=torch.bool)
    assert heatmap.aggregate(normed, gates, everything, "mean").abs().max() < 1e-12
    chosen = torch.arange(64)[None] < 8
    for how in ("positive", "energy"):
        assert heatmap.aggregate(normed, gates, chosen, how).flatten().argmax() == 1 * 4 + 2


def test_weighted_sum_is_signed_and_accumulates_in_single():
    features = torch.full((1, 2, 3), 300.0, dtype=torch.float16)
    found = heatmap.weighted_sum(features, torch.tensor([[400.0, -1.0]]))
    assert found.dtype == torch.float32
    assert found.tolist() == [[119700.0] * 3]


@pytest.mark.parametrize(("grid", "size"), GRIDS)
def test_upsampling_is_that_of_the_literal_implementation(grid, size):
    maps = torch.randn(2, *grid, dtype=torch.float64)
    found = heatmap.upsample(maps, size)
    for i in range(2):
        expected = oracle.upsample(maps[i].reshape(-1).tolist(), grid, size)
        torch.testing.assert_close(found[i], torch.tensor(expected, dtype=torch.float64).view(size), atol=1e-10, rtol=0)


def test_averaging_first_and_upsampling_once_is_the_same_map():
    features, gates = torch.rand(1, 40, 7, 7), torch.rand(1, 40)
    kept = torch.rand(1, 40) > 0.5
    once = heatmap.upsample(heatmap.aggregate(features, gates, kept), (56, 56))
    scaled = (features * gates[:, :, None, None])[0, kept[0]]
    torch.testing.assert_close(once, heatmap.upsample(scaled, (56, 56)).mean(0, keepdim=True), atol=1e-6, rtol=0)


@pytest.mark.parametrize("mode", heatmap.UPSAMPLING)
@pytest.mark.parametrize(("grid", "size"), GRIDS)
def test_every_mode_keeps_a_constant_and_the_shape(mode, grid, size):
    found = heatmap.upsample(torch.full((2, *grid), 3.0), size, mode)
    assert found.shape == (2, *size)
    torch.testing.assert_close(found, torch.full((2, *size), 3.0))


def test_linear_and_nearest_stay_within_the_range_where_cubic_overshoots():
    spike = torch.zeros(1, 5, 5)
    spike[0, 2, 2] = 1
    assert heatmap.upsample(spike, (40, 40)).min() < -0.01
    for mode in ("linear", "nearest", "spline"):
        found = heatmap.upsample(spike, (40, 40), mode)
        assert found.min() == 0
        assert found.max() <= 1
    assert heatmap.upsample(spike, (40, 40), "nearest").sum() == 64  # an 8x8 cell


def test_the_hottest_cell_stays_where_it_is():
    for mode in heatmap.UPSAMPLING:
        maps = torch.rand(1, 4, 6)
        maps[0, 3, 1] = 5
        found = heatmap.upsample(maps, (40, 60), mode)
        y, x = divmod(int(found[0].argmax()), 60)
        assert (y // 10, x // 10) == (3, 1)


def test_the_same_size_is_left_alone_to_the_bit():
    maps = torch.randn(2, 5, 6)
    assert torch.equal(heatmap.upsample(maps, (5, 6)), maps)


def test_the_spline_is_the_cubic_b_spline():
    spike = torch.zeros(1, 9, dtype=torch.float64)
    spike[0, 4] = 6
    found = heatmap.upsample(spike, (18,), "spline")[0]  # points at cells 3.75, 4.25, ...
    near = [4 - 6 * t**2 + 3 * t**3 for t in (0.25, 0.25, 0.75)]
    far = [(2 - t) ** 3 for t in (1.25, 1.75)]
    torch.testing.assert_close(found[8:14], torch.tensor([*near, *far, 0.0], dtype=torch.float64))
    torch.testing.assert_close(found, found.flip(0))


def test_the_spline_puts_a_peak_between_two_cells_that_are_alike():
    pair = torch.zeros(1, 6, 6)
    pair[0, 2, 2] = pair[0, 2, 3] = 1
    found = heatmap.upsample(pair, (60, 60), "spline")[0]
    row, column = divmod(int(found.argmax()), 60)
    assert row in (24, 25)
    assert column in (29, 30)


def test_evidence_against_the_class_does_not_eat_into_the_hot_cell_beside_it():
    raw = torch.tensor([[[4.0, -10.0]]])
    # Points at cells -.25, .25, .75 and 1.25 of (4, 0), the map cut at 0.
    assert enlarged(raw, (4,), "linear").tolist() == [[[4, 3, 1, 0]]]
    # The cubic B-spline of 6 is 4 - 6 t^2 + 3 t^3 within a cell, (2 - t)^3 beyond.
    beside = torch.tensor([[[0.0, 0.0, 0.0, 6.0, -10.0, 0.0]]], dtype=torch.float64)
    expected = [(2 - t) ** 3 for t in (1.75, 1.25)] + [4 - 6 * t**2 + 3 * t**3 for t in (0.75, 0.25, 0.25, 0.75)]
    found = enlarged(beside, (12,), "spline")[0, 0]
    torch.testing.assert_close(found[3:9], torch.tensor(expected, dtype=torch.float64))


def test_unknown_names_and_other_ranks_are_refused():
    maps = torch.rand(1, 4, 4)
    with pytest.raises(InputError, match=r"unknown upsampling 'cubic'; expected one of bicubic, linear, nearest"):
        heatmap.upsample(maps, (4, 4), "cubic")
    with pytest.raises(InputError, match="ranks differ"):
        heatmap.upsample(maps, (8,))
    with pytest.raises(InputError, match="unknown aggregation 'sum'"):
        heatmap.aggregate(torch.rand(1, 2, 3), torch.rand(1, 2), torch.ones(1, 2, dtype=torch.bool), "sum")
