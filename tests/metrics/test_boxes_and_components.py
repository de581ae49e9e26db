import numpy as np
import pytest
import torch

from squeezecam.errors import InputError
from squeezecam.metrics import box_overlap, boxes_to_mask, connected_components, mask_to_boxes, threshold_components


def flood_fill(mask, connectivity):
    """Components of one mask by flood fill: boxes and areas in row-major order of their first pixels."""
    height, width = mask.shape
    left, found = mask.copy(), []
    for y in range(height):
        for x in range(width):
            if not left[y, x]:
                continue
            stack, pixels = [(y, x)], []
            left[y, x] = False
            while stack:
                r, c = stack.pop()
                pixels.append((r, c))
                for dr in (-1, 0, 1):
                    for dc in (-1, 0, 1):
                        near = (r + dr, c + dc)
                        if connectivity == 4 and dr and dc:
                            continue
                        if 0 <= near[0] < height and 0 <= near[1] < width and left[near]:
                            left[near] = False
                            stack.append(near)
            rows, columns = zip(*pixels, strict=True)
            found.append(([min(columns), min(rows), max(columns) + 1, max(rows) + 1], len(pixels)))
    return found


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("density", [0.2, 0.45, 0.6, 0.9])
def test_components_agree_with_flood_fill(connectivity, density):
    masks = torch.rand(6, 13, 17, generator=torch.Generator().manual_seed(7)) < density
    found = connected_components(masks, connectivity=connectivity)
    for index in range(len(masks)):
        own = found.mask == index
        expected = flood_fill(masks[index].numpy(), connectivity)
        assert list(zip(found.boxes[own].tolist(), found.area[own].tolist(), strict=True)) == expected


def test_spiral_corners_and_borders():
    spiral = torch.tensor(
        [[1, 1, 1, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]], dtype=torch.bool
    )
    found = connected_components(spiral[None])
    assert found.boxes.tolist() == [[0, 0, 5, 5]]
    assert found.area.tolist() == [17]
    # The last row of one mask does not touch the first of the next, nor a line's end the next line's beginning.
    masks = torch.zeros(2, 3, 3, dtype=torch.bool)
    masks[0, 2] = masks[1, 0] = True
    assert connected_components(masks).mask.tolist() == [0, 1]
    ends = torch.zeros(1, 2, 4, dtype=torch.bool)
    ends[0, 0, 3] = ends[0, 1, 0] = True
    assert len(connected_components(ends).mask) == 2
    diagonal = torch.eye(4, dtype=torch.bool)[None]
    assert len(connected_components(diagonal).mask) == 1
    assert len(connected_components(diagonal, connectivity=4).mask) == 4
    assert connected_components(torch.zeros(2, 3, 3, dtype=torch.bool)).boxes.shape == (0, 4)


@pytest.mark.parametrize("connectivity", [4, 8])
def test_thresholding_in_one_go_is_thresholding_level_by_level(connectivity):
    generator = torch.Generator().manual_seed(1)
    # Coarse values, so that many are equal to a level; levels below, above, and twice the same.
    values = torch.randint(0, 9, (14, 11), generator=generator) / 8
    levels = torch.tensor([-1.0, 0.0, 0.125, 0.3, 0.3, 0.75, 1.0, 1.01])
    ours = threshold_components(values, levels, connectivity=connectivity)
    slow = connected_components(values >= levels[:, None, None], connectivity=connectivity)
    assert all(torch.equal(a, b) for a, b in zip(ours, slow, strict=True))
    assert ours.mask.max() == 6
    with pytest.raises(InputError, match="rising"):
        threshold_components(values, levels.flip(0))


def test_components_agree_with_opencv():
    cv2 = pytest.importorskip("cv2")
    mask = torch.rand(40, 50, generator=torch.Generator().manual_seed(2)) < 0.4
    count, _, stats, _ = cv2.connectedComponentsWithStats(mask.numpy().astype(np.uint8), connectivity=8)
    found = connected_components(mask[None])
    theirs = sorted((x, y, x + w, y + h, area) for x, y, w, h, area in stats[1:].tolist())
    ours = sorted((*box, area) for box, area in zip(found.boxes.tolist(), found.area.tolist(), strict=True))
    assert len(ours) == count - 1
    assert ours == theirs


def test_boxes_to_mask_by_hand():
    masks = boxes_to_mask([torch.tensor([[1, 0, 3, 2], [0, 2, 1, 3]]), torch.zeros(0, 4)], height=3, width=4)
    assert masks.int().tolist() == [[[0, 1, 1, 0], [0, 1, 1, 0], [1, 0, 0, 0]], [[0] * 4] * 3]
    # Centres at .5, 1.5, ...: 0.6 leaves the first column out, 2.5 is exclusive. Outside the picture is cut off.
    assert boxes_to_mask([torch.tensor([0.6, -5.0, 2.5, 1.2])], 2, 4).int().tolist() == [[[0, 1, 0, 0], [0, 0, 0, 0]]]


def test_boxes_forms_and_nonsense():
    one = boxes_to_mask(torch.tensor([[0.0, 0, 2, 2], [1, 1, 3, 3]]), 4, 4)
    padding = torch.tensor([[[0.0, 0, 2, 2], [float("nan")] * 4], [[1, 1, 3, 3], [float("nan")] * 4]])
    assert torch.equal(boxes_to_mask(padding, 4, 4), one)
    assert one.flatten(1).sum(dim=1).tolist() == [4, 4]
    with pytest.raises(InputError, match="x0 < x1"):
        boxes_to_mask([torch.tensor([3, 0, 1, 2])], 4, 4)
    with pytest.raises(InputError, match=r"\(1, 5\)"):
        boxes_to_mask([torch.zeros(1, 5)], 4, 4)


def test_mask_to_boxes_inverts_boxes_to_mask():
    boxes = [torch.tensor([[0.0, 0, 2, 3], [4, 1, 6, 2]]), torch.zeros(0, 4)]
    back = mask_to_boxes(boxes_to_mask(boxes, 5, 7))
    assert [b.tolist() for b in back] == [b.tolist() for b in boxes]


def test_overlap_by_hand():
    a, b = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 1, 3, 3], [0, 0, 2, 2], [5, 5, 6, 6]])
    # Shared 1, union 4 + 4 - 1 = 7; the same; apart.
    assert box_overlap(a, b)[0].tolist() == pytest.approx([1 / 7, 1, 0])
