"""A heatmap on the original picture, at the place that the network saw."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from squeezecam.errors import InputError
from squeezecam.render.arrays import as_map
from squeezecam.render.colormap import Colours, colourise
from squeezecam.render.resample import Resample, weights
from squeezecam.render.scale import How, Scale, single_scale

if TYPE_CHECKING:
    from numpy.typing import NDArray

Blend = Literal["constant", "heat"]
Box = tuple[float, float, float, float]

_ROWS_AT_ONCE = 1 << 20  # pixels; keeps the memory for a picture of 100 million pixels near that of the picture


def overlay(
    picture: Image.Image,
    heatmap: Any,
    *,
    box: Box | None = None,
    scale: How | tuple[float, float] | Scale = "per sample",
    colours: Colours = "heat",
    blend: Blend | None = None,
    alpha: float | None = None,
    resample: Resample = "bicubic",
    dim: float = 0.75,
) -> Image.Image:
    """Lay a heatmap over a picture.

    Args:
        picture: the original picture, any mode; the result has its size.
        heatmap: (h, w), raw values on any grid, for the region ``box``; NaN is drawn as a gray hatch.
        box: ``(x0, y0, x1, y1)`` in pixels of the picture (pixel i covers [i, i + 1)): what the network saw after
            cropping and padding. It may reach beyond the picture. None: the whole picture.
        scale: how values become colours, see `squeezecam.render.scale`. The ends are those of ``heatmap`` as given, and
            the resampled map is kept within its range: no negative rims. For ``shared``, pass the `Scale` itself.
        colours: ``heat``, or ``signed`` (zero is neutral).
        blend: ``constant``: the same share of colour everywhere; a hotter map is then lighter on any picture. ``heat``:
            the share grows with the heat (for ``signed`` with the magnitude), so that cold regions show the picture as
            it is; hue and saturation then carry the heat, lightness does not on bright pictures. None: ``constant``
            for ``heat``, ``heat`` for ``signed``.
        alpha: the largest share of colour, in [0, 1]; the rest is the picture. None: 0.5, for ``heat`` blending 0.7.
        resample: ``bicubic``, or ``nearest`` to see the cells of the native grid.
        dim: brightness of what lies outside the box, which the network did not see; 1 leaves it untouched.

    Returns:
        An RGB picture of the original's size.

    Raises:
        InputError: a wrong shape, an empty box, or a share outside [0, 1].
    """
    raw = as_map(heatmap)
    how: Blend = blend or ("heat" if colours == "signed" else "constant")
    share = (0.7 if how == "heat" else 0.5) if alpha is None else alpha
    if how not in ("constant", "heat"):
        raise InputError(f"no blending {blend!r}; there are 'constant' and 'heat'")
    if not (0 <= share <= 1 and 0 <= dim <= 1):
        raise InputError(f"alpha and dim must lie in [0, 1], got {share:g} and {dim:g}")
    x0, y0, x1, y1 = (0.0, 0.0, float(picture.width), float(picture.height)) if box is None else map(float, box)
    if not (x1 > x0 and y1 > y0 and np.isfinite([x0, y0, x1, y1]).all()):
        raise InputError(f"the box must be (x0, y0, x1, y1) with x1 > x0 and y1 > y0, got {box}")
    used = single_scale(raw, scale, signed=colours == "signed")

    pixels = np.array(picture.convert("RGB"))
    columns, across = weights(picture.width, x0, x1, raw.shape[1], resample)
    rows, down = weights(picture.height, y0, y1, raw.shape[0], resample)
    if box is not None and dim < 1:
        seen = pixels[rows, columns].copy()
        np.multiply(pixels, dim, out=pixels, casting="unsafe")
        pixels[rows, columns] = seen
    block = max(1, _ROWS_AT_ONCE // max(1, columns.stop - columns.start))
    for start in range(rows.start, rows.stop, block):
        part = slice(start, min(start + block, rows.stop))
        scaled = used.apply(_resampled(raw, down[part.start - rows.start : part.stop - rows.start], across))
        pixels[part, columns] = _blended(pixels[part, columns], scaled, colours, how, share)
    return Image.fromarray(pixels)


def _resampled(raw: NDArray[np.float64], down: NDArray[np.float64], across: NDArray[np.float64]) -> NDArray[np.float64]:
    finite = np.isfinite(raw)
    if not finite.any():
        return np.full((len(down), len(across)), np.nan)
    low, high = raw[finite].min(), raw[finite].max()
    filled = np.nan_to_num(raw, nan=low, posinf=high, neginf=low)
    smooth = np.clip(down @ filled @ across.T, low, high)
    missing = np.isnan(raw)
    if missing.any():
        smooth[missing[down.argmax(axis=1)[:, None], across.argmax(axis=1)[None, :]]] = np.nan
    return np.asarray(smooth)


def _blended(
    pixels: NDArray[np.uint8], scaled: NDArray[np.float64], colours: Colours, blend: Blend, alpha: float
) -> NDArray[np.uint8]:
    share: float | NDArray[np.float64] = alpha
    if blend == "heat":
        strength = np.abs(2 * scaled - 1) if colours == "signed" else scaled
        share = (alpha * np.where(np.isnan(scaled), 1.0, strength))[..., None]
    mixed = (1 - share) * pixels + share * colourise(scaled, colours)
    return np.asarray(np.rint(mixed), dtype=np.uint8)
