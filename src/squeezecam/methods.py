"""Recipes for maps: channel score, keep rule, aggregation; and the native maps that they give."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from squeezecam import heatmap, vector
from squeezecam.block import IDENTITY_GATE
from squeezecam.change import AGGREGATE as CHANGE
from squeezecam.errors import InputError
from squeezecam.focus import focus_map, focused
from squeezecam.frames import fold_time, time_axis, unfold_time
from squeezecam.head import Head
from squeezecam.locator import located_map
from squeezecam.readout import ReadoutHead
from squeezecam.refiner import refined_map
from squeezecam.targets import Target

if TYPE_CHECKING:
    from squeezecam.module import Capture, Squeeze


@dataclass(frozen=True)
class Method:
    """A recipe for one map: channel score, keep rule, aggregation (None: by the signs of the features), enlarging."""

    name: str
    score: str
    keep: str | vector.KeepRule
    aggregate: str | None
    upsample: str = "bicubic"

    @property
    def needs_refiner(self) -> bool:
        """Whether the map is made by a fitted refiner."""
        return self.aggregate == "refined"

    @property
    def looks_closer(self) -> bool:
        """Whether the map looks at a finer map of the model, where it has one."""
        return self.aggregate in ("focus", "refined")

    @property
    def of_class(self) -> bool:
        """Whether the map depends on a class."""
        return self.score == "class" or self.aggregate in ("class", "refined", "focus")


METHODS = {
    "published": Method("published", "gate", "zscore", None),
    "contribution": Method("contribution", "contribution", "zscore", None),
    "class": Method("class", "class", "all", "class", "spline"),
    "refined": Method("refined", "class", "all", "refined", "spline"),
    "focus": Method("focus", "class", "all", "focus", "spline"),
}


def usable(squeeze: Squeeze, output: str | None = None) -> list[str]:
    """Names of the maps that this model allows as it is: class evidence needs a head, the refined map a refiner.

    ``change`` is among them where several streams are seen over time; it is laid over the published map.
    """
    evidence, refiner = squeeze.evidence(output), squeeze.refiner(output)
    found = [
        name
        for name, method in METHODS.items()
        if not method.of_class or (evidence is not None and (refiner is not None or not method.needs_refiner))
    ]
    places = list(squeeze.places.values())
    over_time = all(time_axis(place.layout) is not None and len(place.grid) > 1 for place in places)
    return [*found, CHANGE] if len(places) > 1 and over_time else found


def options_of(name: str) -> dict[str, str]:
    """What ``explain`` is told for the map that tables name so."""
    return {"method": "published", "aggregate": CHANGE} if name == CHANGE else {"method": name}


def default_method(squeeze: Squeeze, output: str | None = None, target: Target = None, *, altered: bool = False) -> str:
    """What ``None`` stands for: the refined map where there is a refiner, else the class map, else the published one.

    ``docs/evidence.md`` has the figures that this order rests on. The published map is also what a fitted block shows
    where it alone was measured (several streams, a gate for every frame), where the class map is of a read-out that
    explains little, and where a score, keep rule or aggregation is put in the place of the method's (``altered``):
    these are changes of the published rule. A target always means the class map, since the published one knows no
    classes.
    """
    evidence = squeeze.evidence(output)
    if evidence is None:
        return "published"
    if squeeze.refiner(output) is not None and not altered:
        return "refined"
    if target is not None or not squeeze.fitted:
        return "class"
    streams = len(squeeze.places) > 1 or squeeze.per_frame
    explains_little = isinstance(evidence, ReadoutHead) and evidence.doubt() is not None
    return "published" if altered or streams or explains_little else "class"


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
    if recipe.score not in vector.SCORES:
        raise InputError(f"unknown score '{recipe.score}'; expected one of {', '.join(vector.SCORES)}")
    if recipe.aggregate not in (None, *heatmap.AGGREGATES, "class", "refined", "focus"):
        # the last three are maps of their own, which users choose as methods; change is laid over a map afterwards
        known = ", ".join((*heatmap.AGGREGATES, CHANGE))
        raise InputError(f"unknown aggregation '{recipe.aggregate}'; expected one of {known}")
    vector.keep_rule(recipe.keep)
    refined = chosen.needs_refiner or recipe.needs_refiner
    if refined and changed not in ({}, {"aggregate": "refined"}):
        raise InputError(
            f"the refined map is made of no chosen channels, so {' and '.join(said)} has no meaning for it: use "
            "method='published' or 'class'"
        )
    if not recipe.of_class:
        return recipe
    if recipe.needs_refiner and squeeze.refiner(output) is None:
        raise InputError(
            f"the map '{recipe.aggregate}' of output '{output}' needs a refiner, which squeeze.refine(batches) fits "
            "(squeezecam fit --refine): use method='class' without one"
        )
    evidence = squeeze.evidence(output)
    if evidence is None:
        raise InputError(
            f"class evidence needs a classification layer of a known form after the map, which that of output "
            f"'{output}' is not, or a read-out, which squeeze.fit(batches) makes: fit, or use method='published' or "
            "'contribution'"
        )
    if recipe.aggregate == "focus" and squeeze.locator(output) is not None:
        recipe = replace(recipe, name=f"{recipe.name}, fitted locator")
    return replace(recipe, name=f"{recipe.name}, {said_of(evidence)}") if said_of(evidence) else recipe


def said_of(evidence: Head | ReadoutHead) -> str:
    """What stands beside a method's name where its evidence is fitted: ``read-out R² = 0.86``."""
    return f"read-out R² = {evidence.r2:.2f}" if isinstance(evidence, ReadoutHead) else ""


