"""A data set as what a ``DataLoader`` takes: preprocessed pictures with their targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import Dataset

from squeezecam.data.pixels import DEFAULT_MAX_PIXELS, read_image
from squeezecam.data.record import DataSet

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
