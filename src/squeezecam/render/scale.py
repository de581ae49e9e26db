"""From raw values to [0, 1], and the two numbers that say what the colours mean.

The lower end is 0 where no value is negative (no evidence is cold, and a map without contrast does not look as if it
had some), and the minimum where values are negative: ``min(0, minimum)``, which has no jump at zero. ``floor="min"``
stretches from the minimum always, as most tools do. A map that is constant, up to rounding, is all cold: there is
nothing to point at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from squeezecam.errors import InputError
from squeezecam.render.arrays import as_map

if TYPE_CHECKING:
    from numpy.typing import NDArray

How = Literal["per sample", "shared", "quantile", "shared quantile"]
Floor = Literal["zero", "min"]

# Spread below this share of the largest magnitude is rounding of float32 (2^-24 per operation), not evidence.
_FLAT = 1e-6


@dataclass(frozen=True)
class Scale:
    """What coldest and hottest stand for.

    Attributes:
        lo: the value drawn coldest; lower ones are clamped to it.
        hi: the value drawn hottest; higher ones are clamped to it.
        how: how the two were found, for the caption: ``per sample``, ``shared``, ``quantile``, ``fixed``.
        signed: symmetric about zero, for the signed colours: zero becomes 0.5.
        flat: the maps held one value only; everything is drawn cold (signed: neutral).
    """

    lo: float
    hi: float
    how: str = "fixed"
    signed: bool = False
    flat: bool = False

    def __post_init__(self) -> None:
        if (
            not (np.isfinite(self.lo) and np.isfinite(self.hi))
            or self.lo > self.hi
            or (self.lo == self.hi and not self.flat)
        ):
            raise InputError(f"a scale needs two finite numbers, the lower first; got ({self.lo:g}, {self.hi:g})")

    def apply(self, values: Any) -> NDArray[np.float64]:
        """Scale a map (H, W) to [0, 1], clamped; NaN stays NaN."""
        array = as_map(values)
        if self.flat:
            return np.where(np.isnan(array), np.nan, 0.5 if self.signed else 0.0)
        span = self.hi - self.lo
        with np.errstate(over="ignore"):  # far outside is clamped like anything outside
            if np.isfinite(span):
                scaled = (array - self.lo) / span
            else:
                scaled = (array / 2 - self.lo / 2) / (self.hi / 2 - self.lo / 2)
        return np.asarray(np.clip(scaled, 0.0, 1.0))

    def describe(self) -> str:
        """The line for a picture: ``scale per sample: 0 to 0.0123``."""
        if self.flat:
            return f"scale {self.how}: constant {number(self.hi)}"
        return f"scale {self.how}: {number(self.lo)} to {number(self.hi)}"


def find_scale(
    maps: Sequence[Any],
    how: How | tuple[float, float] | Scale = "shared",
    *,
    floor: Floor = "zero",
    quantile: float = 0.99,
    signed: bool = False,
) -> Scale:
    """One scale for all ``maps`` (each (H, W), sizes may differ).

    Args:
        maps: the maps that are to be compared; NaN and infinities are left out.
        how: ``shared`` or ``per sample`` (the caption differs, the numbers are those of all maps given): up to the
            maximum; ``quantile``: up to that quantile, so that a single hot pixel does not darken the rest (up to the
            maximum where the quantile is at the lower end, as in maps that are mostly zero); ``(lo, hi)``: fixed; a
            `Scale`: itself.
        floor: see the module.
        quantile: in (0, 1].
        signed: symmetric about zero, as wide as the largest magnitude.

    Raises:
        InputError: no map, a wrong shape, or numbers out of order.
    """
    if isinstance(how, Scale):
        return how
    if isinstance(how, tuple):
        if len(how) != 2:
            raise InputError(f"a fixed scale is (lo, hi); got {how}")
        return Scale(float(how[0]), float(how[1]), "fixed", signed)
    if how not in ("per sample", "shared", "quantile", "shared quantile"):
        raise InputError(
            f"no scale {how!r}; there are 'per sample', 'shared', 'quantile', 'shared quantile' and (lo, hi)"
        )
    if not 0 < quantile <= 1:
        raise InputError(f"quantile must lie in (0, 1], got {quantile:g}")
    arrays = [as_map(values) for values in maps]
    if not arrays:
        raise InputError("no map to scale")
    values = np.concatenate([array[np.isfinite(array)] for array in arrays])
    if values.size == 0:
        return Scale(0.0, 0.0, how, signed, flat=True)
    low, high = float(values.min()), float(values.max())
    if high - low <= _FLAT * max(abs(low), abs(high)) and not (signed and high):
        return Scale(high, high, how, signed, flat=True)
    top = float(np.quantile(np.abs(values) if signed else values, quantile)) if "quantile" in how else None
    if signed:
        reach = top or max(abs(low), abs(high))
        return Scale(-reach, reach, how, signed=True)
    bottom = low if floor == "min" else min(0.0, low)
    return Scale(bottom, high if top is None or top <= bottom else top, how)


def single_scale(heatmap: Any, how: How | tuple[float, float] | Scale, *, signed: bool = False) -> Scale:
    """The scale of one map that is drawn alone; arguments as in `find_scale`.

    Raises:
        InputError: also for ``shared``: from one map it cannot be known, and the picture would claim what is not so.
    """
    if how in ("shared", "shared quantile"):
        raise InputError(f"scale={how!r} needs all maps at once; pass scale=find_scale(maps, {how!r})")
    return find_scale([heatmap], how, signed=signed)


def scale_maps(
    maps: Sequence[Any],
    how: How | tuple[float, float] | Scale = "per sample",
    *,
    floor: Floor = "zero",
    quantile: float = 0.99,
    signed: bool = False,
) -> tuple[list[NDArray[np.float64]], list[Scale]]:
    """Scale maps to [0, 1]; returns them and the scale of each (the same one where it is shared or fixed).

    Arguments and errors as in `find_scale`; ``per sample`` and ``quantile`` look at each map alone.
    """
    if how in ("per sample", "quantile"):
        scales = [find_scale([values], how, floor=floor, quantile=quantile, signed=signed) for values in maps]
    else:
        scales = [find_scale(maps, how, floor=floor, quantile=quantile, signed=signed)] * len(maps)
    return [scale.apply(values) for scale, values in zip(scales, maps, strict=True)], scales


def number(value: float) -> str:
    """Three significant digits, short: ``0``, ``0.0123``, ``1.2e-05``, ``451``."""
    text = f"{value:.3g}"
    return "0" if text == "-0" else text
