"""The runs of a study, one by one, resumable."""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from squeezecam.errors import InputError, SqueezeError
from squeezecam.fit.labels import task_loss
from squeezecam.fit.progress import Progress
from squeezecam.fit.report import cut_of
from squeezecam.links import last_of
from squeezecam.module import Squeeze
from squeezecam.parity.arms import STANDARD, Arm
from squeezecam.parity.gates import collect_gates, describe_gates
from squeezecam.parity.maps import map_quality
from squeezecam.parity.network import Network, same_tensors
from squeezecam.parity.recipe import Recipe
from squeezecam.parity.samples import Samples
from squeezecam.parity.store import Runs
from squeezecam.parity.training import predict, score, train

STARTS = ("scratch", "fine-tune")
OTHER_SEED = 10_000
"""Added to the seed for the control arm."""
CHECKED_STEPS = 3


@dataclass(frozen=True)
class Plan:
    """What a study compares.

    Attributes:
        recipes: ``{"scratch": ..., "fine-tune": ...}``, one or both.
        seeds: numbers of the runs.
        task: classification, multi-label or regression.
        output: name of the model's output.
        arms: in the order of the tables; the first is what the others are compared with.
        maps: pictures on which the maps of every network are measured; 0: none.
        boxes: of the test pictures, (N, 4), for the pointing game.
        classes: (N,), what the gates are asked about; None: the labels, where they are classes.

    """

    recipes: dict[str, Recipe]
    seeds: Sequence[int]
    task: str
    output: str
    arms: tuple[Arm, ...] = STANDARD
    maps: int = 0
    boxes: Tensor | None = None
    classes: Tensor | None = None
    about: dict[str, Any] = field(default_factory=dict)


def run_all(
    network: Network,
    plan: Plan,
    training: Samples,
    test: Samples,
    *,
    folder: Path | None,
    progress: bool | None,
    say: Callable[[str], None],
) -> tuple[dict[str, dict[str, dict[str, Any]]], list[Path]]:
    """All runs that the store does not hold yet; ``{start: {run: record}}``, and the stores' files."""
    stores = {start: Runs(folder, _settings(network, plan, start, training, test)) for start in plan.recipes}
    groups = _groups(plan.arms)
    jobs = [
        (start, group, seed)
        for start in plan.recipes
        for seed in plan.seeds
        for group in groups
        if any(f"{arm.name}/{seed}" not in stores[start].records for arm in group)
    ]
    whole = len(plan.recipes) * len(plan.seeds) * len(groups)
    if jobs and len(jobs) < whole:
        say(f"going on after {whole - len(jobs)} of {whole} trainings that {folder} holds")
    steps = {start: recipe.epochs * len(training) for start, recipe in plan.recipes.items()}
    with Progress(progress) as bar, bar.task("training", sum(steps[start] for start, _, _ in jobs)) as advance:
        for start in plan.recipes:
            if "check" not in stores[start].records:
                same = check_pairing(network, plan, start, training, plan.seeds[0])
                stores[start].add("check", {"identical": same})
            if not stores[start].records["check"]["identical"]:
                say(
                    f"{start}: with the block held at identity the weights are not those without it, to the bit, after "
                    f"{CHECKED_STEPS} steps: this network or device does not repeat itself, and pairing by seed is weak"
                )
        began, done = time.monotonic(), 0
        for number, (start, group, seed) in enumerate(jobs):
            _job(network, plan, start, group, seed, training, test, stores[start], advance)
            done += steps[start]
            if number == 0 and not bar.show:
                left = (time.monotonic() - began) / done * sum(steps[s] for s, _, _ in jobs[1:])
                if left > 60:
                    say(f"{len(jobs)} trainings: about {left / 60:.0f} min")
    return {s: store.records for s, store in stores.items()}, [s.path for s in stores.values() if s.path is not None]


