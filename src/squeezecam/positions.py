"""Whether the positions of a feature map still matter for what comes after it.

After the final norm of a vision transformer the patch tokens are there, but only the class token is read: a block there
would scale tokens that reach nothing. So the positions are followed from the map to the output: they matter where they
are pooled, attended, convolved or flattened together, or where the output itself has positions; they do not where only
single tokens are taken out.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from squeezecam.axes import CONVOLUTION, LINEAR, REDUCTIONS, Axes, Axis, Factor, follow, is_position, shape_of
from squeezecam.graph import Graph, Node
from squeezecam.layout import Layout

_ALONG = ("softmax", "_softmax", "_log_softmax", "cumsum", "sort", "topk")
_MIXERS = (
    "pool",
    "attention",
    "transformer",
    "lstm",
    "gru",
    "rnn",
    "fft",
    "im2col",
    "col2im",
    "einsum",
    "grid_sampler",
)
MIXED, GONE = "mixed", "gone"
POSITION = "p"


def positions_matter(
    graph: Graph, start: int, axes: Axes, extra: int, relevant: Collection[int], children: dict[int, list[int]]
) -> bool:
    """Whether the positions of the tensor at node ``start`` reach the output as more than single tokens.

    Args:
        graph: the data flow.
        start: the node of the map.
        axes: what its axes stand for; see :func:`marked`.
        extra: how many tokens stand beside the grid; reading no more than those does not count.
        relevant: nodes that the output is made of.
        children: of every node, see :meth:`Graph.children`.

    """
    stack: list[tuple[int, Axes]] = [(start, axes)]
    seen = {start}
    last = max(relevant)
    while stack:
        node, known = stack.pop()
        for child in children.get(node, []):
            if child in seen or child not in relevant:
                continue
            info = graph.nodes[child]
            parents = [known if p == node else None for p in info.parents]
            fate = _fate(info, parents, known, extra)
            if fate == MIXED:
                return True
            if fate == GONE:
                continue
            seen.add(child)
            made = follow(info.op, info.details, info.shape, parents, -1, str(child))
            if child == last and any(is_position(axis) for axis in made):
                return True
            stack.append((child, made))
    return False


def marked(layout: Layout, sizes: dict[str, int]) -> Axes:
    """Axes of a map in ``layout`` with every position marked; tokens beside the grid count as positions."""
    axes: list[Axis] = []
    for axis in layout.axes:
        if axis.before or axis.after:
            length = math.prod(sizes[name] for name in axis.names) + axis.before + axis.after
            axes.append((Factor(POSITION, length),))
        else:
            axes.append(tuple(Factor(name if name in "nc" else POSITION, sizes[name]) for name in axis.names))
    return tuple(axes)


def _fate(info: Node, parents: list[Axes | None], known: Axes, extra: int) -> str | None:
    """What an operation does to positions: mixes them, drops them, or keeps them apart (None)."""
    op = info.op
    if op in CONVOLUTION:
        wide = any(size > 1 and is_position(axis) for size, axis in zip(info.details, known[2:], strict=False))
        return MIXED if wide or len(known) < 3 or is_position(known[1]) else None
    if op in LINEAR:
        inner = known[0] if parents[-1] is known and len(parents) > 1 and parents[-2] is None else known[-1]
        return MIXED if inner and is_position(inner) else None
    if op in ("bmm", "baddbmm"):
        inner = known[-1] if len(parents) > 1 and parents[-2] is known else known[1]
        return MIXED if is_position(inner) else None
    if "attention" in op and len(parents) >= 3:
        keys = parents[1] is known or parents[2] is known
        return MIXED if (keys and is_position(known[-2])) or is_position(known[-1]) else None
    if any(word in op for word in _MIXERS):
        return MIXED if any(is_position(axis) for axis in known) else None
    if op in _ALONG:
        return MIXED if any(is_position(known[i]) for i in info.details if i < len(known)) else None
    if op in REDUCTIONS:
        over = [known[i] for i in info.details if i < len(known)] if info.details else list(known)
        return MIXED if any(is_position(axis) for axis in over) and _shrinks(info, known) else None
    if op in ("select", "unbind"):
        return GONE if info.details[0] < len(known) and is_position(known[info.details[0]]) else None
    if op in ("slice", "index_select", "index", "gather"):
        for i, axis in enumerate(known[: len(info.shape)]):
            if is_position(axis) and info.shape[i] <= max(1, extra) and info.shape[i] < _length(axis):
                return GONE
    return None


def _shrinks(info: Node, known: Axes) -> bool:
    return math.prod(info.shape) < math.prod(shape_of(known))


def _length(axis: Axis) -> int:
    return math.prod(factor.size for factor in axis)
