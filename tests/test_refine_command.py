"""What ``fit --tune --refine --locate`` goes over again: batches of pictures from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from squeezecam.commands.refine import mixed_pictures, refining_size
from squeezecam.data.images import find_images
from squeezecam.models.loaded import LoadedModel

ONE_BATCH = 2 * 3 * 6 * 6 * 4


@pytest.mark.parametrize(
    ("pictures", "most", "size"), [(1000, 16, 16), (1000, 64, 24), (100, 64, 12), (16, 16, 2), (5, 16, 1)]
)
def test_few_pictures_are_refined_by_in_small_batches(pictures: int, most: int, size: int) -> None:
    assert refining_size(pictures, most) == size


def prepared(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255


@pytest.mark.parametrize(("room", "kept"), [(2**30, 4), (2 * ONE_BATCH, 2), (0, 0)])
def test_pictures_are_read_once_where_there_is_room(tmp_path: Path, room: int, kept: int) -> None:
    for number in range(8):
        Image.new("RGB", (6, 6), (30 * number, 0, 0)).save(tmp_path / f"{number}.png")
    loaded = LoadedModel(nn.Linear(1, 1), prepared, None, "small", (3, 6, 6), "here")
    batches = mixed_pictures(loaded, find_images([tmp_path]), 2, seed=0, room=room)
    first = list(batches)
    assert len(first) == 4
    for number in range(8):
        Image.new("RGB", (6, 6), (0, 0, 200)).save(tmp_path / f"{number}.png")
    again = list(batches)
    assert [torch.equal(one, other) for one, other in zip(first, again, strict=True)] == [n < kept for n in range(4)]
