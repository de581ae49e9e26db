"""The search for the place of a block.

It is the last feature map with spatial extent that *every* path from the input to the classification layer passes (a
dominator of the data flow), that stands at a module's input or output, and whose positions still matter afterwards: the
patch tokens of a transformer do not once only the class token is read. Where branches run side by side from the input
on, it is the last set of maps that a module takes and that no path avoids, one block each.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import replace
from typing import Any

from torch import nn

from squeezecam import tree
from squeezecam.axes import REDUCTIONS, is_channels
from squeezecam.errors import SiteError
from squeezecam.graph import WEIGHTED, Door, Graph
from squeezecam.layout import parse_layout
from squeezecam.positions import marked, positions_matter
from squeezecam.reading import read_layout
from squeezecam.site import Candidate, Place, Site

_CURVE = "one position per frame of the output, so that it says when and not where: the maps of the streams do"

_POOLED = (("t",), ("h",), ("w",), ("f",))


def search(graph: Graph, batch: int, leaf: int) -> tuple[dict[str, Place], list[Candidate]]:
    """Places for the output at node ``leaf``, and all that was considered, the last map first.

    Raises:
        SiteError: there is no feature map on the way to that output.

    """
    roots = {node for _, node in graph.inputs}
    place, candidates = _last_map(graph, batch, leaf, roots)
    curve = place is not None and len(roots) > 1 and _is_curve(place, batch, graph.nodes[leaf].shape)
    if place is not None and not curve:
        return {"map": place}, candidates
    places: dict[str, Place] = {}
    if len(roots) > 1:  # several inputs that meet only as vectors: one block per stream
        tried: list[Candidate] = []
        for path, node in graph.inputs:
            found, more = _last_map(graph, batch, leaf, {node}, least=2 if curve else 1)
            tried += more
            if found is not None:
                places[_stream(path[1:] or path)] = found
        if place is not None:
            if len(places) < 2:
                return {"map": place}, candidates
            candidates = [replace(one, taken=False, verdict=_CURVE) if one.taken else one for one in candidates]
        candidates += tried
    places = places or _cut(graph, batch, leaf, roots)
    if places:
        return places, candidates + [Candidate(place, "one of several branches", True) for place in places.values()]
    raise SiteError(_refusal(graph, leaf, candidates))


def _is_curve(place: Place, batch: int, output: tuple[int, ...]) -> bool:
    """Whether a map has no more positions than the output has frames: it could say when, and never where."""
    return len(place.grid) == 1 and len(output) == 3 and output[:2] == (batch, place.grid[0])


def last_weighted(graph: Graph, leaf: int) -> int | None:
    """The last operation before ``leaf`` that mixes channels with a weight of the model and that everything passes."""
    for node in graph.dominators(leaf, {n for _, n in graph.inputs}):
        if is_weighted(graph, node):
            return node
    return None


def is_weighted(graph: Graph, node: int) -> bool:
    """Whether a node mixes channels with a weight of the model."""
    info = graph.nodes[node]
    return info.op in WEIGHTED and any(
        not graph.nodes[p].live and graph.nodes[p].const and len(graph.nodes[p].shape) >= 2 for p in info.parents
    )


def _last_map(
    graph: Graph, batch: int, leaf: int, roots: set[int], least: int = 1
) -> tuple[Place | None, list[Candidate]]:
    """The last map of at least ``least`` axes of positions, and what else was considered."""
    children, relevant = graph.children(), graph.ancestors([leaf])
    learned = _learned(graph, relevant)
    classifier = max((node for node in relevant if is_weighted(graph, node)), default=-1)
    others = {node for _, node in graph.inputs} - roots
    candidates: list[Candidate] = []
    taken: Place | None = None
    frames_alone: Place | None = None
    pictures = max((len(graph.nodes[root].shape) for root in roots), default=0) > 3
    for node in graph.dominators(leaf, roots):
        if node not in learned or (others and graph.ancestors([node]) & others):
            continue
        place = _place(graph, batch, node, relevant, children)
        if place is None:
            continue
        if node >= classifier:
            verdict = "stands after the classification layer: its channels are classes"
        elif place.channels < 2:
            verdict = "has a single channel: there is nothing to select"
        elif len(place.grid) < least:
            verdict = _CURVE
        elif taken is not None:
            verdict = "an earlier map"
        elif _is_projected(graph, node, relevant, children):
            verdict = "keys and values of an attention: the map is what they were made of"
        elif not _matters(graph, batch, place, children, relevant):
            verdict = "only single tokens are read after it: its other positions do not reach the output"
        elif pictures and place.layout.positions in _POOLED:
            frames_alone = frames_alone or place
            verdict = "has one vector for each frame or column: the other axes are pooled away"
        else:
            taken, verdict = (
                place,
                "the last map with spatial extent that everything passes on its way to the classifier",
            )
        candidates.append(Candidate(place, verdict, taken is place))
    if taken is None and frames_alone is not None:  # better than nothing: which of them count
        candidates = [replace(c, taken=True) if c.place is frames_alone else c for c in candidates]
        taken = frames_alone
    return taken, candidates


def _learned(graph: Graph, relevant: set[int]) -> set[int]:
    """Nodes that a weight of the model has gone into: an input that is merely cut into patches is no feature map."""
    learned: set[int] = set()
    for node in sorted(relevant):
        if is_weighted(graph, node) or not learned.isdisjoint(graph.nodes[node].parents):
            learned.add(node)
    return learned


def _cut(graph: Graph, batch: int, leaf: int, roots: set[int]) -> dict[str, Place]:
    """The last maps that one module takes together and that every path from ``roots`` to ``leaf`` passes one of."""
    children, relevant = graph.children(), graph.ancestors([leaf])
    learned = _learned(graph, relevant)
    groups: dict[tuple[str, int, str], list[Door]] = {}
    for door in graph.doors:
        if door.node in learned and len(graph.nodes[door.node].shape) >= 3:
            groups.setdefault((door.module, door.call, door.when), []).append(door)
    for group in sorted(groups.values(), key=lambda doors: max(d.node for d in doors), reverse=True):
        nodes = {door.node for door in group}
        if len(nodes) < 2 or graph.reaches(roots, leaf, without=nodes, children=children):
            continue
        places = {_stream(door.item[1:] or door.item): as_place(graph, batch, door) for door in group}
        found = {
            name: place
            for name, place in places.items()
            if place is not None and _matters(graph, batch, place, children, relevant)
        }
        if found:  # a branch whose positions cannot be read gets no block
            return found
    return {}


def _matters(graph: Graph, batch: int, place: Place, children: dict[int, list[int]], relevant: set[int]) -> bool:
    sizes = place.layout.sizes(graph.nodes[place.node].shape, batch, place.grid)
    extra = max(axis.before + axis.after for axis in place.layout.axes)
    return positions_matter(graph, place.node, marked(place.layout, sizes), extra, relevant, children)


def _stream(path: tree.Path) -> str:
    """A name for a stream that may also name a module."""
    name = tree.show(path).replace(".", "_")
    return f"{name}_" if hasattr(nn.ModuleDict, name) else name


def _refusal(graph: Graph, leaf: int, candidates: list[Candidate]) -> str:
    relevant = graph.ancestors([leaf])
    ops = {graph.nodes[n].op for n in relevant}
    again = _run_again(graph, relevant)
    if again:
        kind = (
            f"it runs '{again}' more than once and joins what comes of it, so that no one map is behind the output: "
            f"attach to the model without that (test-time augmentation, say), or name the place with at='{again}', "
            "which shows its last run alone"
        )
    elif not ops & {"convolution", "_convolution", "bmm", "matmul"} and not any("attention" in op for op in ops):
        recurrent = any(word in op for op in ops for word in ("lstm", "gru", "rnn"))
        kind = (
            "it is purely recurrent, its steps are not positions of a map: use a feature-attribution method, or name "
            "the sequence that goes into the last layer with at=Site(module, 'input', layout='n l c')"
            if recurrent
            else "it has no convolution and no tokens between input and output (a plain MLP, say), so there is no map "
            "to show: use a feature-attribution method"
        )
    else:
        kind = (
            "its input may be too small, or its map may be hidden inside one fused or scripted operation: "
            "name the place with at=Site(module, ...)"
        )
    rejected = "; ".join(f"{c.place.describe()} ({c.verdict})" for c in candidates[:3])
    return f"no feature map with spatial extent feeds the classifier: {kind}" + (
        f". Considered: {rejected}" if rejected else ""
    )


def _run_again(graph: Graph, relevant: set[int]) -> str:
    """The outermost module with a convolution in it that the output takes twice, each time on something else; or ""."""
    used: dict[str, int] = {}
    for node in relevant:
        if "convolution" in graph.nodes[node].op:
            for name in {graph.nodes[parent].const for parent in graph.nodes[node].parents} - {None}:
                used[str(name)] = used.get(str(name), 0) + 1
    shared = [name for name, times in used.items() if times > 1]
    runs = [door.module for door in graph.doors if door.call and any(n.startswith(f"{door.module}.") for n in shared)]
    return min(runs, key=len, default="")


def _place(graph: Graph, batch: int, node: int, relevant: set[int], children: dict[int, list[int]]) -> Place | None:
    """The outermost door at which a tensor can be replaced for everything that the output is made of.

    At a module's output nothing may have been made of it before; at a module's input nothing may be made of it outside.
    """
    uses = [child for child in children.get(node, []) if child in relevant]
    first, last = min(uses, default=len(graph.nodes)), max(uses, default=-1)
    ends = {(call.module, call.call): call.known for call in graph.calls}

    def serves(door: Door) -> bool:
        return door.known <= first and (door.when == "output" or last < ends.get((door.module, door.call), 0))

    def order(door: Door) -> tuple[bool, int, int]:
        return (door.when == "input", door.module.count("."), len(door.module)) if door.module else (True, 99, 0)

    doors = [door for door in graph.doors if door.node == node and serves(door)]
    return as_place(graph, batch, min(doors, key=order)) if doors else None


def _is_projected(graph: Graph, start: int, relevant: set[int], children: dict[int, list[int]]) -> bool:
    """Whether a tensor is the keys and values of an attention: its channels are split and go there unweighted."""
    stack, seen, attended, parted = [start], {start}, False, False
    while stack:
        node = stack.pop()
        for child in children.get(node, []):
            if child in seen or child not in relevant:
                continue
            seen.add(child)
            info, axes = graph.nodes[child], graph.nodes[node].axes
            op = info.op
            if op in ("slice", "select", "unbind") and info.details and axes is not None:
                parted = parted or is_channels(axes[info.details[0]])
            if "attention" in op or op in ("bmm", "baddbmm"):
                attended = True
            elif is_weighted(graph, child) or op in REDUCTIONS or "pool" in op:
                return False
            else:
                stack.append(child)
    return attended and parted


def as_place(
    graph: Graph, batch: int, door: Door, layout: str | None = None, grid: tuple[int, ...] | None = None
) -> Place | None:
    """The place at a door, in a given or an inferred layout; None where the tensor is no map."""
    info = graph.nodes[door.node]
    if layout is None:
        pictures = max((len(graph.nodes[n].shape) for _, n in graph.inputs), default=0) > 3
        read = read_layout(info.axes, info.shape, batch, pictures)
        if read is None:
            return None
        layout, grid = read[0], grid or read[1]
    parsed = parse_layout(layout)
    sizes = parsed.sizes(info.shape, batch, grid)
    positions = tuple(sizes[name] for name in parsed.positions)
    if math.prod(positions) <= 1:
        return None
    last = door.call == max(d.call for d in graph.doors if d.module == door.module)
    return Place(door.module, door.when, parsed, positions, sizes["c"], door.item, door.call, last, door.node)  # type: ignore[arg-type]


def resolve(model: nn.Module, graph: Graph, batch: int, site: Any) -> Place:
    """The place that a caller names: a module, its name, or a :class:`Site`.

    Raises:
        SiteError: no such module, or no map there.

    """
    if not isinstance(site, Site):
        site = Site(site)
    if isinstance(site.module, nn.Module):
        name = next((n for n, m in model.named_modules() if m is site.module), None)
        if name is None:
            raise SiteError(
                f"the {type(site.module).__name__} given as a site is not a module of the {type(model).__name__}"
            )
    else:
        name = site.module
        known = dict(model.named_modules())
        if name not in known:
            near = difflib.get_close_matches(name, list(known), 3, 0.3)
            raise SiteError(
                f"the model has no module '{name}'; close names: {', '.join(near) or ', '.join(list(known)[1:6])}"
            )
    doors = [
        d
        for d in graph.doors
        if d.module == name and d.when == site.when and (site.item is None or d.item == site.item)
    ]
    if not doors:
        ran = any(d.module == name for d in graph.doors)
        raise SiteError(
            f"module '{name}' "
            + (
                f"has no tensor at its {site.when}"
                if ran
                else "did not run in the probe pass, or runs inside a scripted module"
            )
        )
    calls = sorted({d.call for d in doors})
    wanted = calls[site.call] if site.call < 0 and -site.call <= len(calls) else site.call
    doors = [d for d in doors if d.call == wanted]
    for door in doors:
        place = as_place(graph, batch, door, site.layout, site.grid)
        if place is not None:
            return place
    shapes = ", ".join(str(graph.nodes[d.node].shape) for d in doors)
    raise SiteError(
        f"the {site.when} of module '{name}' has shape {shapes or 'none'} at call {wanted}, which has no spatial "
        "extent; "
        "expected a map such as (N, C, H, W) or tokens (N, L, C): take an earlier module, or give Site(..., layout=...)"
    )
