"""Placing a coarse map on a picture: which map value belongs to which pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Resample = Literal["bicubic", "nearest"]


def weights(
    size: int, start: float, stop: float, cells: int, resample: Resample = "bicubic"
) -> tuple[slice, NDArray[np.float64]]:
    """Weights along one axis for a map of ``cells`` cells that covers ``start`` to ``stop`` of ``size`` pixels.

    Pixel i covers [i, i + 1) and is looked up at its centre; it belongs to the map where its centre lies in
    [start, stop). Enlarging is bicubic with a = -0.75 and repeated edges, the same as
    ``torch.nn.functional.interpolate(mode="bicubic", align_corners=False)``; shrinking widens the kernel (a = -0.5), as
    with ``antialias=True``, so that no cell is skipped.

    Returns:
        The pixels covered, and their weights over the cells (pixels, cells), each row with sum 1.
    """
    first = min(max(int(np.ceil(start - 0.5)), 0), size)
    last = min(max(int(np.ceil(stop - 0.5)), first), size)
    centres = np.arange(first, last) + 0.5
    step = cells / (stop - start)
    position = (centres - start) * step  # in cells: cell j covers [j, j + 1)
    table = np.zeros((last - first, cells))
    rows = np.arange(last - first)
    if resample == "nearest":
        table[rows, np.clip(np.floor(position).astype(np.intp), 0, cells - 1)] = 1.0
        return slice(first, last), table
    width = max(step, 1.0)
    reach = int(np.ceil(2 * width))
    nearest = np.floor(position - 0.5).astype(np.intp)
    for offset in range(-reach, reach + 2):
        cell = nearest + offset
        weight = _cubic((cell + 0.5 - position) / width, -0.75 if step <= 1 else -0.5)
        # Cells beyond the edge: repeated when enlarging; when shrinking simply not there, as torch does it.
        inside = (cell >= 0) & (cell < cells) if step > 1 else np.ones_like(cell, dtype=bool)
        np.add.at(table, (rows, np.clip(cell, 0, cells - 1)), weight * inside)
    return slice(first, last), table / table.sum(axis=1, keepdims=True)


def _cubic(distance: NDArray[np.float64], a: float) -> NDArray[np.float64]:
    """The kernel of Keys (1981), "Cubic convolution interpolation for digital image processing", with free a."""
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
