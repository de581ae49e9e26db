"""``squeezecam fit``: a block fitted on a folder of pictures, without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from squeezecam.attach import Squeeze
from squeezecam.commands.pictures import Failures, batches, stacked
from squeezecam.fit.report import FitReport
from squeezecam.models.loaded import LoadedModel

if TYPE_CHECKING:
    from squeezecam.data.images import ImageSource


def fit_pictures(
    loaded: LoadedModel,
    squeeze: Squeeze,
    sources: Sequence[ImageSource],
    *,
    batch_size: int,
    failures: Failures,
    done: Callable[[int], None],
    **options: Any,
) -> FitReport:
    """Fit the blocks on pictures; bad ones are reported and left out. ``options`` as of :func:`squeezecam.fit.fit`."""

    def stream() -> Iterator[Any]:
        for prepared in batches(loaded, sources, batch_size, failures, done):
            yield stacked(loaded, prepared)
            done(len(prepared))

    return squeeze.fit(stream(), inputs=lambda batch: batch, progress=False, **options)
