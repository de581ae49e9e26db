"""A data set as what a ``DataLoader`` takes: preprocessed pictures with their targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import Dataset

from squeezecam.data.pixels import DEFAULT_MAX_PIXELS, read_image
from squeezecam.data.record import DataSet
from squeezecam.errors import InputError
from squeezecam.wording import number_of

if TYPE_CHECKING:
    from PIL.Image import Image


class Pictures(Dataset[tuple[Tensor, Tensor]]):
    """``(picture (C, H, W), target)``: a class index, or in a multi-label set 0 and 1, ``(K,)``.

    Args:
        data: the set.
        preprocess: a picture (PIL, RGB) to ``(C, H, W)``.
        indices: only these pictures; None: all.
        classes: only these columns of a multi-label set's targets.
        flip: mirror every second picture, drawn at each reading.
        max_pixels: refuse pictures with more.
    """

    def __init__(
        self,
        data: DataSet,
        preprocess: Callable[[Image], Tensor],
        *,
        indices: Sequence[int] | None = None,
        classes: Sequence[int] | None = None,
        flip: bool = False,
        max_pixels: int | None = DEFAULT_MAX_PIXELS,
    ) -> None:
        self.data, self.preprocess, self.flip, self.max_pixels = data, preprocess, flip, max_pixels
        self.indices = list(range(len(data)) if indices is None else indices)
        targets = data.targets()[self.indices]
        self.targets = targets if classes is None or not data.multilabel else targets[:, list(classes)]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """The picture is read now; an unreadable one is an `InputError`."""
        picture = self.preprocess(read_image(self.data[self.indices[index]].path, max_pixels=self.max_pixels))
        if self.flip and torch.rand(()) < 0.5:
            picture = picture.flip(-1)
        return picture, self.targets[index]


def readable(
    data: DataSet,
    indices: Sequence[int],
    failed: Callable[[str, str], None],
    *,
    threads: int = 2,
    advance: Callable[[int], None] = lambda count: None,
) -> list[int]:
    """Which of these pictures can be read. Each is decoded once, so that a training that takes hours ends on none.

    Args:
        data: the set.
        indices: numbers of pictures.
        failed: told the file of a picture that cannot be read, and why.
        threads: that read at once.
        advance: told of every picture.

    Raises:
        InputError: not a single one can be read.
    """

    def trouble(index: int) -> str:
        try:
            read_image(data[index].path)
        except InputError as error:
            return str(error)
        return ""

    good = []
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for index, why in zip(indices, pool.map(trouble, indices), strict=True):
            advance(1)
            if why:
                failed(str(data[index].path), why)
            else:
                good.append(index)
    if not good:
        raise InputError(f"0 of {number_of(len(indices), 'picture')} of '{data.name}' could be read")
    return good