def check_pairing(network: Network, plan: Plan, start: str, training: Samples, seed: int) -> bool:
    """Whether three steps with the block held at identity give the weights that three steps without it give."""
    with_block = network.start(start, seed, "gate")
    for parameter in with_block.blocks.parameters():
        parameter.requires_grad_(False)
    without = network.start(start, seed, "observe")
    for squeeze in (with_block, without):
        train(squeeze, training, plan.recipes[start], seed, task=plan.task, output=plan.output, limit=CHECKED_STEPS)
    return same_tensors(with_block.model, without.model)


def _groups(arms: Sequence[Arm]) -> list[list[Arm]]:
    """Arms that share a training, together; the one that is trained comes first.

    Raises:
        InputError: an arm that builds on one that is not there.

    """
    groups = {arm.name: [arm] for arm in arms if arm.base is None}
    for arm in arms:
        if arm.base is not None:
            if arm.base not in groups:
                raise InputError(f"arm '{arm.name}' builds on '{arm.base}', which is not among the arms")
            groups[arm.base].append(arm)
    return list(groups.values())


def _job(
    network: Network,
    plan: Plan,
    start: str,
    group: Sequence[Arm],
    seed: int,
    training: Samples,
    test: Samples,
    store: Runs,
    advance: Callable[[int], None],
) -> None:
    arm = group[0]
    own_seed = seed + OTHER_SEED if arm.other_seed else seed
    began = time.perf_counter()
    squeeze = network.start(start, own_seed, arm.apply)
    if arm.prepare is not None:
        arm.prepare(squeeze)
    train(
        squeeze, training, plan.recipes[start], own_seed,
        task=plan.task, output=plan.output, extra=arm.extra, advance=advance,
    )  # fmt: skip
    trained = time.perf_counter() - began
    records = {arm.name: _measured(squeeze, plan, test, own_seed)}
    for follower in group[1:]:
        own = copy.deepcopy(squeeze)
        assert follower.finish is not None
        try:
            follower.finish(own, training, plan.task, plan.output, seed)
            records[follower.name] = _measured(own, plan, test, own_seed)
        except SqueezeError as error:
            records[follower.name] = {"failed": str(error)}
    for name, record in reversed(records.items()):  # the trained arm last: its line says that all of them are there
        store.add(f"{name}/{seed}", {"arm": name, "seed": seed, "trained": round(trained, 2), **record})


def _measured(squeeze: Squeeze, plan: Plan, test: Samples, seed: int) -> dict[str, Any]:
    values = predict(squeeze, test, plan.output)
    record: dict[str, Any] = {
        "score": score(values, test.labels, plan.task, cut_of(squeeze, plan.output)),
        "loss": float(task_loss(values, test.labels, plan.task, last_of(squeeze, plan.output))),
    }
    if squeeze.apply_mode == "gate":
        classes = plan.classes
        if classes is None and plan.task == "classification" and test.labels.ndim == 1:
            classes = test.labels
        record["gates"] = {s: describe_gates(g, classes) for s, g in collect_gates(squeeze, test).items()}
    if plan.maps:
        record["maps"] = map_quality(squeeze, test, plan.maps, seed, plan.output, plan.boxes)
    return record


def _settings(network: Network, plan: Plan, start: str, training: Samples, test: Samples) -> dict[str, Any]:
    """All that the figures of one run depend on, beside its arm and seed."""
    squeeze = network.start(start, 0, "observe")
    return {
        "start": start, "recipe": plan.recipes[start].as_dict(), "task": plan.task, "output": plan.output,
        "network": _weights(squeeze), "places": [place.describe() for place in squeeze.places.values()],
        "reduction": network.reduction, "training": training.identity(), "test": test.identity(), "maps": plan.maps,
        "torch": torch.__version__, **plan.about,
    }  # fmt: skip


def _weights(squeeze: Squeeze) -> str:
    parts = hashlib.sha256()
    for name, tensor in squeeze.state_dict().items():
        parts.update(name.encode())
        parts.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return parts.hexdigest()[:16]


def placed(network: Network, start: str) -> Network:
    """The same with the block's place found once, for all runs."""
    squeeze = network.start(start, 0, "observe")
    return replace(network, at={stream: place.site for stream, place in squeeze.places.items()})
