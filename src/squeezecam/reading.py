"""From what the axes of a tensor stand for to its layout, as users write it."""

from __future__ import annotations

import math

from squeezecam.axes import BATCH, CHANNELS, STACKED, TOKENS, UNKNOWN, Axes, Axis, Factor, is_channels
from squeezecam.layout import parse_layout

_NAMES = {1: ("l",), 2: ("h", "w"), 3: ("t", "h", "w")}
_SPARE = ("t", "h", "w", "d", "l", "f")
_SINGLE = Factor("", 1)
"""Stands for a position of which there is one: its axis has lost its name on the way."""


def read_layout(
    axes: Axes | None, shape: tuple[int, ...], batch: int, pictures: bool = True
) -> tuple[str, tuple[int, ...]] | None:
    """Layout and grid of a tensor, the grid in the order of :attr:`Layout.positions`; None where it is no map.

    A map has the batch on one axis (frames may be folded into it), channels alone on another, and each position once
    and whole: windows that are still folded into the batch make no map, nor do single tokens that were stacked.

    Args:
        axes: what the axes stand for.
        shape: shape of the tensor.
        batch: size of the batch.
        pictures: whether tokens of unknown origin may lie on a square grid.

    """
    if axes is None or len(shape) < 3 or batch < 1:
        return None
    channel = _channel_axis(axes)
    if channel is None or sum(f.label == BATCH for axis in axes for f in axis) != 1:
        return None
    axes = tuple(_whole(axis, i) if i != channel else axis for i, axis in enumerate(axes))
    parts = [_opened(axis) for axis in axes]
    slots = [f for i, (factors, _, _) in enumerate(parts) if i != channel for f in factors or (_SINGLE,)]
    slots = [f for f in slots if f.label != BATCH]
    labels = [f.label for f in slots if f is not _SINGLE]
    if len(set(labels)) != len(labels) or TOKENS in labels or STACKED in labels or not 1 <= len(slots) <= 3:
        return None
    tokens = _lone_tokens(axes, shape, channel)
    if pictures and tokens is not None:
        return tokens
    names = iter(_named(slots))
    sizes: dict[str, int] = {}
    text = []
    for i, (factors, before, after) in enumerate(parts):
        if i == channel:
            text.append("c")
            continue
        inside = []
        for factor in factors or (_SINGLE,):
            name = "n" if factor.label == BATCH else next(names)
            inside.append(name)
            if name != "n":
                sizes[name] = factor.size
        words = " ".join(([f"{before}+"] if before else []) + inside + ([f"+ {after}"] if after else []))
        text.append(f"({words})" if " " in words else words)
    layout = parse_layout(" ".join(text))
    return layout.text, tuple(sizes[name] for name in layout.positions)


def _channel_axis(axes: Axes) -> int | None:
    known = [i for i, axis in enumerate(axes) if is_channels(axis)]
    if known:
        return known[0] if len(known) == 1 else None
    unknown = [i for i, axis in enumerate(axes) if len(axis) == 1 and axis[0].label.startswith(UNKNOWN)]
    if not unknown:
        return None
    usual = 1 if len(axes) > 3 else len(axes) - 1
    return usual if usual in unknown else None


def _whole(axis: Axis, index: int) -> Axis:
    """An axis of positions into which channels were folded (as when tokens are made finer): positions of unknown
    origin.
    """
    if any(f.label == CHANNELS for f in axis) and not any(f.label == BATCH for f in axis):
        return (Factor(f"{UNKNOWN}{index}", math.prod(f.size for f in axis)),)
    return axis


def _opened(axis: Axis) -> tuple[tuple[Factor, ...], int, int]:
    """The factors of an axis, those of the grid where other tokens stand beside it, and how many stand there."""
    if len(axis) == 1 and axis[0].label == TOKENS:
        return axis[0].inner, axis[0].before, axis[0].after
    return axis, 0, 0


def _lone_tokens(axes: Axes, shape: tuple[int, ...], channel: int) -> tuple[str, tuple[int, ...]] | None:
    """Tokens ``(N, L, C)`` whose origin was lost on the way: a square grid where one fits."""
    if len(shape) != 3 or channel != 2 or len(axes[0]) != 1 or axes[0][0].label != BATCH:
        return None
    factors, before, after = _opened(axes[1])
    if len(factors) != 1 or not factors[0].label.startswith(UNKNOWN) or "." in factors[0].label or after:
        return None
    length = shape[1] - before
    for extra in (0, 1, 2, 5) if not before else (0,):
        side = math.isqrt(length - extra) if length > extra else 0
        if side > 1 and side * side == length - extra:
            beside = before + extra
            return (f"n ({beside}+ h w) c" if beside else "n (h w) c"), (side, side)
    return None


def _named(slots: list[Factor]) -> list[str]:
    """One name per position, in order: known names stay, the others get those that are usual for the number of
    positions, and what is left goes to the positions of which there is one.
    """
    taken = {f.label for f in slots if f is not _SINGLE and not f.label.startswith(UNKNOWN)}
    spare = [name for name in dict.fromkeys((*_NAMES[len(slots)], *_SPARE)) if name not in taken]
    order = sorted((f for f in slots if f.label.startswith(UNKNOWN)), key=lambda f: _origin(f.label))
    given = {f.label: spare[i] for i, f in enumerate(order)}
    left = iter(spare[len(order) :])
    return [next(left) if f is _SINGLE else given.get(f.label, f.label) for f in slots]


def _origin(label: str) -> tuple[int, ...]:
    return tuple(int(part) for part in label.strip(UNKNOWN).split(".") if part.isdigit())
