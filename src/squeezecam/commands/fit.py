"""``squeezecam fit``: a block fitted on a folder of pictures, without labels, and saved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from squeezecam import processes, tree
from squeezecam.commands.numbered import NumberedPictures
from squeezecam.commands.pictures import Failures, Prepared, batches, stacked
from squeezecam.commands.place import working_in
from squeezecam.errors import FitError, SqueezeError
from squeezecam.fit.report import FitReport
from squeezecam.models.loaded import LoadedModel
from squeezecam.module import Squeeze
from squeezecam.tap import evaluating
from squeezecam.wording import number_of

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
        failures: where bad pictures are noted: those that cannot be read, and those that the model fails on.
        done: told how many pictures have been read; a negative number where it has to begin again.
        **options: as of :func:`squeezecam.fit.fit`.

    Raises:
        FitError: too few good pictures, or a fit that fails for another reason than single pictures.
        InputError: the file cannot be written.

    """
    pictures = _Pictures(loaded, squeeze, list(sources), batch_size, failures, done)
    with working_in(out.parent):
        if processes.world() > 1 or options.get("cache") is not None:
            numbered = NumberedPictures(loaded, sources, batch_size, failures, done)
            report = squeeze.fit(numbered, inputs=lambda batch: batch, progress=False, **options)
            numbered.gather()
            with processes.first_only(FitError) as here:
                if here:
                    squeeze.save(out)
            return report
        try:
            report = squeeze.fit(pictures.stream(), inputs=lambda batch: batch, progress=False, **options)
        except MemoryError:
            raise
        except Exception as error:
            if not pictures.at_fault(error):
                raise pictures.why(error) from error
            try:
                report = squeeze.fit(pictures.stream(), inputs=lambda batch: batch, progress=False, **options)
            except MemoryError:
                raise
            except Exception as again:
                raise pictures.why(again) from again
        squeeze.save(out)
    return report


@dataclass
class _Pictures:
    """The pictures of a fit, in batches; once one of them has ended it, each batch is tried before it is handed on."""

    loaded: LoadedModel
    squeeze: Squeeze
    sources: list[ImageSource]
    batch_size: int
    failures: Failures
    done: Callable[[int], None]
    last: list[Prepared] = field(default_factory=list)
    """The batch that is being worked on; empty before the first and after the last."""
    shapes: Counter[tuple[int, ...]] = field(default_factory=Counter)
    careful: bool = False
    only: tuple[int, ...] | None = None
    """The shape that all inputs must have, where the fit cannot be made on several."""
    refused: list[str] = field(default_factory=list)
    asked: int = 0
    advanced: int = 0

    def __post_init__(self) -> None:
        self.asked = len(self.sources)

    def stream(self) -> Iterator[Any]:
        """Inputs as the model takes them."""
        for prepared in batches(self.loaded, self.sources, self.batch_size, self.failures, self._advance):
            good = self._tried(prepared) if self.careful else prepared
            if good:
                self.last = good
                self.shapes[_shape(good)] += len(good)
                yield stacked(self.loaded, good)
            self._advance(len(prepared))
        self.last = []

    def at_fault(self, error: Exception) -> bool:
        """Whether the fit ended at pictures that can be left out; the next stream then leaves them out."""
        if not self.last:
            return False
        several = isinstance(error, FitError) and len(self.shapes) > 1
        if several:
            self.only = self.shapes.most_common(1)[0][0]
        elif isinstance(error, SqueezeError) or all(self._reason([one]) is None for one in self.last):
            return False
        unread = {name for name, _ in self.failures.found}
        self.sources = [source for source in self.sources if source.label not in unread]
        self.careful = True
        self.done(len(unread) - self.advanced)
        return True

    def why(self, error: Exception) -> FitError | SqueezeError:
        """The error as users see it."""
        if self.asked == len(self.failures) and not self.refused:
            return FitError(f"0 of {number_of(self.asked, 'picture')} could be read: there is nothing to fit on")
        if not isinstance(error, SqueezeError):
            shape = (len(self.last), *_shape(self.last)) if self.last else ()
            return FitError(f"the fit of {self.loaded.name} failed at a batch of shape {shape}: {_line(error)}")
        if self.refused:
            return FitError(
                f"{error}; {len(self.refused)} of {self.asked} were left out, the last one: {self.refused[-1]}"
            )
        return error

    def _tried(self, prepared: list[Prepared]) -> list[Prepared]:
        """Those of a batch that the model takes, together if it takes them together."""
        shape = _shape(prepared)
        if self.only is not None and shape != self.only:
            for one in prepared:
                self._refuse(one, f"its input has shape {shape}, most have {self.only}: the fit needs one size")
            return []
        if self._reason(prepared) is None:
            return prepared
        good = []
        for one in prepared:
            reason = self._reason([one])
            if reason is None:
                good.append(one)
            else:
                self._refuse(one, f"the model {self.loaded.name} failed on an input of shape {shape}: {reason}")
        return good

    def _reason(self, prepared: list[Prepared]) -> str | None:
        """What the model says against a batch."""
        args, kwargs = tree.as_call(stacked(self.loaded, prepared))
        try:
            with torch.no_grad(), evaluating(self.squeeze):
                self.squeeze.model(*args, **kwargs)
        except MemoryError:
            raise
        except Exception as error:  # the model itself, on these inputs
            return _line(error)
        return None

    def _refuse(self, one: Prepared, why: str) -> None:
        self.refused.append(why)
        self.failures.add(one.source.label, why)

    def _advance(self, count: int) -> None:
        self.advanced += count
        self.done(count)


def _shape(prepared: Sequence[Prepared]) -> tuple[int, ...]:
    return tuple(prepared[0].tensor.shape)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
