import pytest
import torch

from squeezecam.errors import InputError
from squeezecam.metrics import (
    adcc,
    adcc_parts,
    average_drop,
    average_gain,
    coherency,
    complexity,
    increase_in_confidence,
    map_area,
    mask_inputs,
    masked_confidence,
    min_max,
    sparseness,
)

NAN = float("nan")


def mean_model(inputs):
    mean = inputs.flatten(1).mean(dim=1)
    return torch.stack([mean, 1 - mean], dim=1)


def test_drop_increase_and_gain_by_hand():
    full, masked = torch.tensor([0.8, 0.5, 0.2]), torch.tensor([0.6, 0.5, 0.6])
    # drop: (.8 - .6) / .8 = .25; gain of the third: (.6 - .2) / (1 - .2) = .5
    assert average_drop(full, masked).tolist() == pytest.approx([0.25, 0, 0])
    assert average_gain(full, masked).tolist() == pytest.approx([0, 0, 0.5])
    assert increase_in_confidence(full, masked).tolist() == [0, 0, 1]


def test_certain_and_impossible_classes_are_no_division_by_zero():
    assert average_drop(torch.tensor([0.0]), torch.tensor([0.3])).item() == 0
    assert average_gain(torch.tensor([1.0]), torch.tensor([0.3])).item() == 0


def test_nan_passes_and_scores_outside_the_unit_interval_do_not():
    full, masked = torch.tensor([0.5, 0.5]), torch.tensor([NAN, 0.25])
    for metric in (average_drop, average_gain, increase_in_confidence):
        value = metric(full, masked)
        assert value[0].isnan()
        assert not value[1].isnan()
        with pytest.raises(InputError, match="outside"):
            metric(torch.tensor([3.0, 0.0]), masked)
        with pytest.raises(InputError, match=r"\(2,\).*\(1,\)"):
            metric(full, masked[:1])


def test_masked_confidence_by_hand():
    inputs = torch.tensor([[[[1.0, 0.5], [0.5, 0.0]]]])
    heatmap = torch.tensor([[[3.0, 2.0], [1.0, 1.0]]])
    # min-max: (1, .5, 0, 0); the picture becomes (1, .25, 0, 0): means 2/4 and 1.25/4
    result = masked_confidence(mean_model, inputs, heatmap, torch.tensor([0]), outputs="probabilities")
    assert result.full.item() == pytest.approx(0.5)
    assert result.masked.item() == pytest.approx(0.3125)
    assert average_drop(*result).item() == pytest.approx(0.375)


def test_mask_is_independent_of_scale_and_offset_of_the_map():
    inputs, heatmap = torch.rand(2, 3, 4, 5), torch.randn(2, 4, 5)
    torch.testing.assert_close(mask_inputs(inputs, heatmap), mask_inputs(inputs, 7 * heatmap - 100), atol=1e-4, rtol=0)
    assert (mask_inputs(inputs, torch.ones(2, 4, 5)) == 0).all()
    bad = heatmap.clone()
    bad[1, 0, 0] = NAN
    result = masked_confidence(mean_model, inputs, bad, torch.tensor([0, 0]))
    assert result.masked.isnan().tolist() == [False, True]
    assert not result.full.isnan().any()
    with pytest.raises(InputError, match="relative"):
        masked_confidence(mean_model, inputs, heatmap, torch.tensor([0, 0]), outputs="scores")


def test_min_max_of_flat_huge_and_infinite_maps():
    maps = torch.tensor([[[2.0, 2.0]], [[-1e30, 1e30]], [[float("inf"), 0.0]]])
    scaled = min_max(maps)
    assert scaled[0].tolist() == [[0, 0]]
    assert scaled[1].tolist() == [[0, 1]]
    assert scaled[2].isnan().all()


def test_area_and_complexity_by_hand():
    # (0, 1, 1, 2) becomes (0, .5, .5, 1): 2 / 4
    heatmap = torch.tensor([[[0.0, 1.0], [1.0, 2.0]]])
    assert map_area(heatmap).item() == pytest.approx(0.5)
    assert complexity(heatmap * 9 - 4).item() == pytest.approx(0.5)
    assert map_area(torch.full((1, 3, 3), 5.0)).item() == 0
    assert map_area(torch.full((1, 3, 3), NAN)).isnan().all()


