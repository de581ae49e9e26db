"""``squeezecam.parity``: from a model and data to a :class:`~squeezecam.parity.result.ParityResult`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from squeezecam.errors import InputError
from squeezecam.files import output_folder
from squeezecam.fit.batches import guess_task
from squeezecam.parity.arms import STANDARD, Arm
from squeezecam.parity.network import Build, Network
from squeezecam.parity.recipe import Recipe
from squeezecam.parity.result import ParityResult
from squeezecam.parity.running import STARTS, Plan, placed, run_all
from squeezecam.parity.samples import Samples, Subset, as_samples, split
from squeezecam.parity.training import predict

SCRATCH = Recipe()
FINE_TUNE = Recipe(epochs=2, lr=2e-4)
MARGIN = 0.5
"""Points of accuracy."""
MARGIN_SHARE = 0.05
"""Of the standard deviation of the training labels, for a regression."""
LEAST_SEEDS = 2


def parity(
    model: nn.Module | Build,
    training: Any,
    test: Any = None,
    *,
    scratch: Build | None = None,
    starts: Sequence[str] | None = None,
    seeds: int = 5,
    margin: float | None = None,
    task: str | None = None,
    output: str | None = None,
    outputs: int | None = None,
    at: Any = None,
    reduction: int = 16,
    recipe: Recipe = SCRATCH,
    fine_tune: Recipe = FINE_TUNE,
    arms: Sequence[Arm] = STANDARD,
    maps: int = 0,
    boxes: Tensor | None = None,
    hold_out: float = 0.3,
    seed: int = 0,
    out: str | Path | None = None,
    about: dict[str, Any] | None = None,
    progress: bool | None = None,
    say: Callable[[str], None] | None = None,
) -> ParityResult:
    """Train the same network with and without the block from the same seeds, and judge the difference.

    Arms: ``without`` the block; ``without, other seed`` (the noise floor: how far two trainings differ for no reason);
    ``with`` the block in the path from its identity start; and the network trained without it whose block is then
    fitted label-free and put in the path. For one seed all arms but the second begin with the same weights and see the
    same batches with the same augmentation and dropout; three steps with the block held at identity are compared with
    three without it, to the bit, before anything else.

    Args:
        model: a trained network, or a function that builds a fresh one (then nothing is fine-tuned). It is not changed.
        training: ``(inputs, labels)``: tensors, or a tuple of tensors for several inputs; or an object as
            :class:`squeezecam.parity.samples.Samples`.
        test: the same, not trained on; None: a share of ``training``, drawn with ``seed``, of every class alike.
        scratch: builds a network with fresh weights; None: the layers of ``model`` are reset.
        starts: ``"scratch"``, ``"fine-tune"``; None: both, or what is possible.
        seeds: runs per arm, from ``seed`` on.
        margin: the loss that would not matter, in points of accuracy, or in the labels' unit for a regression. None:
            0.5 points; for a regression 5 % of the standard deviation of the training labels.
        task: ``"classification"``, ``"multi-label"`` or ``"regression"``; None: guessed from outputs and labels.
        output: name of one of several outputs.
        outputs: classes that the network is to tell apart; a classification layer of another size gets a new one.
            None: it stays, if the labels fit.
        at: place of the block, as for :func:`squeezecam.attach`.
        reduction: channels divided by the hidden width of the block.
        recipe: of the training from scratch.
        fine_tune: of the fine-tuning.
        arms: what is compared; the first is the reference.
        maps: test pictures on which the maps of each network are measured, beside the controls; 0: none.
        boxes: ``(N, 4)`` per test picture, x0, y0, x1, y1 in pixels of the input, for the pointing game.
        hold_out: share of the data to test on, without ``test``.
        seed: the first one.
        out: folder for the tables and for what an interrupted study goes on from.
        about: what is written into the result beside the rest.
        progress: a bar on standard error; None: where that is a terminal.
        say: told what is worth knowing meanwhile; None: standard error.

    Raises:
        InputError: data, names or numbers that do not fit, or training labels that are all the same.
        ModelError: a network that cannot begin anew, or whose classification layer cannot be replaced.
        FitError: a loss that is not finite.

    """
    if seeds < LEAST_SEEDS:
        raise InputError(f"seeds is {seeds}; a paired interval needs at least {LEAST_SEEDS}, a sound one 5")
    trained = model if isinstance(model, nn.Module) else None
    build = scratch if trained is not None or scratch is not None else model
    whole = as_samples(training, "training")
    parts: tuple[Samples, Samples] = (
        (whole, as_samples(test, "test")) if test is not None else split(whole, hold_out, seed)
    )
    _check_labels(parts[0].labels)
    example = parts[0].inputs(torch.arange(min(2, len(parts[0]))))
    chosen = _starts(starts, trained)
    labels = parts[0].labels
    offset = float(labels.mean()) if labels.is_floating_point() else None
    network = Network(example, trained, build, at, reduction, outputs, output, offset)
    network = placed(network, chosen[0])
    task, output = _task(network, chosen[0], parts, task, outputs)
    recipes = {start: {"scratch": recipe, "fine-tune": fine_tune}[start] for start in chosen}
    plan = Plan(recipes, range(seed, seed + seeds), task, output, tuple(arms), maps, boxes)
    unit = "points" if task != "regression" else "units of the label"
    if margin is None:
        margin = MARGIN if task != "regression" else MARGIN_SHARE * float(labels.float().std())
    if not margin > 0:
        raise InputError(f"margin is {margin}; expected the loss, in {unit}, that would not matter: more than 0")
    folder = output_folder(out) if out is not None else None
    speak = say or (lambda line: print(line, file=sys.stderr, flush=True))
    runs, files = run_all(network, plan, *parts, folder=folder, progress=progress, say=speak)
    result = ParityResult(
        runs, {arm.name: arm.label for arm in arms}, tuple(plan.seeds), margin, unit, task != "regression",
        100 / parts[1].labels.numel() if task != "regression" else 0.0,
        tuple(arm.name for arm in arms if arm.other_seed),
        {
            **(about or {}), "task": task, "output": output, "trained on": len(parts[0]), "tested on": len(parts[1]),
            "recipes": {start: used.as_dict() for start, used in recipes.items()}, "torch": torch.__version__,
        },
        written=list(files),
    )  # fmt: skip
    if folder is not None:
        result.save(folder)
    return result


def _check_labels(labels: Tensor) -> None:
    if len(labels) and bool((labels == labels[0]).all()):
        value = f"all {labels[0].item()}" if labels.ndim == 1 else "the same for every sample"
        raise InputError(
            f"the labels of the {len(labels)} training samples are {value}: a study needs at least two classes, or "
            "figures that differ"
        )


def _starts(starts: Sequence[str] | None, trained: nn.Module | None) -> list[str]:
    possible = list(STARTS) if trained is not None else ["scratch"]
    if starts is None:
        return possible
    for start in starts:
        if start not in STARTS:
            raise InputError(f"unknown start '{start}'; expected {' or '.join(STARTS)}")
        if start not in possible:
            raise InputError("fine-tuning needs a trained model; a function that builds fresh ones was given")
    if not starts:
        raise InputError(f"no start given; expected {' or '.join(STARTS)}, or both")
    return list(dict.fromkeys(starts))


def _task(
    network: Network, start: str, parts: tuple[Samples, Samples], task: str | None, outputs: int | None
) -> tuple[str, str]:
    """The task and the name of the output, once it is sure that the labels fit."""
    squeeze = network.start(start, 0, "observe")
    output = squeeze.output_name(network.output)
    few = torch.arange(min(4, len(parts[0])))
    values = predict(squeeze, Subset(parts[0], few), output)
    task = task or guess_task(values, parts[0].labels)
    if task not in ("classification", "multi-label", "regression"):
        raise InputError(f"unknown task '{task}'; expected classification, multi-label or regression")
    if task == "classification":
        if any(part.labels.is_floating_point() for part in parts):
            raise InputError("the labels are shares of classes: the study takes class indices, labels.argmax(1)")
        top = max(int(part.labels.max()) for part in parts)
        if top >= values.shape[-1]:
            raise InputError(
                f"the labels go up to {top} and the network has {values.shape[-1]} outputs: outputs={top + 1} gives it "
                "a new classification layer"
            )
    return task, output
