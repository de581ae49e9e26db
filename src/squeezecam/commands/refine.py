"""``squeezecam fit --refine``: the refiner of the class map, fitted on the same pictures and saved in the same file."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from squeezecam.commands.numbered import NumberedPictures
from squeezecam.commands.pictures import Failures
from squeezecam.fit.refining import RefineReport
from squeezecam.models.loaded import LoadedModel
from squeezecam.module import Squeeze

if TYPE_CHECKING:
    from squeezecam.data.images import ImageSource

STEP = 4
"""Pictures in a batch at most: each is a step, and many small steps learn more from the same pictures."""


def refine_pictures(
    loaded: LoadedModel,
    squeeze: Squeeze,
    sources: Sequence[ImageSource],
    out: Path,
    *,
    batch_size: int,
    output: str | None,
    epochs: int,
    seed: int,
) -> RefineReport:
    """Refine on pictures in an order drawn with ``seed``, and write the adapter ``out`` anew, with the refiner in it.

    Pictures that cannot be read are left out: the fit before has reported them.
    """
    mixed = list(sources)
    random.Random(seed).shuffle(mixed)
    pictures = _Readable(NumberedPictures(loaded, mixed, min(batch_size, STEP), Failures(report=_silent), _uncounted))
    report = squeeze.refine(pictures, inputs=lambda batch: batch, output=output, epochs=epochs, seed=seed)
    squeeze.save(out)
    return report


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
    """The refiner has a bar of its own."""
