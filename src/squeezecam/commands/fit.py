"""``squeezecam fit``: a block fitted on a folder of pictures, without labels, and saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from squeezecam.commands.pictures import Failures, batches, stacked
from squeezecam.commands.place import working_in
from squeezecam.errors import FitError, SqueezeError
from squeezecam.fit.report import FitReport
from squeezecam.models.loaded import LoadedModel
from squeezecam.module import Squeeze

if TYPE_CHECKING:
    from squeezecam.data.images import ImageSource


def fit_pictures(
    loaded: LoadedModel,
    squeeze: Squeeze,
    sources: Sequence[ImageSource],
    out: Path,
    *,
    batch_size: int,
    failures: Failures,
    done: Callable[[int], None],
    **options: Any,
) -> FitReport:
    """Fit the blocks on pictures and save them; bad pictures are reported and left out.

    Args:
        loaded: the model, with its preprocessing.
        squeeze: around the same model; it is fitted in place.
        sources: the pictures.
        out: the adapter file; its folder is created, tried before the fit, and removed again if the fit fails.
        batch_size: pictures in one pass.
        failures: where bad pictures are noted.
        done: told how many pictures have been read.
        **options: as of :func:`squeezecam.fit.fit`.

    Raises:
        FitError: too few good pictures, or the model fails on them.
        InputError: the file cannot be written.

    """
    shape: tuple[int, ...] = ()  # of the last batch, for the error

    def stream() -> Iterator[Any]:
        nonlocal shape
        for prepared in batches(loaded, sources, batch_size, failures, done):
            shape = (len(prepared), *prepared[0].tensor.shape)
            yield stacked(loaded, prepared)
            done(len(prepared))

    with working_in(out.parent):
        try:
            report = squeeze.fit(stream(), inputs=lambda batch: batch, progress=False, **options)
        except MemoryError:
            raise
        except SqueezeError:
            if len(failures) == len(sources):
                raise FitError(
                    f"none of the {len(sources)} pictures could be read: there is nothing to fit on"
                ) from None
            raise
        except Exception as error:  # the model itself, on these inputs
            line = " ".join(str(error).split())[:300] or type(error).__name__
            raise FitError(f"the fit of {loaded.name} failed at a batch of shape {shape}: {line}") from error
        squeeze.save(out)
    return report
