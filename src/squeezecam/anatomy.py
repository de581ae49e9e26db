"""One probe pass: which feature maps a model has, how their axes lie, and which one feeds the classifier."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from squeezecam import tree
from squeezecam.axes import BATCH, CHANNELS, Axes, is_channels
from squeezecam.errors import SiteError, SqueezeWarning
from squeezecam.graph import WEIGHTED, Graph, trace
from squeezecam.search import last_weighted, resolve, search
from squeezecam.site import Candidate, Place, Site

__all__ = ["Anatomy", "Candidate", "Place", "Site", "examine"]


@dataclass
class Anatomy:
    """What the probe found."""

    places: dict[str, Place]
    candidates: list[Candidate]
    outputs: dict[str, tree.Path]
    default_output: str
    weights: dict[str, tuple[str | None, str | None, str | None, str | None]]
    """Per output: names of weight and bias of its classification layer, and of scale and shift of a normalisation
    before it.
    """
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
        places, candidates = search(graph, batch, outputs[default][1])
    else:
        wanted = at if isinstance(at, dict) else {"map": at}
        places = {name: resolve(model, graph, batch, site) for name, site in wanted.items()}
        candidates = [Candidate(place, "named by the caller", True) for place in places.values()]
    weights = {name: _classifier(graph, node) for name, (_, node) in outputs.items()}
    return Anatomy(places, candidates, {k: p for k, (p, _) in outputs.items()}, default, weights, graph, result)


# --- outputs and classification layers ------------------------------------------------------------------


def _outputs(graph: Graph) -> dict[str, tuple[tree.Path, int]]:
    live = [(path, node) for path, node in graph.outputs if graph.nodes[node].live]
    for ranks in ((1, 2), (3,)):
        chosen = [(path, node) for path, node in live if len(graph.nodes[node].shape) in ranks]
        if ranks == (3,):
            chosen = [(path, node) for path, node in chosen if not _over_a_grid(graph, node)]
            _warn_of_rows(graph, chosen)
        if chosen:
            return {tree.show(path): (path, node) for path, node in chosen}
    shapes = (
        ", ".join(f"{tree.show(path)} {graph.nodes[node].shape}" for path, node in live)
        or "nothing that depends on its input"
    )
    raise SiteError(
        f"the model returns {shapes}; expected class scores of shape (batch, classes), or (batch, frames, classes). "
        "For a detector or a segmenter, wrap it in a module that returns the score in question, one row of classes for "
        "each picture (docs/detectors.md shows how), or attach to its backbone with a classification head"
    )


def _over_a_grid(graph: Graph, leaf: int) -> bool:
    """Whether scores stand at positions of height *and* width, as those of a detector's anchors do: no frames.

    There are never more frames than the longest axis of the input, but often more anchors.
    """
    info = graph.nodes[leaf]
    longest = max((max(graph.nodes[node].shape[1:], default=0) for _, node in graph.inputs), default=0)
    if max(info.shape[1:]) > longest and not _longer_by_channels(info.axes, longest):
        return True
    for axis in info.axes or ():
        inner = [f for factor in axis for f in (factor.inner or (factor,)) if f.label not in (BATCH, CHANNELS)]
        if len({f.label for f in inner}) > 1:
            return True
    return False


def _longer_by_channels(axes: Axes | None, longest: int) -> bool:
    """Whether only the classes are more than ``longest``: 1,000 of them for every frame of a small picture, say."""
    return axes is not None and all(
        is_channels(axis) for axis in axes if math.prod(factor.size for factor in axis) > longest
    )


def _warn_of_rows(graph: Graph, chosen: list[tuple[tree.Path, int]]) -> None:
    for path, node in chosen:
        info = graph.nodes[node]
        if info.axes is not None and len(info.axes) == 3 and is_channels(info.axes[1]):
            warnings.warn(
                f"output '{tree.show(path)}' {tuple(info.shape)} has several rows of scores for a sample that are no "
                "frames (queries or tasks?): their mean is what is explained. Wrap the model in a module that returns "
                "the row in question (docs/detectors.md)",
                SqueezeWarning,
                stacklevel=5,
            )


def _default_output(graph: Graph, outputs: dict[str, tuple[tree.Path, int]]) -> str:
    for name in outputs:
        if name.split(".")[-1] in ("logits", "output"):
            return name
    rank = {
        name: (len(graph.nodes[node].shape) > 1 and graph.nodes[node].shape[-1] > 1, last_weighted(graph, node) or -1)
        for name, (_, node) in outputs.items()
    }
    return max(rank, key=lambda name: rank[name])


def _classifier(graph: Graph, leaf: int) -> tuple[str | None, str | None, str | None, str | None]:
    node = last_weighted(graph, leaf)
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
