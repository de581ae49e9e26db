"""Recipes for maps: channel score, keep rule, aggregation; and the native maps that they give."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from squeezecam import heatmap, vector
from squeezecam.block import IDENTITY_GATE
from squeezecam.errors import InputError
from squeezecam.frames import fold_time, unfold_time
from squeezecam.head import Head
from squeezecam.targets import Target

if TYPE_CHECKING:
    from squeezecam.module import Capture, Squeeze


@dataclass(frozen=True)
class Method:
    """A recipe for one map: channel score, keep rule, aggregation (None: by the signs of the features)."""

    name: str
    score: str
    keep: str | vector.KeepRule
    aggregate: str | None

    @property
    def of_class(self) -> bool:
        """Whether the map depends on a class."""
        return "class" in (self.score, self.aggregate)


METHODS = {
    "published": Method("published", "gate", "zscore", None),
    "contribution": Method("contribution", "contribution", "zscore", None),
    "class": Method("class", "class", "all", "class"),
}


def default_method(squeeze: Squeeze, output: str | None = None, target: Target = None) -> str:
    """What ``None`` stands for: the published map of a fitted block, the class map where the head is known otherwise.

    The class map needs no fit, and it is the one that a target changes.
    """
    if squeeze.head(output) is None:
        return "published"
    return "published" if target is None and squeeze.fitted else "class"


def recipe_for(
    squeeze: Squeeze,
    output: str,
    method: str,
    score: str | None,
    keep: str | vector.KeepRule | None,
    aggregate: str | None,
) -> Method:
    """The method with what is put in its place, checked, and a name that says so."""
    if method not in METHODS:
        raise InputError(f"unknown method '{method}'; expected one of {', '.join(METHODS)}")
    chosen = METHODS[method]
    if aggregate is None and chosen.aggregate is None and squeeze.aggregate != "mean":
        aggregate = squeeze.aggregate  # a plain mean of features that can be negative cancels
    given = {"score": score, "keep": keep, "aggregate": aggregate}
    changed = {key: value for key, value in given.items() if value is not None}
    said = [f"{key}={getattr(value, '__name__', value)}" for key, value in changed.items()]
    recipe = replace(chosen, **changed, name=", ".join([chosen.name, *said]))  # type: ignore[arg-type]
    for kind, value, known in (
        ("score", recipe.score, vector.SCORES),
        ("aggregation", recipe.aggregate or "mean", (*heatmap.AGGREGATES, "class")),
    ):
        if value not in known:
            raise InputError(f"unknown {kind} '{value}'; expected one of {', '.join(known)}")
    vector.keep_rule(recipe.keep)
    if recipe.of_class and squeeze.head(output) is None:
        raise InputError(
            f"class evidence needs a classification layer of a known form after the map; that of output '{output}' is "
            "not: use method='published' or 'contribution'"
        )
    return recipe


def native_maps(
    squeeze: Squeeze, stream: str, seen: Capture, output: str, chosen: Method, targets: Tensor | None
) -> tuple[Tensor, vector.Kept]:
    """Native maps ``(N, K, *S)`` for K targets, and the kept channels of the first."""
    if chosen.of_class and targets is None:
        raise InputError(f"class evidence needs an output with classes; '{output}' has none")
    rule, head = vector.keep_rule(chosen.keep), squeeze.head(output)
    gates = seen.gates.to(heatmap.at_least_float32(seen.features).dtype)
    in_path = gates / IDENTITY_GATE if squeeze.apply_mode == "gate" else torch.ones_like(gates)
    maps, kept = [], []
    goals = [None] if targets is None else list(targets.unbind(1))
    for goal in goals if chosen.of_class else goals[:1]:
        kept.append(rule(_score(squeeze, head, chosen.score, seen, gates, in_path, goal)))
        if chosen.aggregate == "class":
            assert head is not None
            assert goal is not None
            maps.append(_class_map(squeeze, head, seen.features, in_path, kept[-1], goal))
        else:
            maps.append(heatmap.aggregate(seen.features, gates, kept[-1].mask, chosen.aggregate or "mean"))
    stacked = torch.stack(maps, 1)  # a map that knows no classes is the same for all of them
    return stacked.expand(-1, len(goals), *stacked.shape[2:]), kept[0]


def frame_maps(
    squeeze: Squeeze, stream: str, seen: Capture, output: str, chosen: Method, targets: Tensor | None
) -> tuple[Tensor, vector.Kept]:
    """The same where every frame has its own SE vector: each frame is a sample, and is put back into its clip."""
    layout = squeeze.places[stream].layout
    n, frames = seen.gates.shape[:2]
    one = replace(
        seen,
        features=fold_time(seen.features, layout),
        squeezed=seen.squeezed.flatten(0, 1),
        gates=seen.gates.flatten(0, 1),
    )
    again = targets.repeat_interleave(frames, 0) if targets is not None else None
    raw, kept = native_maps(squeeze, stream, one, output, chosen, again)
    clips = torch.stack([unfold_time(of_one, layout, n) for of_one in raw.unbind(1)], 1)
    fallback, tied = (flags.unflatten(0, (n, frames)) for flags in (kept.fallback, kept.tied))
    return clips, vector.Kept(kept.mask.unflatten(0, (n, frames)), fallback.any(1), tied.all(1))


def _score(
    squeeze: Squeeze, head: Head | None, score: str, seen: Capture, gates: Tensor, in_path: Tensor, goal: Tensor | None
) -> Tensor:
    if score == "gate":
        return gates
    if score == "contribution":
        return gates * (head.squeeze(seen.features) if head is not None else seen.squeezed.to(gates.dtype))
    assert head is not None
    assert goal is not None
    return head.channel_evidence(squeeze.model, _scaled(seen.features, in_path), goal)


def _class_map(
    squeeze: Squeeze, head: Head, features: Tensor, in_path: Tensor, kept: vector.Kept, goal: Tensor
) -> Tensor:
    if head.kind == "conv":
        return head.class_map(squeeze.model, _scaled(features, in_path * kept.mask), goal)
    weights = head.channel_weights(squeeze.model, _scaled(features, in_path), goal)
    return heatmap.weighted_sum(head.evidence_features(features), weights * in_path * kept.mask)


def _scaled(features: Tensor, factors: Tensor) -> Tensor:
    return heatmap.at_least_float32(features) * factors.view(*factors.shape, *[1] * (features.ndim - 2))