def test_coherency_by_hand():
    first = torch.tensor([[[1.0, 2.0, 3.0]]]).repeat(4, 1, 1)
    second = torch.tensor([[[2.0, 4.0, 6.0]], [[3.0, 2.0, 1.0]], [[1.0, 3.0, 2.0]], [[5.0, 5.0, 5.0]]])
    # r = 1, -1; third: deviations (-1, 0, 1) and (-1, 1, 0), r = 1 / 2; fourth: constant, counted as r = 0
    assert coherency(first, second).tolist() == pytest.approx([1, 0, 0.75, 0.5])
    second[0, 0, 0] = NAN
    assert coherency(first, second).isnan().tolist() == [True, False, False, False]


def test_adcc_by_hand():
    # 3 / (1 / .8 + 1 / (1 - .5) + 1 / (1 - .2)) = 3 / (1.25 + 2 + 1.25) = 2 / 3
    value = adcc(torch.tensor([0.2]), torch.tensor([0.8]), torch.tensor([0.5]))
    assert value.item() == pytest.approx(2 / 3)
    # One failing part is failure.
    for parts in ((1.0, 0.5, 0.5), (0.5, 0.0, 0.5), (0.5, 0.5, 1.0)):
        assert adcc(*(torch.tensor([p]) for p in parts)).item() == 0
    assert adcc(torch.tensor([NAN]), torch.tensor([0.5]), torch.tensor([0.5])).isnan()
    with pytest.raises(InputError, match="complexity"):
        adcc(torch.tensor([0.2]), torch.tensor([0.8]), torch.tensor([1.5]))


def test_adcc_of_a_method_by_hand():
    inputs = torch.tensor([[[[1.0, 0.5], [0.5, 0.0]]]])

    def explain(batch):
        return batch.mean(dim=1)

    # Map = picture = (1, .5, .5, 0), area .5. Seen through it: (1, .25, .25, 0), mean .375 against .5: drop .25.
    # r: deviations (.5, 0, 0, -.5) and (.625, -.125, -.125, -.375): .5 / sqrt(.5 * .5625) = .942809
    result = adcc_parts(mean_model, explain, inputs, torch.tensor([0]), outputs="probabilities")
    assert result.complexity.item() == pytest.approx(0.5)
    assert result.drop.item() == pytest.approx(0.25)
    assert result.coherency.item() == pytest.approx((1 + 0.942809) / 2, abs=1e-5)
    assert result.adcc.item() == pytest.approx(3 / (1 / 0.9714045 + 2 + 1 / 0.75), abs=1e-5)


def test_sparseness_by_hand():
    # (1, 3): (2 * 1 - 3) 1 + (2 * 2 - 3) 3 = 2, over 2 * 4: .25. Signs do not matter.
    assert sparseness(torch.tensor([[[3.0, -1.0]]])).item() == pytest.approx(0.25)
    spike = torch.zeros(1, 2, 4)
    spike[0, 1, 1] = 7
    assert sparseness(spike).item() == pytest.approx(7 / 8)
    assert sparseness(torch.ones(1, 5, 5)).item() == pytest.approx(0)
    assert sparseness(torch.zeros(1, 5, 5)).isnan()
    maps = torch.rand(3, 8, 8)
    torch.testing.assert_close(sparseness(maps), sparseness(maps * 1000))
    assert (sparseness(maps**4) > sparseness(maps)).all()
    maps[1, 0, 0] = NAN
    assert sparseness(maps).isnan().tolist() == [False, True, False]


def test_maps_without_a_batch_are_refused():
    with pytest.raises(InputError, match=r"\(4,\)"):
        map_area(torch.zeros(4))
    with pytest.raises(InputError, match=r"\(2, 3, 3\).*\(2, 1, 4, 4\)"):
        mask_inputs(torch.zeros(2, 1, 4, 4), torch.zeros(2, 3, 3))
