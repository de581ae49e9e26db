"""Where on a face an attribute shows, from five landmarks.

Places are rectangles in a frame of the face's own: the origin is midway between the eyes, x runs along them in units of
their distance (an eye is at -0.5 and 0.5), y down the face in units of the way from there to the middle of the mouth
(which is at 1; the chin is near 1.6). Ours, not part of any data set: they say where an attribute is *defined*, with
some margin, the same for every method that is measured on them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from squeezecam.data.record import Box
from squeezecam.errors import InputError

Rectangle = tuple[float, float, float, float]
_FAR = 100.0

REGIONS: Mapping[str, Rectangle] = {
    "eyes": (-1.05, -0.45, 1.05, 0.45),
    "brows": (-1.0, -0.75, 1.0, 0.0),
    "nose": (-0.45, 0.1, 0.45, 0.8),
    "mouth": (-0.75, 0.65, 0.75, 1.4),
    "lower face": (-1.1, 0.6, 1.1, 2.0),
    "forehead": (-1.2, -1.6, 1.2, -0.2),
    "above the eyes": (-_FAR, -_FAR, _FAR, -0.3),
    "below the chin": (-_FAR, 1.6, _FAR, _FAR),
}
"""Rectangles x0, y0, x1, y1 in the frame of the face."""

PLACES: Mapping[str, str] = {
    "Eyeglasses": "eyes",
    "Narrow_Eyes": "eyes",
    "Bags_Under_Eyes": "eyes",
    "Arched_Eyebrows": "brows",
    "Bushy_Eyebrows": "brows",
    "Big_Nose": "nose",
    "Pointy_Nose": "nose",
    "Mouth_Slightly_Open": "mouth",
    "Smiling": "mouth",
    "Wearing_Lipstick": "mouth",
    "Big_Lips": "mouth",
    "No_Beard": "lower face",
    "Goatee": "lower face",
    "Mustache": "lower face",
    "5_o_Clock_Shadow": "lower face",
    "Double_Chin": "lower face",
    "Bangs": "forehead",
    "Receding_Hairline": "above the eyes",
    "Bald": "above the eyes",
    "Wearing_Hat": "above the eyes",
    "Wearing_Necktie": "below the chin",
    "Wearing_Necklace": "below the chin",
}
"""The region of each CelebA attribute that has a place; hair colour, gender, age and the like have none."""


def region_mask(points: NDArray[np.float64], region: str, height: int, width: int) -> NDArray[np.bool_]:
    """(height, width): True where the region is, turned with the face.

    Args:
        points: (5, 2), x and y in pixels: left eye, right eye, nose, left and right corner of the mouth, as seen.
        region: a name in `REGIONS`.
        height: of the picture, in pixels.
        width: likewise.

    Raises:
        InputError: an unknown region, or landmarks that make no face.
    """
    if region not in REGIONS:
        raise InputError(f"there is no region '{region}'; expected one of {', '.join(REGIONS)}")
    x0, y0, x1, y1 = REGIONS[region]
    rows, columns = np.mgrid[0:height, 0:width] + 0.5
    across, down = _frame(points)
    middle = points[:2].mean(0)
    x = ((columns - middle[0]) * across[0] + (rows - middle[1]) * across[1]) / (across @ across)
    y = ((columns - middle[0]) * down[0] + (rows - middle[1]) * down[1]) / (down @ down)
    return np.asarray((x >= x0) & (x < x1) & (y >= y0) & (y < y1))


def region_box(points: NDArray[np.float64], region: str) -> Box:
    """The upright box ``(x0, y0, x1, y1)`` around a region, in pixels; it may reach beyond the picture.

    Raises:
        InputError: as `region_mask`.
    """
    if region not in REGIONS:
        raise InputError(f"there is no region '{region}'; expected one of {', '.join(REGIONS)}")
    x0, y0, x1, y1 = REGIONS[region]
    across, down = _frame(points)
    if np.abs([x0, y0, x1, y1]).max() >= _FAR:  # a turned half-plane has no upright box: taken as for an upright face
        across, down = np.array([np.linalg.norm(across), 0.0]), np.array([0.0, np.linalg.norm(down)])
    corners = [points[:2].mean(0) + x * across + y * down for x in (x0, x1) for y in (y0, y1)]
    low, high = np.min(corners, 0), np.max(corners, 0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _frame(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The unit steps across and down the face, in pixels; down is at right angles to across."""
    if points.shape != (5, 2) or not np.isfinite(points).all():
        raise InputError(
            f"landmarks of shape {points.shape}; expected (5, 2): eyes, nose, corners of the mouth, finite"
        )
    across = points[1] - points[0]
    length = float(np.linalg.norm(across))
    if length < 1e-6:
        raise InputError("the landmarks of both eyes are the same point; expected two eyes")
    normal = np.array([-across[1], across[0]]) / length
    reach = float((points[3:].mean(0) - points[:2].mean(0)) @ normal)
    if reach <= 0:
        raise InputError(
            "the landmarks put the mouth above the eyes; expected left eye, right eye, nose, mouth corners"
        )
    return across, normal * reach
