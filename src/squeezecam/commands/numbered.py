"""Batches of pictures by their number, for work that is divided among processes or goes on where it stopped."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from squeezecam import processes
from squeezecam.commands.pictures import Failures, prepare, stacked
from squeezecam.errors import FitError
from squeezecam.models.loaded import LoadedModel

if TYPE_CHECKING:
    from squeezecam.data.images import ImageSource


class NumberedPictures:
    """``pictures[n]`` is batch n as the model takes it, or None where none of its pictures can be read.

    Args:
        loaded: the model, with its preprocessing.
        sources: the pictures.
        size: pictures in a batch; bad ones leave it smaller.
        failures: where bad pictures are noted.
        done: told of the pictures that were read.

    """

    def __init__(
        self,
        loaded: LoadedModel,
        sources: Sequence[ImageSource],
        size: int,
        failures: Failures,
        done: Callable[[int], None],
    ) -> None:
        self.loaded, self.sources, self.size, self.failures, self.done = loaded, sources, size, failures, done

    def __len__(self) -> int:
        return -(-len(self.sources) // self.size)

    def __getitem__(self, number: int) -> Any:
        if not 0 <= number < len(self):
            raise IndexError(number)
        part = self.sources[number * self.size : (number + 1) * self.size]
        noted = len(self.failures)
        found = [one for source in part if (one := prepare(self.loaded, source, self.failures)) is not None]
        self._forget_repeated(noted)
        self.done(len(part))
        if not found:
            return None
        shapes = sorted({tuple(one.tensor.shape) for one in found})
        if len(shapes) > 1:
            raise FitError(
                f"the inputs of one batch have shapes {' and '.join(map(str, shapes))}: features that are kept or "
                "divided among processes need one size; fit in one process without --cache, or crop the pictures"
            )
        return stacked(self.loaded, found)

    def identity(self) -> str:
        """Names, sizes and dates of the files."""
        stats = [(source.label, source.index, *_version_of(source.path)) for source in self.sources]
        return hashlib.sha256(repr((self.size, stats)).encode()).hexdigest()

    def gather(self) -> None:
        """Bring what could not be read to rank 0."""
        known = list(self.failures.found)
        for found in processes.at_first(known)[1:]:
            self.failures.found += [item for item in found if item not in known]

    def _forget_repeated(self, noted: int) -> None:
        """The first batch is read by every process, and may be read twice."""
        before = set(self.failures.found[:noted])
        self.failures.found[noted:] = [item for item in self.failures.found[noted:] if item not in before]


def _version_of(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns
