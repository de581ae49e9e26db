"""The heatmap on frame after frame, fast: what does not change over a clip is computed once."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from squeezecam.render.colormap import colour_table
from squeezecam.render.resample import weights
from squeezecam.render.scale import Scale

if TYPE_CHECKING:
    from numpy.typing import NDArray

Box = tuple[float, float, float, float]


class Painter:
    """Overlays as :func:`squeezecam.render.overlay.overlay` draws them (constant blend), for frames of one size.

    Args:
        size: width and height of the frames.
        grid: height and width of the maps.
        scale: what coldest and hottest stand for.
        box: what the network saw, in pixels of the frame; None: everything.
        alpha: share of colour.
        dim: brightness of what the network did not see.

    """

    def __init__(
        self,
        size: tuple[int, int],
        grid: tuple[int, int],
        scale: Scale,
        box: Box | None = None,
        *,
        alpha: float = 0.5,
        dim: float = 0.75,
    ) -> None:
        x0, y0, x1, y1 = box if box is not None else (0.0, 0.0, float(size[0]), float(size[1]))
        self.scale, self.whole, self.dim = scale, box is None, dim
        self.columns, across = weights(size[0], x0, x1, grid[1])
        self.rows, down = weights(size[1], y0, y1, grid[0])
        self._across, self._down = across.T.astype(np.float32), down.astype(np.float32)
        self._faded, self._colours, self._dimmed = _tables(alpha, dim)

    def __call__(self, pixels: NDArray[np.uint8], heatmap: NDArray[np.float32]) -> NDArray[np.uint8]:
        """A new frame ``(H, W, 3)`` with the map ``(h, w)``, raw values, laid over it; negative values are cold."""
        raw = np.maximum(np.nan_to_num(heatmap, nan=0.0, posinf=float(self.scale.hi), neginf=0.0), 0)
        smooth = np.clip(self._down @ raw @ self._across, raw.min(), raw.max())
        if self.scale.flat:
            index = np.zeros(smooth.shape, np.uint8)
        else:
            level = (smooth - self.scale.lo) * (255 / (self.scale.hi - self.scale.lo))
            index = np.clip(level + 0.5, 0, 255).astype(np.uint8)
        drawn = pixels.copy() if self.whole or self.dim == 1 else self._dimmed[pixels]
        part = pixels[self.rows, self.columns]
        drawn[self.rows, self.columns] = self._faded[part] + self._colours[index]
        return drawn


@lru_cache(maxsize=8)
def _tables(alpha: float, dim: float) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """What is left of a pixel's value under the colour, the colours themselves, and values that are dimmed."""
    levels = np.arange(256, dtype=np.float32)
    faded = np.rint((1 - alpha) * levels).astype(np.uint8)
    colours = np.rint(alpha * colour_table().astype(np.float32)).astype(np.uint8)
    return faded, colours, np.rint(dim * levels).astype(np.uint8)
