"""All figures for one batch of pictures and every method."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from squeezecam.errors import InputError
from squeezecam.evaluation.channels import channel_figures
from squeezecam.evaluation.columns import SENSITIVITY_DRAWS, Column
from squeezecam.evaluation.doubting import doubts_of
from squeezecam.evaluation.subject import Remembering, Subject
from squeezecam.links import seen_kind
from squeezecam.methods import METHODS
from squeezecam.metrics import (
    adcc,
    average_drop,
    average_gain,
    baseline,
    box_ious,
    coherency,
    deletion,
    energy_pointing_game,
    increase_in_confidence,
    insertion,
    map_area,
    mask_inputs,
    mask_iou,
    pointing_game,
    road,
    sensitivity_max,
    sparseness,
)
from squeezecam.metrics.baseline import Base
from squeezecam.metrics.predict import Outputs, class_scores, scores_in_batches
from squeezecam.metrics.ranking import pixel_ranks
from squeezecam.peers import MapMethod

SECOND_DRAW = 1_000_003
"""Added to the seeds when a random control explains a picture again: it then draws anew."""
SENSITIVITY_SHARE = 0.02
LEVELS = (0.3, 0.5, 0.7)
INSERTION_BASE: Base = "blur"
DELETION_BASE: Base = "mean"


@dataclass(frozen=True)
class Truth:
    """Where the objects are: masks ``(N, *S)``, and of pictures per sample boxes ``(B, 4)`` in the network's frame."""

    masks: Tensor
    boxes: Sequence[Tensor]


@dataclass
class Measured:
    """Figures per sample: ``values[method][column]`` is ``(N,)``; ``levels`` has one digit per threshold, as text."""

    target: Tensor
    confidence: Tensor
    values: dict[str, dict[str, Tensor]]
    levels: dict[str, dict[str, list[str]]]
    seconds: dict[str, float]
    """Wall time of the maps of the whole batch per method, and of a plain ``forward``."""
    doubts: dict[str, list[str]]
    """See :func:`squeezecam.evaluation.doubting.doubts_of`."""


def measure(
    subject: Subject,
    pictures: Tensor,
    methods: Sequence[MapMethod],
    columns: Sequence[Column],
    *,
    truth: Truth | None,
    target: Tensor | None,
    seeds: Sequence[int],
    steps: int,
    batch_size: int,
) -> Measured:
    """Maps of ``methods`` for pictures ``(N, C, *S)``, and ``columns`` for each; ``target`` None: as predicted."""
    needs = frozenset().union(*(column.needs for column in columns))
    model = Remembering(subject.predict)
    _, first = _timed(lambda: subject.predict(pictures), pictures)
    values, second = _timed(lambda: model.learn(pictures), pictures)
    seconds = {"forward": min(first, second)}  # the first one of a batch finds everything cold
    if values.shape[1] < 2 and needs - {"truth", "levels"}:
        raise InputError(
            f"output '{subject.output}' is a single value: a class probability is needed for every metric but those of "
            "the place (pointing_game, energy_pointing_game, mask_iou, max_box_acc, max_box_acc_v2) and of the map"
        )
    target = values.argmax(1) if target is None else target.to(values.device)
    kind: Outputs = "scores"
    if values.shape[1] > 1:
        kind = subject.scores or seen_kind(subject.outputs, values)
    full = class_scores(values, target, kind)
    used: dict[str, Base] = {"insertion": INSERTION_BASE, "deletion": DELETION_BASE}
    bases = {name: baseline(pictures, base) for name, base in used.items() if name in needs}
    for base in bases.values():
        model.learn(base)
    found: dict[str, dict[str, Tensor]] = {}
    levels: dict[str, dict[str, list[str]]] = {}
    for method in methods:
        explain = partial(subject.maps, method, target)
        maps, seconds[method.name] = _timed(partial(explain, pictures, seeds), pictures)
        _check_size(method, maps, pictures)
        parts = _parts(
            needs, model, explain, pictures, maps, full, target, kind, bases, seeds, steps=steps, batch_size=batch_size
        )
        found[method.name] = {
            column.name: _figure(column.name, maps, parts, truth, model, pictures, target, kind, batch_size)
            for column in columns
            if "levels" not in column.needs and not column.own
        }
        if "channels" in needs and method.kind == "own" and method.name in METHODS:
            by_channel = channel_figures(subject, pictures, method.name, target, kind)
            found[method.name] |= {column.name: by_channel[column.name] for column in columns if column.own}
        levels[method.name] = {
            column.name: _levels(column.name, maps, truth) for column in columns if "levels" in column.needs
        }
    doubts = doubts_of(subject.squeeze, subject.make_inputs(pictures), methods, target, subject.output)
    return Measured(target, full, found, levels, seconds, doubts)


def _check_size(method: MapMethod, maps: Tensor, pictures: Tensor) -> None:
    if maps.shape[1:] != pictures.shape[2:]:
        raise InputError(
            f"a map of {method.label} has shape {tuple(maps.shape[1:])}, a picture {tuple(pictures.shape[1:])}, which "
            "is not the same after its first axis, the channels. Pictures are (C, H, W) and clips (C, T, H, W); where "
            "the model takes them otherwise, make_inputs= turns them round: lambda clips: clips.transpose(1, 2) for "
            "frames before channels"
        )


