"""``squeezecam fit --tune --refine --locate``: the pictures again, for what is fitted after the block."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from squeezecam import tree
from squeezecam.commands.numbered import NumberedPictures
from squeezecam.commands.pictures import Failures
from squeezecam.models.loaded import LoadedModel

if TYPE_CHECKING:
    from squeezecam.data.images import ImageSource

FEW, SOME = 4, 24
"""Pictures in a batch at most, of which each is a step: to tune and to locate, where many small steps learn more from
the same pictures, and to refine, where small ones are too noisy."""
STEPS = 8
"""Batches to refine by that there should be, if they get small by it."""
ROOM = 2**30
"""Bytes of read pictures that are kept from one epoch to the next: 1,700 of 224 px."""


def refining_size(pictures: int, most: int) -> int:
    """Pictures in a batch to refine by, out of so many and at most ``most``."""
    return max(1, min(most, SOME, pictures // STEPS))


def mixed_pictures(
    loaded: LoadedModel, sources: Sequence[ImageSource], batch_size: int, seed: int, room: int = ROOM
) -> _Readable:
    """Batches in an order drawn with ``seed``, the same each time, to go through several times.

    Pictures that cannot be read are left out: the fit of the block has reported them. Reading a picture takes longer
    than the passes of a small network on a GPU, so the first that fit into ``room`` bytes of main memory are read once.
    """
    mixed = list(sources)
    random.Random(seed).shuffle(mixed)
    return _Readable(NumberedPictures(loaded, mixed, batch_size, Failures(report=_silent), _uncounted), room)


def as_it_is(batch: Any) -> Any:
    """These batches are inputs alone."""
    return batch


class _Readable:
    """The batches of which something can be read, as often as they are asked for."""

    def __init__(self, pictures: NumberedPictures, room: int) -> None:
        self.pictures, self.room = pictures, room
        self.kept: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.pictures)

    def __iter__(self) -> Iterator[Any]:
        for number in range(len(self.pictures)):
            batch = self.kept[number] if number in self.kept else self._read(number)
            if batch is not None:
                yield batch

    def _read(self, number: int) -> Any:
        batch = self.pictures[number]
        size = sum(part.nbytes for _, part in tree.leaves(batch))
        if size <= self.room:
            self.room -= size
            self.kept[number] = tree.to_device(batch, torch.device("cpu"))
        return batch


def _silent(line: str) -> None:
    """Said before."""


def _uncounted(count: int) -> None:
    """Each of the fits has a bar of its own."""
