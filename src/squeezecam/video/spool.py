"""Native maps of a clip on disk: written in the first pass, read one by one in the second."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from squeezecam.errors import InputError
from squeezecam.render.scale import Scale, find_scale

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SAMPLED = 4_000_000  # values that a quantile is taken of


class Spool:
    """Arrays of one size in an unnamed file in ``folder`` that vanishes with the process: maps, or crops of faces.

    Use as a context manager. ``len`` is their number, ``spool[i]`` reads one.
    """

    def __init__(self, folder: str | Path, dtype: Any = np.float32) -> None:
        self._folder = folder
        self._dtype = np.dtype(dtype)
        self.shape: tuple[int, ...] = ()
        self.low, self.high = np.inf, -np.inf
        self._count = 0

    def __enter__(self) -> Spool:
        self._file: Any = tempfile.TemporaryFile(dir=self._folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # what a full disk did not take is not needed any more
            self._file.close()

    def __len__(self) -> int:
        return self._count

    def append(self, maps: Any) -> None:
        """Add maps ``(n, h, w)``.

        Raises:
            InputError: another size than before, or the disk is full.

        """
        values = np.ascontiguousarray(maps, self._dtype)
        self.shape = self.shape or values.shape[1:]
        if values.shape[1:] != self.shape:
            raise InputError(f"maps of {values.shape[1:]} after maps of {self.shape}: the frames differ in size")
        finite = values[np.isfinite(values)]
        if finite.size:
            self.low, self.high = min(self.low, float(finite.min())), max(self.high, float(finite.max()))
        try:
            self._file.seek(0, 2)
            self._file.write(values.tobytes())
            self._file.flush()  # or a full disk would be told by whoever reads next, without a name
        except OSError as error:
            raise InputError(
                f"cannot keep the maps of the clip in {self._folder}: {error.strerror or error}"
            ) from error
        self._count += len(values)

    def __getitem__(self, index: int) -> NDArray[Any]:
        if not 0 <= index < self._count:
            raise IndexError(f"map {index} of {self._count}")
        size = int(np.prod(self.shape)) * self._dtype.itemsize
        self._file.seek(size * index)
        return np.frombuffer(self._file.read(size), self._dtype).reshape(self.shape)

    def scale(self, how: str = "shared") -> Scale:
        """One scale for all maps: up to the maximum (``shared``), or up to their 99.5 % quantile (``quantile``)."""
        if not self._count or self.high < self.low:
            return Scale(0.0, 0.0, "shared", flat=True)
        high = max(0.0, self.high)
        if how == "quantile":
            step = max(1, self._count * int(np.prod(self.shape)) // _SAMPLED)
            taken = np.concatenate([self[i].ravel() for i in range(0, self._count, step)])
            high = float(np.quantile(np.maximum(taken[np.isfinite(taken)], 0), 0.995)) or high
        # What is drawn is the positive part, and no evidence is cold: the scale begins at zero.
        return Scale(0.0, high, f"{how} over the clip") if high > 0 else find_scale([np.zeros((1, 1))], "shared")
