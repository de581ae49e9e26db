"""What an operation was told besides tensors: its axes and indices, as plain numbers."""

from __future__ import annotations

from typing import Any

from squeezecam.axes import REDUCTIONS


def details(
    op: str, args: tuple[Any, ...], rank: int, index: int = 0, shape: tuple[int, ...] | None = None
) -> tuple[int, ...]:
    """The axes and indices that an operation was told, as numbers that do not depend on how it was called.

    ``permute``: the order; ``transpose``: both axes; ``select``, ``unbind``, ``stack``, ``cat``, softmax and cumulative
    sums: the axis (and index); slices and splits: axis, start and stop; reductions: the axes, none for all;
    convolutions: the kernel; ``im2col``: rows and columns of patches; layer norms: how many axes.

    Args:
        op: name of the operation.
        args: its positional arguments.
        rank: number of axes of the tensor that it takes.
        index: which of its results is meant.
        shape: of the tensor that it takes, where that decides.

    """

    def axis(value: Any) -> int:
        return int(value) % max(rank, 1)

    rest = args[1:]
    if op == "im2col" and len(rest) == 4 and shape is not None:
        sides = zip(shape[-2:], *rest, strict=True)
        return tuple(
            (s + 2 * pad - dilation * (kernel - 1) - 1) // step + 1 for s, kernel, dilation, pad, step in sides
        )
    if op == "permute":
        return tuple(axis(i) for i in rest[0])
    if op == "transpose":
        return axis(rest[0]), axis(rest[1])
    if op == "select":
        return axis(rest[0]), int(rest[1])
    if op == "unbind":
        return axis(rest[0] if rest else 0), index
    if op == "stack":
        return (int(rest[0]) % (rank + 1) if rest else 0,)
    if (
        op in ("cat", "softmax", "_softmax", "_log_softmax", "cumsum", "sort", "topk", "index_select", "gather")
        and rest
    ):
        which = rest[1] if op == "topk" and len(rest) > 1 else rest[0]
        return (
            (axis(which),)
            if (isinstance(which, int) and op != "topk") or (op == "topk" and len(rest) > 1)
            else (rank - 1,)
        )
    if op == "cat":
        return (0,)
    if op in ("native_layer_norm", "_fused_rms_norm"):
        return (len(rest[0]),) if rest and isinstance(rest[0], (list, tuple)) else (1,)
    if op in REDUCTIONS and rest and isinstance(rest[0], (list, tuple, int)) and not isinstance(rest[0], bool):
        return tuple(sorted({axis(i) for i in ([rest[0]] if isinstance(rest[0], int) else rest[0])}))
    if op == "linalg_vector_norm" and len(rest) > 1 and isinstance(rest[1], (list, tuple)):
        return tuple(sorted({axis(i) for i in rest[1]}))
    return ()


def span(op: str, args: tuple[Any, ...], shape: tuple[int, ...], index: int) -> tuple[int, ...] | None:
    """Axis, start and stop of a slice or of one part of a split; None for other operations and for steps."""
    rest = args[1:]
    if op == "slice":
        dim = int(rest[0]) % len(shape) if rest else 0
        size = shape[dim]
        start = min(max(0, int(rest[1] if len(rest) > 1 and rest[1] is not None else 0) % size if size else 0), size)
        if len(rest) > 1 and rest[1] is not None and int(rest[1]) >= size:
            start = size
        stop = int(rest[2]) if len(rest) > 2 and rest[2] is not None else size
        stop = min(stop if stop >= 0 else stop + size, size)
        step = int(rest[3]) if len(rest) > 3 else 1
        return (dim, start, stop) if step == 1 else None
    if op in ("split", "split_with_sizes", "chunk", "narrow"):
        dim = int(rest[1] if len(rest) > 1 and op != "narrow" else rest[0] if op == "narrow" else 0) % len(shape)
        if op == "narrow":
            return dim, int(rest[1]), int(rest[1]) + int(rest[2])
        if op == "split_with_sizes":
            sizes = [int(i) for i in rest[0]]
            return dim, sum(sizes[:index]), sum(sizes[: index + 1])
        each = int(rest[0])
        return dim, index * each, min((index + 1) * each, shape[dim])
    return None
