"""Evidence spread over the cells that look alike."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from squeezecam import focus, likeness


def noise(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(4))


def test_a_walk_by_hand() -> None:
    # Cells 0 and 1 are alike (cosine 1), cell 2 is like no other.
    features = torch.tensor([[[1.0, 3.0, 0.0], [0.0, 0.0, 2.0]]])
    alike = likeness.affinities(features, (3,))
    assert torch.allclose(alike, torch.tensor([[[1.0, 1, 0], [1, 1, 0], [0, 0, 1]]]))  # no power of 1 is less
    assert torch.allclose(likeness.spread(torch.tensor([[4.0, 0.0, 1.0]]), alike), torch.tensor([[2.0, 2.0, 1.0]]))


def test_the_exponent_is_that_with_which_a_cell_is_like_so_much_of_the_others() -> None:
    features = torch.tensor([[[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]]])  # cosines 2^-.5, 0 and 2^-.5
    found = likeness.affinities(features, (3,), alike=0.1)[0]
    # 4 of the 6 ordered pairs have the cosine, and their power is .15 on average: 4 * .15 / 6 = .1.
    assert torch.allclose(found, torch.tensor([[1, 0.15, 0], [0.15, 1, 0.15], [0, 0.15, 1]]), rtol=0.01)
    for one in likeness.affinities(noise(4, 6, 5, 7) ** 2, (5, 7)):  # whatever the cosines are
        off = one.sum() - one.diagonal().sum()
        assert float(off) == pytest.approx(0.02 * 35 * 34, rel=0.02)


def test_a_finer_map_counts_as_much_as_the_last_one() -> None:
    features = torch.tensor([[[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]]])
    finer = torch.tensor([[[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])  # the last cell is like no other there
    found = likeness.affinities(features, (3,), finer)[0]
    assert float(found[0, 1]) == pytest.approx(0.06, rel=0.02)  # the one pair that is left: 2 * .06 / 6 = .02
    assert float(found[1, 2]) == 0


def test_cells_without_features_stay_empty() -> None:
    features = torch.tensor([[[1.0, 0.0, 0.0]]])  # no cosines at all, so no power of them
    spread = likeness.spread(torch.tensor([[1.0, 1.0, 1.0]]), likeness.affinities(features, (3,)))
    assert torch.equal(spread, torch.tensor([[1.0, 0.0, 0.0]]))


def test_an_offset_that_is_the_same_everywhere_is_no_likeness() -> None:
    features = torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]]) + 100
    assert float(likeness.cosines(features, (2,))[0, 0, 1]) > 0.99
    assert float(likeness.affinities(features, (2,), centred=True)[0, 0, 1]) == 0


@pytest.mark.parametrize("grid", [(6, 10), (3, 10), (3, 5)])
def test_another_grid_is_that_of_interpolated_features(grid: tuple[int, int]) -> None:
    features = noise(2, 7, 3, 5)
    large = F.interpolate(features, grid, mode="bilinear", align_corners=False).flatten(2)
    wanted = F.cosine_similarity(large[:, :, :, None], large[:, :, None, :], dim=1)
    assert torch.allclose(likeness.cosines(features, grid), wanted, atol=1e-5)


def test_large_grids_are_pooled_before_the_walk() -> None:
    maps, features = noise(1, 80, 48), noise(1, 3, 80, 48)
    seen, outline = focus.spread_alike(maps, maps, features)
    assert seen.shape == outline.shape == (1, 32, 32)
    assert torch.allclose(likeness.on_grid(maps, (40, 48))[0, 0, 0], maps[0, :2, 0].mean())


def test_frames_do_not_see_each_other() -> None:
    maps, features = noise(2, 3, 4, 5), noise(2, 6, 3, 4, 5)
    together = focus.spread_alike(maps, maps, features)[0]
    for frame in range(3):
        alone = focus.spread_alike(maps[:, frame], maps[:, frame], features[:, :, frame])[0]
        assert torch.allclose(together[:, frame], alone, atol=1e-6)


def test_from_the_telling_part_to_the_whole_object_and_not_to_the_other() -> None:
    generator = torch.Generator().manual_seed(0)
    looks = torch.randn(3, 64, generator=generator).relu()  # ground, one object, another
    kinds = torch.zeros(8, 8, dtype=torch.long)
    kinds[1:4, 1:7], kinds[5:7, 2:6] = 1, 2
    features = looks[kinds].movedim(2, 0)[None] + 0.1 * torch.rand(1, 64, 8, 8, generator=generator)
    evidence = torch.zeros(1, 8, 8)
    evidence[0, 2, 2] = 1
    found = likeness.spread(evidence, likeness.affinities(features, (8, 8)))[0]
    mean = [float(found[kinds == kind].mean()) for kind in range(3)]
    assert mean[1] > 2.5 * max(mean[0], mean[2])
    assert float(found[kinds == 1].min()) > float(found[kinds != 1].max())
