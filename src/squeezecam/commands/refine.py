"""``squeezecam fit --tune --refine --locate``: the pictures again, for what is fitted after the block."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

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


def refining_size(pictures: int, most: int) -> int:
    """Pictures in a batch to refine by, out of so many and at most ``most``."""
    return max(1, min(most, SOME, pictures // STEPS))


def mixed_pictures(loaded: LoadedModel, sources: Sequence[ImageSource], batch_size: int, seed: int) -> _Readable:
    """Batches in an order drawn with ``seed``, the same each time, to go through several times.

    Pictures that cannot be read are left out: the fit of the block has reported them.
    """
    mixed = list(sources)
    random.Random(seed).shuffle(mixed)
    return _Readable(NumberedPictures(loaded, mixed, batch_size, Failures(report=_silent), _uncounted))


def as_it_is(batch: Any) -> Any:
    """These batches are inputs alone."""
    return batch


class _Readable:
    """The batches of which something can be read, as often as they are asked for."""

    def __init__(self, pictures: NumberedPictures) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __iter__(self) -> Iterator[Any]:
        for number in range(len(self.pictures)):
            batch = self.pictures[number]
            if batch is not None:
                yield batch


def _silent(line: str) -> None:
    """Said before."""


def _uncounted(count: int) -> None:
    """Each of the fits has a bar of its own."""
