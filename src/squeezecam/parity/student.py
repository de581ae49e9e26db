"""Student's t distribution: its quantiles, which small numbers of seeds need, without a dependency."""

from __future__ import annotations

import math

from squeezecam.errors import InputError


def t_quantile(probability: float, freedom: int) -> float:
    """The value below which Student's t with ``freedom`` degrees of freedom lies with ``probability`` (to 1e-9).

    Raises:
        InputError: a probability outside (0, 1), or fewer than one degree of freedom.

    """
    if not 0 < probability < 1 or freedom < 1:
        raise InputError(f"probability is {probability} and freedom {freedom}: expected one in (0, 1), and at least 1")
    if probability < 0.5:
        return -t_quantile(1 - probability, freedom)
    low, high = 0.0, 2.0
    while _below(high, freedom) < probability:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _below(middle, freedom) < probability else (low, middle)
        if high - low <= 1e-10 * high:
            break
    return (low + high) / 2


def _below(t: float, freedom: int) -> float:
    """Share of the distribution below ``t >= 0``: finite sums (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan2(t, math.sqrt(freedom))
    cos, sin = math.cos(angle), math.sin(angle)
    if freedom % 2:
        total, term = 0.0, cos
        for k in range(1, (freedom - 1) // 2 + 1):
            total += term
            term *= cos * cos * 2 * k / (2 * k + 1)
        two_sided = 2 / math.pi * (angle + sin * total)
    else:
        total, term = 0.0, 1.0
        for k in range(1, freedom // 2 + 1):
            total += term
            term *= cos * cos * (2 * k - 1) / (2 * k)
        two_sided = sin * total
    return 0.5 + two_sided / 2
