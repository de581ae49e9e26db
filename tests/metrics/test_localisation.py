import pytest
import torch

from squeezecam.errors import InputError
from squeezecam.metrics import (
    box_ious,
    boxes_to_mask,
    deletion,
    energy_pointing_game,
    insertion,
    map_area,
    mask_iou,
    max_box_acc,
    max_box_acc_v2,
    pointing_game,
    road,
    sparseness,
)

NAN = float("nan")


def spot(height, width, y, x):
    heatmap = torch.zeros(1, height, width)
    heatmap[0, y, x] = 1
    return heatmap


def test_pointing_by_hand_and_with_tolerance():
    mask = boxes_to_mask([torch.tensor([0, 0, 2, 2])], 6, 6)
    assert pointing_game(spot(6, 6, 1, 1), mask).item() == 1
    far = spot(6, 6, 4, 5)
    assert pointing_game(far, mask).item() == 0
    # The nearest object pixel is (1, 1), 3 rows and 4 columns away: distance 5.
    assert pointing_game(far, mask, tolerance=5).item() == 1
    assert pointing_game(far, mask, tolerance=4.9).item() == 0


def test_pointing_empty_mask_is_never_a_hit_and_flat_maps_point_nowhere():
    maps = torch.cat([spot(4, 4, 0, 0), spot(4, 4, 0, 0), torch.ones(1, 4, 4), torch.full((1, 4, 4), NAN)])
    mask = torch.zeros(4, 4, 4, dtype=torch.bool)
    mask[1:] = True
    for tolerance in (0, 100):
        value = pointing_game(maps, mask, tolerance=tolerance)
        assert value.isnan().tolist() == [True, False, False, True]
        assert value[1:3].tolist() == [1, 0]


def test_pointing_ties_union_and_sign():
    maps = torch.tensor([[[0.0, 5.0], [5.0, 0.0]]])
    # The first of the two maxima is at (0, 1).
    assert pointing_game(maps, boxes_to_mask([torch.tensor([1, 0, 2, 1])], 2, 2)).item() == 1
    assert pointing_game(maps, boxes_to_mask([torch.tensor([0, 1, 1, 2])], 2, 2)).item() == 0
    union = boxes_to_mask([torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])], 2, 2)
    assert pointing_game(maps, union).item() == 1
    assert pointing_game(maps - 100, union).item() == 1


def test_energy_by_hand():
    maps = torch.tensor([[[1.0, 3.0], [2.0, 5.0]]])
    mask = torch.tensor([[[0, 1], [0, 1]]])
    # min-max: (0, .5, .25, 1); right column 1.5 of 1.75. Positive part: 8 of 11.
    assert energy_pointing_game(maps, mask).item() == pytest.approx(1.5 / 1.75)
    assert energy_pointing_game(maps, mask, normalise="positive").item() == pytest.approx(8 / 11)
    assert energy_pointing_game(-maps, mask, normalise="positive").item() == 0
    assert energy_pointing_game(torch.ones(1, 2, 2), mask).item() == 0
    assert energy_pointing_game(maps, torch.zeros(1, 2, 2)).isnan().item()
    assert energy_pointing_game(maps * NAN, mask).isnan().item()


def test_energy_of_a_random_map_is_the_area_of_the_object():
    maps = torch.rand(64, 32, 32, generator=torch.Generator().manual_seed(0))
    mask = boxes_to_mask([torch.tensor([4, 4, 20, 20])] * 64, 32, 32)
    assert energy_pointing_game(maps, mask).mean().item() == pytest.approx(0.25, abs=0.01)


def test_iou_by_hand():
    maps = torch.tensor([[[0.0, 6.0], [4.0, 10.0]]])
    mask = torch.tensor([[[1, 1], [0, 0]]])
    # At .5: 6 and 10 are marked; shared 1, union 3. At .35: 4 too; shared 1, union 4. At 1: only 10, shared 0.
    assert mask_iou(maps, mask).item() == pytest.approx(1 / 3)
    assert mask_iou(maps, mask, threshold=0.35).item() == pytest.approx(1 / 4)
    assert mask_iou(maps, mask, threshold=1.0).item() == 0
    assert mask_iou(maps, torch.zeros(1, 2, 2)).isnan().item()
    assert mask_iou(torch.ones(1, 2, 2), mask).item() == 0
    with pytest.raises(InputError, match="threshold"):
        mask_iou(maps, mask, threshold=0)


TWO_BLOBS = torch.tensor([[[9.0, 0, 0, 5], [0, 0, 0, 5], [0, 0, 0, 5], [0, 0, 0, 0]]])
THRESHOLDS = torch.tensor([0.0, 0.5, 0.8])