def _timed(work: Callable[[], Tensor], like: Tensor) -> tuple[Tensor, float]:
    wait = torch.cuda.synchronize if like.device.type == "cuda" else lambda device: None
    wait(like.device)
    started = time.perf_counter()
    result = work()
    wait(like.device)
    return result, time.perf_counter() - started


def _parts(
    needs: frozenset[str],
    model: Remembering,
    explain: Callable[[Tensor, Sequence[int]], Tensor],
    pictures: Tensor,
    maps: Tensor,
    full: Tensor,
    target: Tensor,
    kind: Any,
    bases: dict[str, Tensor],
    seeds: Sequence[int],
    *,
    steps: int,
    batch_size: int,
) -> dict[str, Tensor]:
    """What several columns are made of, once."""
    parts: dict[str, Tensor] = {"full": full}
    options: dict[str, Any] = {"steps": steps, "outputs": kind, "batch_size": batch_size}
    if needs & {"insertion", "deletion"}:
        options["ranks"] = pixel_ranks(maps, scattered=True)
    if "insertion" in needs:
        parts["insertion"] = insertion(model, pictures, maps, target, base=bases["insertion"], **options).score
    if "deletion" in needs:
        parts["deletion"] = deletion(model, pictures, maps, target, base=bases["deletion"], **options).score
    again = [seed + SECOND_DRAW for seed in seeds]
    if "masked" in needs or "again" in needs:
        masked = mask_inputs(pictures, maps)
        bad = ~maps.flatten(1).isfinite().all(1)
        if "masked" in needs:
            score = scores_in_batches(model, lambda a, b: masked[a:b], target, outputs=kind, batch_size=batch_size)
            parts["masked"] = score.masked_fill(bad.to(score.device), float("nan"))
        if "again" in needs:
            parts["again"] = explain(masked, again)
    if "morf" in needs:
        parts["morf"] = road(model, pictures, maps, target, outputs=kind, batch_size=batch_size).score
    if "lerf" in needs:
        parts["lerf"] = road(model, pictures, maps, target, order="lerf", outputs=kind, batch_size=batch_size).score
    if "sensitivity" in needs:
        parts["sensitivity"] = _sensitivity(explain, pictures, maps, seeds)
    return parts


def _sensitivity(
    explain: Callable[[Tensor, Sequence[int]], Tensor], pictures: Tensor, maps: Tensor, seeds: Sequence[int]
) -> Tensor:
    """Largest relative change of the map when every value moves by up to 2 % of the picture's own range."""
    flat = pictures.flatten(1)
    span = (flat.amax(1) - flat.amin(1)).view(-1, *[1] * (pictures.ndim - 1)) * SENSITIVITY_SHARE
    generator = torch.Generator().manual_seed(0)
    draw = 0

    def perturb(clean: Tensor) -> Tensor:
        noise = 2 * torch.rand(clean.shape[1:], generator=generator) - 1  # one for all: free of the batch
        return clean + noise.to(clean) * span

    def again(noisy: Tensor) -> Tensor:
        nonlocal draw
        draw += 1
        return explain(noisy, [seed + draw * SECOND_DRAW for seed in seeds])

    return sensitivity_max(again, pictures, samples=SENSITIVITY_DRAWS, perturb=perturb, heatmap=maps)


def _figure(
    name: str,
    maps: Tensor,
    parts: dict[str, Tensor],
    truth: Truth | None,
    model: Remembering,
    pictures: Tensor,
    target: Tensor,
    kind: Any,
    batch_size: int,
) -> Tensor:
    """One column ``(N,)``."""
    full, masked = parts["full"], parts.get("masked", parts["full"])
    on_truth: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "pointing_game": pointing_game,
        "energy_pointing_game": energy_pointing_game,
        "mask_iou": mask_iou,
    }
    if name in on_truth:
        assert truth is not None
        return on_truth[name](maps, truth.masks.to(maps.device))
    simple: dict[str, Callable[[], Tensor]] = {
        "insertion": lambda: parts["insertion"],
        "deletion": lambda: parts["deletion"],
        "insertion_deletion": lambda: parts["insertion"] - parts["deletion"],
        "average_drop": lambda: average_drop(full, masked),
        "increase_in_confidence": lambda: increase_in_confidence(full, masked),
        "average_gain": lambda: average_gain(full, masked),
        "coherency": lambda: coherency(maps, parts["again"]),
        "adcc": lambda: adcc(
            average_drop(full, masked).to(maps.device), coherency(maps, parts["again"]), map_area(maps)
        ),
        "complexity": lambda: map_area(maps),
        "map_area": lambda: map_area(maps),
        "sparseness": lambda: sparseness(maps),
        "sensitivity_max": lambda: parts["sensitivity"],
        "road": lambda: parts["morf"],
        "road_combined": lambda: (parts["lerf"] - parts["morf"]) / 2,
    }
    return simple[name]()


def _levels(name: str, maps: Tensor, truth: Truth | None) -> list[str]:
    """One digit for each map threshold: how many of the overlaps 0.3, 0.5, 0.7 the best box reaches. Empty: no box."""
    assert truth is not None
    ious = box_ious(maps, truth.boxes, every_component=name == "max_box_acc_v2").cpu()
    reached = sum((ious >= level).long() for level in LEVELS)
    assert isinstance(reached, Tensor)
    valid = ~ious.isnan().any(1)
    return ["".join(map(str, row)) if good else "" for row, good in zip(reached.tolist(), valid.tolist(), strict=True)]