def native_maps(
    squeeze: Squeeze,
    stream: str,
    seen: Capture,
    output: str,
    chosen: Method,
    targets: Tensor | None,
    values: Tensor | None = None,
) -> tuple[Tensor, vector.Kept]:
    """Native maps ``(N, K, *S)`` for K targets, and the kept channels of the first; ``values``: the model's output."""
    if chosen.of_class and targets is None:
        raise InputError(f"class evidence needs an output with classes; '{output}' has none")
    rule, head = vector.keep_rule(chosen.keep), squeeze.evidence(output, stream)
    gates = seen.gates.to(heatmap.at_least_float32(seen.features).dtype)
    in_path = gates / IDENTITY_GATE if squeeze.apply_mode == "gate" else None
    maps, kept = [], []
    goals = [None] if targets is None else list(targets.unbind(1))
    for goal in goals if chosen.of_class else goals[:1]:
        every = chosen.keep == "all"  # then nothing has to be ranked
        kept.append(rule(gates if every else _score(squeeze, head, chosen.score, seen, gates, in_path, goal)))
        if chosen.needs_refiner:
            refiner = squeeze.refiner(output)
            assert refiner is not None
            assert head is not None
            assert goal is not None
            features = _scaled(seen.features, in_path)
            maps.append(refined_map(refiner, head, squeeze.model, features, goal, values, seen.finer))
        elif chosen.aggregate == "class":
            assert head is not None
            assert goal is not None
            maps.append(_class_map(squeeze, head, seen.features, in_path, kept[-1], goal))
        elif chosen.aggregate == "focus":
            assert head is not None
            assert goal is not None
            features = _scaled(seen.features, _of_kept(in_path, kept[-1]))
            locator = squeeze.locator(output)
            if locator is None or seen.finer is None:
                maps.append(focus_map(head, squeeze.model, features, goal, squeeze.signed[stream], seen.finer))
            else:
                component = heatmap.principal(features)
                located = located_map(locator, head, squeeze.model, features, seen.finer, component, goal, values)
                maps.append(focused(located, component, features, seen.finer, signed=squeeze.signed[stream]))
        else:
            maps.append(heatmap.aggregate(seen.features, gates, kept[-1].mask, chosen.aggregate or "mean"))
    stacked = torch.stack(maps, 1) if len(maps) > 1 else maps[0][:, None]
    return stacked.expand(-1, len(goals), *stacked.shape[2:]), kept[0]  # one that knows no classes is that of all


def frame_maps(
    squeeze: Squeeze,
    stream: str,
    seen: Capture,
    output: str,
    chosen: Method,
    targets: Tensor | None,
    values: Tensor | None = None,
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
    per_frame = values.repeat_interleave(frames, 0) if values is not None and values.ndim == 2 else None
    raw, kept = native_maps(squeeze, stream, one, output, chosen, again, per_frame)
    clips = torch.stack([unfold_time(of_one, layout, n) for of_one in raw.unbind(1)], 1)
    fallback, tied = (flags.unflatten(0, (n, frames)) for flags in (kept.fallback, kept.tied))
    return clips, vector.Kept(kept.mask.unflatten(0, (n, frames)), fallback.any(1), tied.all(1))


def channel_scores(squeeze: Squeeze, seen: Capture, output: str, chosen: Method, goal: Tensor) -> Tensor:
    """What a method ranks the channels by, ``(N, C)``, for the classes ``goal (N,)``."""
    gates = seen.gates.to(heatmap.at_least_float32(seen.features).dtype)
    in_path = gates / IDENTITY_GATE if squeeze.apply_mode == "gate" else None
    return _score(squeeze, squeeze.evidence(output), chosen.score, seen, gates, in_path, goal)


def _score(
    squeeze: Squeeze,
    head: Head | ReadoutHead | None,
    score: str,
    seen: Capture,
    gates: Tensor,
    in_path: Tensor | None,
    goal: Tensor | None,
) -> Tensor:
    if score == "gate":
        return gates
    if score == "contribution":
        return gates * (head.squeeze(seen.features) if head is not None else seen.squeezed.to(gates.dtype))
    assert head is not None
    assert goal is not None
    return head.channel_evidence(squeeze.model, _scaled(seen.features, in_path), goal)


def _class_map(
    squeeze: Squeeze,
    head: Head | ReadoutHead,
    features: Tensor,
    in_path: Tensor | None,
    kept: vector.Kept,
    goal: Tensor,
) -> Tensor:
    factors = _of_kept(in_path, kept)
    if head.kind in ("conv", "readout"):  # not linear in the features as they come
        return head.class_map(squeeze.model, _scaled(features, factors), goal)
    weights = head.channel_weights(squeeze.model, _scaled(features, in_path), goal)
    return heatmap.weighted_sum(head.evidence_features(features), weights * factors)


def _of_kept(in_path: Tensor | None, kept: vector.Kept) -> Tensor:
    """What the channels are scaled by where only those kept count."""
    return kept.mask if in_path is None else in_path * kept.mask


def _scaled(features: Tensor, factors: Tensor | None) -> Tensor:
    """Features as the head sees them: times ``factors (N, C)``, or as they are where no block is in the path."""
    features = heatmap.at_least_float32(features)
    return features if factors is None else features * factors.view(*factors.shape, *[1] * (features.ndim - 2))
