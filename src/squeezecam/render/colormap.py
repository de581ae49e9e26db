"""Our own colour maps, computed: lightness is the value, hue only helps the eye.

``heat`` runs from near-black violet over red and orange to pale yellow, with equal steps of CIELAB lightness, so it
reads the same in print, in gray and to the colour-blind. ``signed`` runs from blue over a light neutral to red, equally
dark at both ends.

Sources: CIELAB is CIE 15:2004; the sRGB matrices and transfer curve are IEC 61966-2-1; why lightness must be monotone:
Kovesi, "Good Colour Maps: How to Design Them", arXiv 1509.03700.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from squeezecam.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Colours = Literal["heat", "signed"]

_TO_XYZ = np.array(
    [[0.4123908, 0.3575843, 0.1804808], [0.2126390, 0.7151687, 0.0721923], [0.0193308, 0.1191948, 0.9505322]]
)
_WHITE = _TO_XYZ.sum(axis=1)  # D65
_EPSILON, _KAPPA = (6 / 29) ** 3, (29 / 3) ** 3
# (lightness, chroma, hue in degrees) along the path: violet, magenta, red, orange, pale yellow.
_HEAT_PATH = ((4, 12, 305), (27, 52, 325), (50, 70, 380), (73, 65, 425), (97, 21, 462))
_HATCH_PERIOD = 6
_HATCH_GRAYS = (150, 190)


def colourise(values01: NDArray[np.floating], colours: Colours = "heat") -> NDArray[np.uint8]:
    """Colour values in [0, 1]: (H, W) to uint8 RGB (H, W, 3).

    Values outside are clamped *before* they become bytes, so what is hotter than hot stays hot. NaN is drawn as a gray
    hatch, which no value can look like. In ``signed``, 0.5 is the neutral middle.
    """
    values = np.asarray(values01)
    missing = np.isnan(values)
    table = colour_table(colours)
    last = len(table) - 1
    index = (np.clip(np.where(missing, 0.0, values), 0.0, 1.0) * last + 0.5).astype(np.intp)
    coloured = table[index]
    if missing.any():
        coloured[missing] = _hatch(*values.shape)[missing]
    return coloured


@lru_cache(maxsize=2)
def colour_table(colours: Colours = "heat") -> NDArray[np.uint8]:
    """The colours from lowest to highest, uint8 (256, 3); ``signed`` has 255, so that zero has an entry of its own.

    Raises:
        InputError: no colour map of that name.
    """
    if colours == "heat":
        stops = np.linspace(0, 1, len(_HEAT_PATH))
        t = np.linspace(0, 1, 256)
        low, high = _HEAT_PATH[0][0], _HEAT_PATH[-1][0]
        # One polynomial through the stops: a smooth path without the corners that show up as false contours.
        chroma, hue = (np.polyfit(stops, [stop[i] for stop in _HEAT_PATH], len(stops) - 1) for i in (1, 2))
        table = _lch_to_bytes(low + (high - low) * t, np.polyval(chroma, t), np.polyval(hue, t))
    elif colours == "signed":
        t = np.linspace(-1, 1, 255)
        chroma = 52 * np.sin(np.abs(t) ** 0.9 * np.pi / 2)
        table = _lch_to_bytes(96 - 62 * np.abs(t), chroma, np.where(t < 0, 283.0, 38.0))
    else:
        raise InputError(f"no colour map {colours!r}; there are 'heat' and 'signed'")
    table.setflags(write=False)
    return table


def lightness(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """CIELAB lightness L* in [0, 100] of uint8 sRGB colours (..., 3)."""
    encoded = np.asarray(rgb, dtype=np.float64) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    y = np.clip(linear @ _TO_XYZ[1], 0, 1)
    return np.asarray(np.where(y > _EPSILON, 116 * np.cbrt(y) - 16, _KAPPA * y))


def _lch_to_bytes(
    light: NDArray[np.floating], chroma: NDArray[np.floating], hue: NDArray[np.floating]
) -> NDArray[np.uint8]:
    """Lightness is kept; chroma is lowered to what sRGB can show, as a clipped channel would change the lightness."""
    wanted = np.maximum(chroma, 0)
    low, high = np.zeros_like(wanted), wanted.copy()
    for _ in range(30):
        middle = (low + high) / 2
        linear = _lch_to_linear(light, middle, hue)
        shown = ((linear >= 0) & (linear <= 1)).all(axis=-1)
        low, high = np.where(shown, middle, low), np.where(shown, high, middle)
    linear = np.clip(_lch_to_linear(light, low, hue), 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(encoded * 255), dtype=np.uint8)


def _lch_to_linear(
    light: NDArray[np.floating], chroma: NDArray[np.floating], hue: NDArray[np.floating]
) -> NDArray[np.float64]:
    radians = np.deg2rad(hue)
    fy = (light + 16) / 116
    f = np.stack([fy + chroma * np.cos(radians) / 500, fy, fy - chroma * np.sin(radians) / 200], axis=-1)
    xyz = np.where(f**3 > _EPSILON, f**3, (116 * f - 16) / _KAPPA) * _WHITE
    return np.asarray(xyz @ np.linalg.inv(_TO_XYZ).T)


def _hatch(height: int, width: int) -> NDArray[np.uint8]:
    y, x = np.indices((height, width), sparse=True)
    stripe = (x + y) // (_HATCH_PERIOD // 2) % 2
    grays = np.array(_HATCH_GRAYS, dtype=np.uint8)[stripe]
    return np.repeat(grays[..., None], 3, axis=-1)
