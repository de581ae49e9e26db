"""What the axes of a tensor stand for, followed through the operations of a pass.

An axis is a product of *factors*: the batch, channels, or positions such as height and width. Views split and merge
factors, convolutions and linear layers make new channels, a concatenation along the tokens puts class tokens beside a
grid. So the layout of any tensor of the pass is known by following it from the input, not guessed from its shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

BATCH, CHANNELS, TOKENS = "n", "c", "#"
UNKNOWN, STACKED = "?", "|"
MAX_PREFIX = 32
"""Most class, register and distillation tokens that are believed to stand beside a grid."""

LINEAR = ("addmm", "mm", "linear", "addmv", "mv")
CONVOLUTION = ("convolution", "_convolution", "mkldnn_convolution", "cudnn_convolution")
RESHAPES = ("view", "_unsafe_view", "reshape", "_reshape_alias", "unsqueeze", "squeeze", "_reshape_copy")
REDUCTIONS = (
    "mean",
    "sum",
    "amax",
    "amin",
    "max",
    "min",
    "logsumexp",
    "var",
    "std",
    "var_mean",
    "linalg_vector_norm",
    "norm",
    "argmax",
    "any",
)
_SPATIAL = {1: ("l",), 2: ("h", "w"), 3: ("t", "h", "w")}


@dataclass(frozen=True)
class Factor:
    """One meaning of an axis.

    Attributes:
        label: ``"n"``, ``"c"``, ``"#"`` (tokens: a grid with others beside it), ``"|"`` (things stacked side by side),
            or the name of a position; ``"?..."`` where unknown.
        size: its length.
        stride: 1, or for a part of a larger factor the number of its elements that one step skips.
        before, after: of tokens, how many stand before and after the grid.
        inner: of tokens, the factors of the grid.

    """

    label: str
    size: int
    stride: int = 1
    before: int = 0
    after: int = 0
    inner: tuple[Factor, ...] = ()


Axis = tuple[Factor, ...]
Axes = tuple[Axis, ...]


def unknown(shape: Sequence[int], batch: int, tag: str = "") -> Axes:
    """Axes of a tensor of which nothing is known but that its first axis may be the batch."""
    first = (
        (Factor(BATCH, batch),)
        if shape and shape[0] == batch
        else _single(f"{UNKNOWN}{tag}0", shape[0] if shape else 1)
    )
    return (first, *(_single(f"{UNKNOWN}{tag}{i}", size) for i, size in enumerate(shape) if i)) if shape else ()


def is_position(axis: Axis) -> bool:
    """Whether an axis carries positions: anything that is neither batch nor channels."""
    return any(factor.label not in (BATCH, CHANNELS) for factor in axis)


def shape_of(axes: Axes) -> tuple[int, ...]:
    """The sizes that ``axes`` stand for."""
    return tuple(math.prod(factor.size for factor in axis) for axis in axes)


def follow(
    op: str, details: tuple[int, ...], shape: tuple[int, ...], parents: Sequence[Axes | None], batch: int, tag: str
) -> Axes:
    """Axes of the result of an operation.

    Args:
        op: name of the operation.
        details: the axes and indices that it was told, see :func:`squeezecam.graph.details`.
        shape: shape of the result.
        parents: axes of the tensors that it took, in their order; None for constants.
        batch: size of the batch.
        tag: makes new unknown factors distinct.

    """
    source = next((axes for axes in parents if axes is not None), None)
    if source is None:
        return unknown(shape, batch, tag)
    found = _follow(op, details, shape, parents, source, tag)
    if found is None or len(found) != len(shape):
        return unknown(shape, batch, tag)
    return tuple(
        _fitted(axis, size, f"{UNKNOWN}{tag}{i}") for i, (axis, size) in enumerate(zip(found, shape, strict=True))
    )


def _follow(
    op: str, details: tuple[int, ...], shape: tuple[int, ...], parents: Sequence[Axes | None], source: Axes, tag: str
) -> Axes | None:
    rank = len(shape)
    if op in CONVOLUTION:
        return _convolved(source, shape)
    if op in LINEAR:
        if rank == 2 and parents[-1] is not None and len(parents) > 1 and parents[-2] is None:  # weights times features
            return _channels(shape[0]), parents[-1][-1]
        return (*source[: rank - 1], _channels(shape[-1]))
    if op == "im2col" and details:  # patches side by side
        return source[0], _channels(shape[1]), (Factor("h", details[0]), Factor("w", details[1]))
    if op == "embedding":
        return (*source, _channels(shape[-1]))
    if op in ("bmm", "baddbmm"):
        left, right = parents[-2], parents[-1]
        rows = left[1] if left is not None else _channels(shape[1])
        columns = right[2] if right is not None else _channels(shape[2])
        return (left or right or source)[0], rows, columns
    if "scaled_dot_product" in op and len(parents) >= 3 and rank == len(source):
        value = parents[2]
        return (*source[:-1], value[-1] if value is not None else _channels(shape[-1]))
    if op in RESHAPES or op == "expand":
        return regroup(source, shape, tag)
    if op == "permute":
        return tuple(source[i] for i in details)
    if op in ("transpose", "t") and rank == len(source):
        swapped = list(source)
        first, second = details or (0, rank - 1)
        swapped[first], swapped[second] = swapped[second], swapped[first]
        return tuple(swapped)
    if op in ("select", "unbind"):
        return tuple(axis for i, axis in enumerate(source) if i != details[0])
    if op == "slice" and details:
        cut, start, stop = details
        return tuple(sliced(axis, start, stop) if i == cut else axis for i, axis in enumerate(source))
    if op == "stack":
        return (*source[: details[0]], _single(STACKED, shape[details[0]]), *source[details[0] :])
    if op == "cat":
        return _joined(details[0], shape, parents, source)
    if op in REDUCTIONS and rank < len(source):
        return tuple(axis for i, axis in enumerate(source) if i not in details) if details else None
    if op in (
        "native_batch_norm",
        "_native_batch_norm_legit_no_training",
        "cudnn_batch_norm",
        "native_group_norm",
        "batch_norm",
    ):
        # an instance norm folds the batch into the channels, and unfolds it afterwards
        known = any(factor.label in (BATCH, CHANNELS) for factor in source[1]) if rank == len(source) else True
        return source if known else (source[0], _channels(shape[1]), *source[2:])
    if op in ("native_layer_norm", "_fused_rms_norm") and details == (1,) and rank == len(source) and shape[-1] > 1:
        return (*source[:-1], source[-1] if is_channels(source[-1]) else _channels(shape[-1]))
    return _elementwise(shape, parents)


def is_channels(axis: Axis) -> bool:
    """Whether an axis holds channels and nothing else."""
    return bool(axis) and all(factor.label == CHANNELS for factor in axis)


def regroup(axes: Axes, shape: Sequence[int], tag: str = "") -> Axes | None:
    """Axes after a reshape to ``shape``: factors in order, split and merged as the sizes demand; None where they do not
    fit.
    """
    left = [factor for axis in axes for factor in axis][::-1]
    made: list[list[Factor]] = []
    for i, size in enumerate(shape):
        axis: list[Factor] = []
        need = size
        while left and (need > 1 or left[-1].size == 1):
            factor = left.pop()
            if need == 1 and axis:
                left.append(factor)
                break
            if need % factor.size == 0:
                axis.append(factor)
                need //= factor.size
            elif factor.size % need == 0:
                if factor.label == TOKENS:
                    return None
                rest = factor.size // need
                axis.append(replace(factor, size=need, stride=factor.stride * rest))
                left.append(replace(factor, size=rest))
                need = 1
            else:
                return None
        if need > 1:  # an axis that was widened from length 1
            axis.append(Factor(f"{UNKNOWN}{tag}{i}", need))
        made.append(axis)
    if left:
        if any(factor.size > 1 for factor in left) or not made:
            return None
        made[-1].extend(left)
    return tuple(_merged(axis) for axis in made)


def sliced(axis: Axis, start: int, stop: int) -> Axis:
    """What is left of an axis between two indices: of tokens the grid where just that is cut out, or single tokens."""
    length = stop - start
    if len(axis) == 1 and axis[0].label == TOKENS:
        tokens = axis[0]
        end = tokens.size - tokens.after
        before, after = max(0, tokens.before - start), max(0, stop - end)
        if start <= tokens.before and stop >= end:
            return (
                tokens.inner
                if not before and not after
                else (replace(tokens, size=length, before=before, after=after),)
            )
        return (Factor(UNKNOWN, length),) if length > 1 else ()
    if len(axis) == 1:
        return (replace(axis[0], size=length),) if length > 1 or axis[0].label == BATCH else ()
    return axis if math.prod(f.size for f in axis) == length else (Factor(UNKNOWN, length),)


def _joined(dim: int, shape: tuple[int, ...], parents: Sequence[Axes | None], source: Axes) -> Axes | None:
    """A concatenation. Along positions the longest part is the grid, and what stands beside it are single tokens."""
    known = [axes for axes in parents if axes is not None and len(axes) == len(shape)]
    if not known:
        return None
    if all(is_channels(axes[dim]) for axes in known):
        joined: Axis = _channels(shape[dim])
        return tuple(joined if i == dim else axis for i, axis in enumerate(known[0]))
    sizes = [shape_of(axes)[dim] if axes is not None and len(axes) == len(shape) else 0 for axes in parents]
    if 0 in sizes:  # the length of constants (a class token) is what the others leave
        missing = shape[dim] - sum(sizes)
        if sizes.count(0) > 1 and missing != sizes.count(0):
            sizes = [size or (missing if i == sizes.index(0) else 0) for i, size in enumerate(sizes)]
        else:
            sizes = [size or missing // sizes.count(0) for size in sizes]
    main = max(range(len(parents)), key=lambda i: (parents[i] is not None, sizes[i]))
    axes = parents[main]
    assert axes is not None
    before, after = sum(sizes[:main]), sum(sizes[main + 1 :])
    if all(size == 1 for size in sizes):  # single tokens side by side are no positions
        return tuple(_single(STACKED, shape[dim]) if i == dim else axis for i, axis in enumerate(axes))
    if not is_position(axes[dim]) or before + after > MAX_PREFIX:
        return tuple(() if i == dim else axis for i, axis in enumerate(axes))
    axis = axes[dim]
    if len(axis) == 1 and axis[0].label == TOKENS:
        tokens = replace(axis[0], size=shape[dim], before=axis[0].before + before, after=axis[0].after + after)
    else:
        tokens = Factor(TOKENS, shape[dim], before=before, after=after, inner=axis)
    return tuple((tokens,) if i == dim else other for i, other in enumerate(axes))


def _convolved(source: Axes, shape: tuple[int, ...]) -> Axes | None:
    if len(source) != len(shape):
        return None
    names = _SPATIAL.get(len(shape) - 2, ())
    positions = []
    for name, axis, size in zip(names, source[2:], shape[2:], strict=False):
        kept = math.prod(f.size for f in axis) == size and len(axis) > 1
        label = name
        if len(names) == 1 and len(axis) == 1 and not axis[0].label.startswith((UNKNOWN, TOKENS)):
            label = axis[0].label
        positions.append(axis if kept else _single(label, size))
    first = source[0]
    if len(names) == 2:  # whatever is folded into the batch of pictures is time
        folded = [f for f in first if f.label != BATCH]
        if len(folded) == 1 and folded[0].label.startswith(UNKNOWN):
            first = tuple(f if f.label == BATCH else replace(f, label="t") for f in first)
    return (first, _channels(shape[1]), *positions)


def _elementwise(shape: tuple[int, ...], parents: Sequence[Axes | None]) -> Axes | None:
    """Axes from whichever parent knows them, aligned from the right as broadcasting does."""
    made: list[Axis] = [()] * len(shape)
    known = [axes for axes in parents if axes is not None and len(axes) <= len(shape)]
    if not any(len(axes) == len(shape) for axes in known):
        return None
    for axes in known:
        for back in range(1, len(axes) + 1):
            old, new = made[-back], axes[-back]
            fits = math.prod(f.size for f in new) == shape[-back]
            better = not old or (_vague(old) and not _vague(new) and fits)
            if new and better:
                made[-back] = new
    return tuple(made)


def _vague(axis: Axis) -> bool:
    return any(factor.label.startswith(UNKNOWN) for factor in axis)


def _fitted(axis: Axis, size: int, fallback: str) -> Axis:
    """``axis`` with the size that the tensor has: pooling, padding and strides change sizes, not meanings."""
    if math.prod(factor.size for factor in axis) == size:
        return axis
    if len(axis) == 1 and axis[0].label != TOKENS:
        return (replace(axis[0], size=size),) if size > 1 or axis[0].label == BATCH else ()
    return _channels(size) if is_channels(axis) else _single(fallback, size)


def _merged(axis: Sequence[Factor]) -> Axis:
    made: list[Factor] = []
    for factor in axis:
        last = made[-1] if made else None
        if last is not None and last.label == factor.label != TOKENS and last.stride == factor.stride * factor.size:
            made[-1] = replace(factor, size=last.size * factor.size)
        else:
            made.append(factor)
    return tuple(made)


def _single(label: str, size: int) -> Axis:
    return (Factor(label, size),) if size > 1 else ()


def _channels(size: int) -> Axis:
    return (Factor(CHANNELS, size),)
