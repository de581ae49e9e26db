"""Energy-based pointing game: how much of the map's mass lies on the object?"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from squeezecam.errors import InputError
from squeezecam.metrics.checks import finite_rows, maps_and_masks, nan_where_not
from squeezecam.metrics.metric import Metric
from squeezecam.metrics.normalise import min_max

METRIC = Metric(
    name="energy_pointing_game",
    higher_is_better=True,
    category="localisation",
    reference="Wang et al., Score-CAM, CVPRW 2020, arXiv 1910.01279",
    description="share of the sum of the normalised map that lies on the object",
)


def energy_pointing_game(
    heatmap: Tensor, mask: Tensor, *, normalise: Literal["min-max", "positive"] = "min-max"
) -> Tensor:
    """Share (N,) in [0, 1] of the map's energy inside the object; its value for a random map is the object's area.

    Args:
        heatmap: (N, *S), raw values. ``min-max`` scales each map to [0, 1] first, as the paper does; ``positive``
            only sets negative values to 0. A map without any energy (constant, or never positive) has 0 on the object.
            A NaN map gives NaN.
        mask: (N, *S), non-zero on the object; NaN results where it is empty.
        normalise: see ``heatmap``.
    """
    maps, mask = maps_and_masks(heatmap, mask)
    if normalise not in ("min-max", "positive"):
        raise InputError(f"normalise is {normalise!r}, expected 'min-max' or 'positive'")
    energy = min_max(maps) if normalise == "min-max" else maps.clamp_min(0)
    total = energy.flatten(1).sum(dim=1)
    inside = (energy * mask).flatten(1).sum(dim=1)
    share = (inside / total.masked_fill(total == 0, 1)).clamp(0, 1)
    return nan_where_not(share, finite_rows(maps) & mask.flatten(1).any(dim=1))
