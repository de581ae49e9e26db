"""One probe pass: which feature maps a model has, how their axes lie, and which one feeds the classifier.

The place of a block is the last feature map with spatial extent that *every* path from the input to the classification layer passes (a
dominator of the data flow), that stands at a module's input or output, and whose positions still matter afterwards: the patch tokens of a
transformer do not once only the class token is read.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from squeezecam import tree
from squeezecam.errors import SiteError
from squeezecam.graph import WEIGHTED, Door, Graph, trace
from squeezecam.layout import Layout, parse_layout

MAX_PREFIX = 32
"""Most class, register and distillation tokens that are believed to stand before a grid."""

_MIXES = ("convolution", "_convolution", "bmm", "baddbmm", "matmul", "einsum", "softmax", "_softmax", "mkldnn_rnn_layer", "cumsum", "fft")


@dataclass(frozen=True)
class Site:
    """Where a block goes.

    Args:
        module: a module of the model, or its dotted name.
        when: at the module's ``"output"`` or at its ``"input"``.
        layout: axes of the tensor, for instance ``"n c h w"`` or ``"n (1+ h w) c"``; None: inferred.
        grid: sizes of the positions, needed where several share an axis; None: inferred.
        item: keys that lead to the tensor where the module takes or returns several; None: inferred.
        call: which call of a module that runs more than once in a pass; -1 is the last.

    """

    module: str | nn.Module
    when: Literal["input", "output"] = "output"
    layout: str | None = None
    grid: tuple[int, ...] | None = None
    item: tree.Path | None = None
    call: int = -1

    def __repr__(self) -> str:
        name = self.module if isinstance(self.module, str) else type(self.module).__name__
        parts = [repr(name), repr(self.when)]
        parts += [f"layout={self.layout!r}"] if self.layout else []
        parts += [f"grid={self.grid!r}"] if self.grid else []
        parts += [f"item={self.item!r}"] if self.item else []
        parts += [f"call={self.call}"] if self.call != -1 else []
        return f"Site({', '.join(parts)})"


@dataclass(frozen=True)
class Place:
    """A :class:`Site` resolved on one model: everything that is needed to read and to scale the map there."""

    module: str
    when: Literal["input", "output"]
    layout: Layout
    grid: tuple[int, ...]
    channels: int
    item: tree.Path
    call: int
    last: bool
    node: int

    @property
    def site(self) -> Site:
        """The same place in the form that ``attach(at=...)`` takes."""
        folded = any(len(axis.names) > 1 and "n" not in axis.names for axis in self.layout.axes)
        item = self.item if self.item not in ((), (0,)) else None
        return Site(self.module, self.when, self.layout.text, self.grid if folded else None, item, -1 if self.last else self.call)

    def describe(self) -> str:
        """One line: where, layout, channels, grid."""
        name = self.module or "the model"
        grid = " x ".join(map(str, self.grid))
        return f"{self.when} of {name}: layout '{self.layout}', {self.channels} channels, grid {grid}"


@dataclass(frozen=True)
class Candidate:
    """A feature map that was considered, with the verdict in words."""

    place: Place
    verdict: str
    taken: bool = False


@dataclass
class Anatomy:
    """What the probe found."""

    places: dict[str, Place]
    candidates: list[Candidate]
    outputs: dict[str, tree.Path]
    default_output: str
    weights: dict[str, tuple[str | None, str | None, str | None, str | None]]
    """Per output: names of weight and bias of its classification layer, and of scale and shift of a normalisation before it."""
    graph: Graph = field(repr=False)
    result: Any = field(repr=False, default=None)


def examine(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], at: Any = None) -> Anatomy:
    """Trace one pass and resolve where blocks go; ``at`` as for :func:`squeezecam.attach`.

    Raises:
        SiteError: no feature map with spatial extent, or ``at`` does not name one.

    """
    graph, result = trace(model, args, kwargs)
    batch = tree.batch_size(args, kwargs)
    outputs = _outputs(graph)
    default = _default_output(graph, outputs)
    if at is None:
        places, candidates = _search(graph, batch, outputs[default][1])
    else:
        wanted = at if isinstance(at, dict) else {"map": at}
        places = {name: _resolve(model, graph, batch, site) for name, site in wanted.items()}
        candidates = [Candidate(place, "named by the caller", True) for place in places.values()]
    weights = {name: _classifier(graph, node) for name, (_, node) in outputs.items()}
    return Anatomy(places, candidates, {k: p for k, (p, _) in outputs.items()}, default, weights, graph, result)


# --- outputs and classification layers ------------------------------------------------------------------


def _outputs(graph: Graph) -> dict[str, tuple[tree.Path, int]]:
    live = [(path, node) for path, node in graph.outputs if graph.nodes[node].live]
    for ranks in ((1, 2), (3,)):
        chosen = [(path, node) for path, node in live if len(graph.nodes[node].shape) in ranks]
        if chosen:
            return {tree.show(path): (path, node) for path, node in chosen}
    shapes = ", ".join(f"{tree.show(path)} {graph.nodes[node].shape}" for path, node in live) or "nothing that depends on its input"
    raise SiteError(
        f"the model returns {shapes}; expected class scores of shape (batch, classes). For a detector or a segmenter, attach to "
        "its backbone with a classification head, or wrap it in a module that returns the score to be explained"
    )


def _weighted(graph: Graph, leaf: int) -> int | None:
    """The last operation before ``leaf`` that mixes channels with a weight of the model and that everything passes."""
    for node in graph.dominators(leaf, {n for _, n in graph.inputs}):
        if graph.nodes[node].op in WEIGHTED and any(
            not graph.nodes[p].live and graph.nodes[p].const and len(graph.nodes[p].shape) >= 2 for p in graph.nodes[node].parents
        ):
            return node
    return None


def _default_output(graph: Graph, outputs: dict[str, tuple[tree.Path, int]]) -> str:
    for name in outputs:
        if name.split(".")[-1] in ("logits", "output"):
            return name
    rank = {name: (len(graph.nodes[node].shape) > 1 and graph.nodes[node].shape[-1] > 1, _weighted(graph, node) or -1) for name, (_, node) in outputs.items()}
    return max(rank, key=lambda name: rank[name])


def _classifier(graph: Graph, leaf: int) -> tuple[str | None, str | None, str | None, str | None]:
    node = _weighted(graph, leaf)
    if node is None:
        return None, None, None, None
    consts = [graph.nodes[p] for p in graph.nodes[node].parents if not graph.nodes[p].live and graph.nodes[p].const]
    weight = next((c.const for c in consts if len(c.shape) >= 2), None)
    bias = next((c.const for c in consts if len(c.shape) == 1), None)
    scale = shift = None
    for before in graph.dominators(node, {n for _, n in graph.inputs})[1:]:
        if graph.nodes[before].op == "native_layer_norm":
            names = [graph.nodes[p].const for p in graph.nodes[before].parents if not graph.nodes[p].live]
            scale, shift = [*names, None, None][:2]
            break
        if graph.nodes[before].op in WEIGHTED:
            break
    return weight, bias, scale, shift


# --- the search -----------------------------------------------------------------------------------------


def _search(graph: Graph, batch: int, leaf: int) -> tuple[dict[str, Place], list[Candidate]]:
    roots = {node for _, node in graph.inputs}
    place, candidates = _last_map(graph, batch, leaf, roots)
    if place is not None:
        return {"map": place}, candidates
    if len(roots) > 1:  # several inputs that meet only as vectors: one block per stream
        places = {}
        for path, node in graph.inputs:
            found, tried = _last_map(graph, batch, leaf, {node})
            candidates += tried
            if found is not None:
                places[tree.show(path[1:] or path)] = found
        if places:
            return places, candidates
    rejected = "; ".join(f"{c.place.describe()} ({c.verdict})" for c in candidates[:3])
    ops = {graph.nodes[n].op for n in graph.ancestors([leaf])}
    kind = (
        "it has no convolution and no tokens between input and output (a plain MLP, say), so there is no map to show: use a "
        "feature-attribution method"
        if not ops & {"convolution", "_convolution", "bmm", "matmul"} and not any("attention" in op for op in ops)
        else "its input may be too small, or its map may be hidden inside one fused or scripted operation: name the place with at=Site(module, ...)"
    )
    raise SiteError(f"no feature map with spatial extent feeds the classifier: {kind}" + (f". Considered: {rejected}" if rejected else ""))


def _last_map(graph: Graph, batch: int, leaf: int, roots: set[int]) -> tuple[Place | None, list[Candidate]]:
    classifier = _weighted(graph, leaf)
    chain = graph.dominators(leaf, roots)
    after = set() if classifier is None or classifier not in chain else set(chain[: chain.index(classifier) + 1])
    children = graph.children()
    relevant = graph.ancestors([leaf])
    others = {node for _, node in graph.inputs} - roots
    candidates: list[Candidate] = []
    taken: Place | None = None
    for node in chain:
        if others and graph.ancestors([node]) & others:
            continue
        place = _place(graph, batch, node)
        if place is None:
            continue
        if node in after:
            verdict = "stands after the classification layer: its channels are classes"
        elif taken is not None:
            verdict = "an earlier map"
        elif not _positions_matter(graph, node, place, children, relevant):
            verdict = "only single tokens are read after it: its other positions do not reach the output"
        else:
            taken, verdict = place, "the last map with spatial extent that everything passes on its way to the classifier"
        candidates.append(Candidate(place, verdict, taken is place))
    return taken, candidates


def _place(graph: Graph, batch: int, node: int) -> Place | None:
    doors = [door for door in graph.doors if door.node == node]
    if not doors:
        return None
    door = min(doors, key=lambda d: (d.when == "input", d.module.count("."), len(d.module)) if d.module else (True, 99, 0))
    return _as_place(graph, batch, door)


def _as_place(graph: Graph, batch: int, door: Door, layout: str | None = None, grid: tuple[int, ...] | None = None) -> Place | None:
    info = graph.nodes[door.node]
    if layout is None:
        guess = guess_layout(info.shape, batch, info.channel_axis, info.grid)
        if guess is None:
            return None
        layout, grid = guess[0], grid or guess[1]
    parsed = parse_layout(layout)
    sizes = parsed.sizes(info.shape, batch, grid)
    positions = tuple(sizes[name] for name in parsed.positions)
    if math.prod(positions) <= 1:
        return None
    last = door.call == max(d.call for d in graph.doors if d.module == door.module)
    return Place(door.module, door.when, parsed, positions, sizes["c"], door.item, door.call, last, door.node)  # type: ignore[arg-type]


def guess_layout(
    shape: tuple[int, ...], batch: int, channel_axis: int | None, grid: tuple[int, ...] | None
) -> tuple[str, tuple[int, ...] | None] | None:
    """Layout and grid of a tensor from its shape, the axis of its channels and the grid it came from; None where it is no map."""
    if len(shape) < 3:
        return None
    if shape[0] != batch:
        if len(shape) == 3 and shape[1] == batch and channel_axis in (2, None):
            return "l n c", None
        if shape[0] % batch or shape[0] < batch:
            return None
        if len(shape) == 4:
            return ("(n t) h w c" if channel_axis == 3 else "(n t) c h w"), None
        return None
    if len(shape) == 3:
        if channel_axis == 1:
            if grid and len(grid) > 1 and math.prod(grid) == shape[2]:
                return f"n c ({_names(len(grid))})", grid
            return "n c l", None
        return _tokens(shape[1], grid)
    if len(shape) == 4:
        return ("n h w c" if channel_axis == 3 else "n c h w"), None
    if len(shape) == 5:
        return ("n t h w c" if channel_axis == 4 else "n c t h w"), None
    return None


def _names(rank: int) -> str:
    return {1: "l", 2: "h w", 3: "t h w"}[rank]


def _tokens(length: int, grid: tuple[int, ...] | None) -> tuple[str, tuple[int, ...] | None]:
    if grid and 1 <= len(grid) <= 3:
        for factor in (1, 2, 4, 8, 16):
            smaller = tuple(max(1, round(size / factor)) for size in grid)
            extra = length - math.prod(smaller)
            if 0 <= extra <= MAX_PREFIX:
                names = _names(len(smaller))
                inside = f"{extra}+ {names}" if extra else names
                if not extra and len(smaller) == 1:
                    return "n l c", None
                return f"n ({inside}) c", smaller
    side = math.isqrt(length)
    for extra in (0, 1, 2, 5):
        side = math.isqrt(length - extra) if length > extra else 0
        if side > 1 and side * side == length - extra:
            return f"n ({extra}+ h w) c" if extra else "n (h w) c", (side, side)
    return "n l c", None


def _positions_matter(graph: Graph, start: int, place: Place, children: dict[int, list[int]], relevant: set[int]) -> bool:
    """Whether positions of the map are mixed (pooled, attended, flattened) on the way to the output, not merely indexed away."""
    stack, seen = [start], set()
    channels = place.channels
    while stack:
        node = stack.pop()
        for child in children.get(node, []):
            if child in seen or child not in relevant:
                continue
            seen.add(child)
            info, parent = graph.nodes[child], graph.nodes[node]
            if info.op in _MIXES or "attention" in info.op or "pool" in info.op or "lstm" in info.op or "gru" in info.op:
                if info.op in ("convolution", "_convolution") and all(k == 1 for k in info.details):
                    stack.append(child)
                    continue
                return True
            if info.op in ("mean", "sum", "amax", "max", "logsumexp") and set(info.details) != {parent.channel_axis}:
                return True
            if info.op in ("view", "_unsafe_view", "reshape") and len(info.shape) == 2 and info.shape[1] > channels:
                return True
            if info.op in ("select", "slice") and info.details and info.details[0] not in (0, parent.channel_axis):
                left = 1 if info.op == "select" else info.shape[info.details[0]]
                if left <= 1:
                    continue
            stack.append(child)
            if child == max(relevant) and len(info.shape) > 2:
                return True
    return False


# --- a place that the caller names ----------------------------------------------------------------------


def _resolve(model: nn.Module, graph: Graph, batch: int, site: Any) -> Place:
    if not isinstance(site, Site):
        site = Site(site)
    if isinstance(site.module, nn.Module):
        name = next((n for n, m in model.named_modules() if m is site.module), None)
        if name is None:
            raise SiteError(f"the {type(site.module).__name__} given as a site is not a module of the {type(model).__name__}")
    else:
        name = site.module
        known = dict(model.named_modules())
        if name not in known:
            near = difflib.get_close_matches(name, list(known), 3, 0.3)
            raise SiteError(f"the model has no module '{name}'; close names: {', '.join(near) or ', '.join(list(known)[1:6])}")
    doors = [d for d in graph.doors if d.module == name and d.when == site.when and (site.item is None or d.item == site.item)]
    if not doors:
        ran = any(d.module == name for d in graph.doors)
        raise SiteError(f"module '{name}' " + (f"has no tensor at its {site.when}" if ran else "did not run in the probe pass, or runs inside a scripted module"))
    calls = sorted({d.call for d in doors})
    wanted = calls[site.call] if site.call < 0 and -site.call <= len(calls) else site.call
    doors = [d for d in doors if d.call == wanted]
    for door in doors:
        place = _as_place(graph, batch, door, site.layout, site.grid)
        if place is not None:
            return place
    shapes = ", ".join(str(graph.nodes[d.node].shape) for d in doors)
    raise SiteError(
        f"the {site.when} of module '{name}' has shape {shapes or 'none'} at call {wanted}, which has no spatial extent; "
        "expected a map such as (N, C, H, W) or tokens (N, L, C): take an earlier module, or give Site(..., layout=...)"
    )

