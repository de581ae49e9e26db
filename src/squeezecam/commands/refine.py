"""``squeezecam fit --refine --locate``: what is fitted on the same pictures after the block, and saved in its file."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from squeezecam.commands.numbered import NumberedPictures
from squeezecam.commands.pictures import Failures
from squeezecam.fit.locating import LocateReport
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
    pictures = _mixed(loaded, sources, batch_size, seed)
    report = squeeze.refine(pictures, inputs=_as_it_is, output=output, epochs=epochs, seed=seed)
    squeeze.save(out)
    return report


def locate_pictures(
    loaded: LoadedModel,
    squeeze: Squeeze,
    sources: Sequence[ImageSource],
    out: Path,
    *,
    batch_size: int,
    output: str | None,
    seed: int,
) -> LocateReport:
    """The same for the locator."""
    pictures = _mixed(loaded, sources, batch_size, seed)
    report = squeeze.locate(pictures, inputs=_as_it_is, output=output, seed=seed)
    squeeze.save(out)
    return report


def _mixed(loaded: LoadedModel, sources: Sequence[ImageSource], batch_size: int, seed: int) -> _Readable:
    mixed = list(sources)
    random.Random(seed).shuffle(mixed)
    return _Readable(NumberedPictures(loaded, mixed, min(batch_size, STEP), Failures(report=_silent), _uncounted))


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


def _as_it_is(batch: Any) -> Any:
    return batch


def _silent(line: str) -> None:
    """Said before."""


def _uncounted(count: int) -> None:
    """Each of the two has a bar of its own."""