def test_box_ious_by_hand():
    truth = [torch.tensor([0, 0, 1, 2])]
    # Normalised: 1 in the corner, 5/9 on the right. At 0: everything, box of 16, shared 2, IoU 2/16.
    # At .5: the larger blob is on the right, IoU 0; the best blob is the corner, box 1 of 2: .5.
    # At .8: only the corner, .5 either way.
    assert box_ious(TWO_BLOBS, truth, thresholds=THRESHOLDS)[0].tolist() == pytest.approx([2 / 16, 0, 0.5])
    every = box_ious(TWO_BLOBS, truth, thresholds=THRESHOLDS, every_component=True)
    assert every[0].tolist() == pytest.approx([2 / 16, 0.5, 0.5])
    backwards = box_ious(TWO_BLOBS, truth, thresholds=THRESHOLDS.flip(0))
    assert backwards[0].tolist() == pytest.approx([0.5, 0, 2 / 16])
    # Of several true boxes the best one counts.
    several = [torch.tensor([[0, 0, 1, 2], [3, 0, 4, 3]])]
    assert box_ious(TWO_BLOBS, several, thresholds=THRESHOLDS)[0].tolist() == pytest.approx([3 / 16, 1, 0.5])


def test_equal_blobs_go_to_the_first():
    maps = torch.tensor([[[0.0, 0, 1], [0, 0, 0], [1, 0, 0]]])
    first, second = torch.tensor([2, 0, 3, 1]), torch.tensor([0, 2, 1, 3])
    level = torch.tensor([0.5])
    assert box_ious(maps, [first], thresholds=level).item() == 1
    assert box_ious(maps, [second], thresholds=level).item() == 0


def test_box_ious_of_flat_nan_and_unlabelled_samples():
    maps = torch.cat([TWO_BLOBS, torch.ones(1, 4, 4), TWO_BLOBS * NAN, TWO_BLOBS])
    boxes = [
        torch.tensor([0.0, 0, 1, 1]),
        torch.tensor([0.0, 0, 4, 4]),
        torch.tensor([0.0, 0, 1, 1]),
        torch.zeros(0, 4),
    ]
    ious = box_ious(maps, boxes, thresholds=THRESHOLDS)
    assert ious[1].tolist() == [1, 0, 0]
    assert ious.isnan().all(dim=1).tolist() == [False, False, True, True]
    assert max_box_acc(ious, thresholds=THRESHOLDS).samples == 2
    with pytest.raises(InputError, match=r"4, 4, 4.*2 samples"):
        box_ious(maps, boxes[:2])


def test_max_box_acc_takes_one_threshold_for_all_samples():
    ious = torch.tensor([[0.2, 0.6, 0.1], [0.6, 0.5, 0.4], [0.8, 0.1, 0.3], [0.9, 0.2, 0.1]])
    # IoU >= .5: columns hold 3, 2 and 0 of 4 (a maximum per sample would give 4 of 4).
    result = max_box_acc(ious, thresholds=THRESHOLDS)
    assert result.value == 0.75
    assert result.thresholds == (0.0,)
    # V2: .3 -> 3, 2, 2; .5 -> 3, 2, 0; .7 -> 2, 0, 0: (3/4 + 3/4 + 2/4) / 3
    assert max_box_acc_v2(ious, thresholds=THRESHOLDS).value == pytest.approx(2 / 3)
    assert max_box_acc(ious[:0], thresholds=THRESHOLDS).samples == 0
    with pytest.raises(InputError, match=r"\(4, 3\).*\(100,\)"):
        max_box_acc(ious)


@pytest.mark.parametrize(("iou", "value"), [(0.75, 1), (0.7, 1), (0.65, 2 / 3), (0.45, 1 / 3), (0.25, 0)])
def test_v2_counts_overlaps_of_30_50_and_70_percent(iou, value):
    ious = torch.tensor([[iou]], dtype=torch.float64)
    assert max_box_acc_v2(ious, thresholds=torch.zeros(1)).value == pytest.approx(value)


def test_a_perfect_map_is_perfect_by_default():
    boxes = [torch.tensor([3, 2, 9, 7])]
    heatmap = boxes_to_mask(boxes, 12, 12).float()
    ious = box_ious(heatmap, boxes)
    assert ious.shape == (1, 100)
    assert max_box_acc(ious).value == 1
    assert max_box_acc_v2(box_ious(heatmap, boxes, every_component=True)).value == 1


@pytest.mark.parametrize("metric", [pointing_game, energy_pointing_game, mask_iou])
def test_shapes_are_named(metric):
    with pytest.raises(InputError, match=r"\(1, 4, 4\).*\(1, 5, 4\)"):
        metric(torch.zeros(1, 4, 4), torch.zeros(1, 5, 4))


def test_an_empty_batch_gives_empty_results():
    maps, mask, target = torch.zeros(0, 4, 4), torch.zeros(0, 4, 4), torch.zeros(0, dtype=torch.long)
    for metric in (pointing_game, energy_pointing_game, mask_iou):
        assert metric(maps, mask).shape == (0,)
    assert box_ious(maps, []).shape == (0, 100)
    for metric, options in ((insertion, {"steps": 2}), (deletion, {"steps": 2}), (road, {})):
        result = metric(lambda x: x.flatten(1), torch.zeros(0, 1, 4, 4), maps, target, **options)
        assert result.score.shape == (0,)
    assert sparseness(maps).shape == map_area(maps).shape == (0,)
