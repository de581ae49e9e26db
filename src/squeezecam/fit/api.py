"""``squeeze.fit``: from batches to fitted blocks and a report."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from squeezecam import processes
from squeezecam.errors import FitError, InputError, SqueezeWarning
from squeezecam.fit import faithful
from squeezecam.fit import labels as on_labels
from squeezecam.fit import report as reporting
from squeezecam.fit.batches import Pick, check_labels, guess_task
from squeezecam.fit.cache import Cache
from squeezecam.fit.collecting import collect
from squeezecam.fit.evidence import read_out
from squeezecam.fit.progress import Progress
from squeezecam.fit.report import FitReport
from squeezecam.fit.sharing import shared
from squeezecam.links import MULTI_LABEL, read_as_labels, said_alone
from squeezecam.methods import default_method
from squeezecam.misfed import check_batches
from squeezecam.module import Squeeze
from squeezecam.origin import FIT
from squeezecam.randomness import torch_seeded
from squeezecam.sides import BINARY, read_as_binary
from squeezecam.tap import evaluating
from squeezecam.wording import number_of

MINIMUM = 8
"""Samples below which nothing can be held out."""

FEW = 50
"""Samples below which the report says that they are few: a fifth of them, held out, is ten."""

Objective = Literal["faithful", "task"]
Train = Literal["block", "head", "all"]


def fit(
    squeeze: Squeeze,
    batches: Iterable[Any],
    *,
    objective: Objective = "faithful",
    train: Train = "block",
    inputs: Pick | None = None,
    labels: Pick | None = None,
    task: str | None = None,
    output: str | None = None,
    hidden: int | None = None,
    agreement: float = 0.995,
    hold_out: float = 0.2,
    epochs: int = 40,
    patience: int = 6,
    lr: float = 1e-3,
    windows: int = 3,
    seed: int = 0,
    progress: bool | None = None,
    cache: str | Path | None = None,
    cache_dtype: str = "float32",
) -> FitReport:
    """Fit the blocks in place and report what was measured on samples held out.

    Args:
        squeeze: from :func:`squeezecam.attach`.
        batches: any iterable of batches; without labels it is gone through once.
        objective: ``"faithful"`` (ours): no labels; the gates learn to rank the channels by their evidence for the
            model's own prediction and stay so narrow that predictions hardly change. ``"task"`` (published): the block
            is trained on labels, in the path.
        train: with ``"task"``: the block alone, the block and the layers after it, or everything (slow: full passes).
        inputs, labels: say what in a batch is input and what is label; the usual ``(x, y)`` is understood.
        task: ``"classification"``, ``"multi-label"``, ``"regression"``, or ``"binary"``: the output is one value, yes
            above 0, and maps show the evidence for the side decided for from now on. None: guessed from outputs and
            labels, and reported; one value is then no decision.
        output: name of the output to fit for, where there are several; from then on the one that is explained where
            none is named.
        hidden: hidden width of the block for the faithful objective; None: chosen from the classifier.
        agreement: share of predictions that the faithful block has to leave unchanged.
        hold_out: share of the samples that is kept for the report and decides nothing.
        epochs, patience, lr: of the training; it stops when the held-out loss no longer falls.
        windows: squeezed vectors per sample from random windows of the map, beside the whole one.
        seed: of everything random.
        progress: show a progress bar; None: where standard error is a terminal.
        cache: folder in which the features are kept: an interrupted fit goes on where it stopped, and another fit on
            the same model and data begins with them. Under ``torchrun`` each process computes a part of the features,
            with or without a folder (which has to be the same for all), rank 0 fits, and all end with the same blocks.
        cache_dtype: of squeezed vectors in that folder: ``"float32"``, or ``"float16"`` or ``"bfloat16"`` for half the
            disk.

    Raises:
        FitError: no batches, nothing finite, no labels where they are needed, a head that cannot be run on its own.
        InputError: an unknown name or a value out of range, something else than batches, or batches that the model
            does not take.

    """
    _check(squeeze, objective, train, task, agreement, hold_out)
    if (hidden is not None and hidden < 1) or windows < 0:
        raise InputError(f"hidden must be at least 1 and windows at least 0, got hidden={hidden}, windows={windows}")
    check_batches(squeeze, batches)
    output = squeeze.output_name(output)
    if task == BINARY:
        read_as_binary(squeeze, output)
    told = task is not None
    task = _task_of(squeeze, output, task)
    device = next((p.device for p in squeeze.parameters()), torch.device("cpu"))
    started = time.perf_counter()
    processes.join()
    with Progress(progress if processes.rank() == 0 else False) as bar, torch_seeded(seed, [device]):
        if train == "all" and cache is not None:
            raise InputError("train='all' changes the features, so that they cannot be kept: leave cache=... out")
        if train == "all":
            whole = _fit_all(
                squeeze, batches, output, task, inputs, labels, epochs, patience, lr, seed, bar, device, started
            )
            read_as_labels(squeeze, output, whole.task == MULTI_LABEL)
            squeeze.default_output = output
            squeeze.origins.mark(squeeze, FIT)
            return _named(squeeze, whole, told)
        with bar.task("features", _length(batches)) as advance:
            collected = collect(
                squeeze,
                batches,
                output,
                inputs=inputs,
                labels=labels,
                windows=windows if objective == "faithful" or cache is not None else 0,  # kept ones serve both
                seed=seed,
                advance=advance,
                device=device,
                folder=cache,
                dtype=cache_dtype,
            )
        report: FitReport | None = None
        with processes.first_only(FitError):
            if collected is not None:
                report = _fit_collected(
                    squeeze, collected, output, task, objective=objective, train=train, hidden=hidden,
                    agreement=agreement, hold_out=hold_out, epochs=epochs, patience=patience, lr=lr, seed=seed,
                    bar=bar, started=started,
                )  # fmt: skip
            if report is not None:
                report = _named(squeeze, report, told)
        report = shared(squeeze, report)
        read_as_labels(squeeze, output, report.task == MULTI_LABEL)
        squeeze.default_output = output
        squeeze.origins.mark(squeeze, FIT)
        return report


def _fit_collected(
    squeeze: Squeeze,
    cache: Cache,
    output: str,
    task: str | None,
    *,
    objective: Objective,
    train: Train,
    hidden: int | None,
    agreement: float,
    hold_out: float,
    epochs: int,
    patience: int,
    lr: float,
    seed: int,
    bar: Progress,
    started: float,
) -> FitReport:
    """The fit itself, on features that are there."""
    generator = torch.Generator().manual_seed(seed)
    collected = time.perf_counter()
    fitting, stopping, held = _split(len(cache), hold_out, generator)
    task = task or guess_task(cache.values, cache.labels, alone=said_alone(squeeze, output))
    check_labels(cache.values, cache.labels, task)
    before = cache.values[held]
    settings: dict[str, Any] = {}
    history: list[float] = []
    if objective == "faithful":
        with bar.task("fit", None) as advance:
            readouts, said = read_out(squeeze, cache, held, gated=False)
            settings = faithful.fit_blocks(
                squeeze,
                cache,
                output,
                task,
                torch.cat([fitting, stopping]),
                hidden=hidden,
                agreement=agreement,
                advance=advance,
            )
        trained: list[str] = []
    else:
        if cache.labels is None:
            raise FitError("objective='task' needs labels: batches of (x, y), or labels=lambda batch: ...")
        extra = on_labels.head_parameters(squeeze, cache, output) if train == "head" else {}
        trained = list(extra)
        settings = {"lr": lr, "epochs": epochs}
        _start_by_seed(squeeze)
        with bar.task("fit", epochs) as advance:
            history = on_labels.train_cached(
                squeeze, cache, output, task, fitting, stopping,
                extra=list(extra.values()), epochs=epochs, rate=lr, patience=patience,
                generator=generator, advance=advance,
            )  # fmt: skip
        readouts, said = read_out(squeeze, cache, held, gated=squeeze.apply_mode == "gate")
    fitted = time.perf_counter()
    found = _report(squeeze, cache, output, task, held, before, generator)
    result = FitReport(
        objective=objective, train=train, task=task, output=output, mode=cache.mode,
        samples=len(fitting) + len(stopping), held_out=len(held), seed=seed, settings=settings, history=history,
        seconds={"features": round(collected - started, 2), "fit": round(fitted - collected, 2)},
        notes=[*_notes(squeeze, cache, found), *said], readouts=readouts, shown=default_method(squeeze, output),
        **found,
    )  # fmt: skip
    squeeze.fit_info = {
        "objective": objective, "train": train, "task": task, "output": output,
        "samples": result.samples, "seed": seed, "settings": settings,
        "trained": trained, "unchanged": result.unchanged,
    }  # fmt: skip
    return result


def _task_of(squeeze: Squeeze, output: str, task: str | None) -> str | None:
    """The task as the fit sees it: two sides are two classes."""
    if output not in squeeze.binary:
        return task
    if task not in (None, BINARY, "classification"):
        raise InputError(f"output '{output}' is read as a decision (task='binary'), not task='{task}': attach again")
    return "classification"


def _named(squeeze: Squeeze, report: FitReport, told: bool) -> FitReport:
    """The report with its task as users name it, and what has to be said of an output of one value."""
    if report.output in squeeze.binary:
        report.task = squeeze.fit_info["task"] = BINARY
    elif report.output in squeeze.single and not told:
        report.notes.append(
            f"'{report.output}' has one value: the class map shows what raises it; if it is a decision, yes above 0, "
            "task='binary' (--task binary) shows the evidence for the side decided for"
        )
    return report


def _check(squeeze: Squeeze, objective: str, train: str, task: str | None, agreement: float, hold_out: float) -> None:
    if objective not in ("faithful", "task"):
        raise InputError(f"unknown objective '{objective}'; expected 'faithful' (no labels) or 'task' (labels)")
    if train not in ("block", "head", "all"):
        raise InputError(f"unknown part to train '{train}'; expected 'block', 'head' or 'all'")
    if objective == "faithful" and train != "block":
        raise InputError(
            f"the faithful objective leaves the model as it is: train='block', got train='{train}'; or objective='task'"
        )
    if train != "block" and squeeze.apply_mode == "observe":
        raise InputError(
            f"train='{train}' changes the model, which 'observe' promises not to do: attach(..., apply='gate')"
        )
    if task not in (None, BINARY, "classification", "multi-label", "regression"):
        raise InputError(f"unknown task '{task}'; expected classification, binary, multi-label or regression")
    if not 0 < hold_out < 1 or not 0 < agreement <= 1:
        raise InputError(f"hold_out and agreement are shares: got hold_out={hold_out}, agreement={agreement}")


def _split(count: int, hold_out: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Indices to fit on, to stop by, and to report on; the last ones decide nothing."""
    if count < MINIMUM:
        raise FitError(
            f"{number_of(count, 'sample')} given, too few to fit on: at least {MINIMUM}, for a sound fit a few hundred"
        )
    order = torch.randperm(count, generator=generator)
    held = max(2, round(count * hold_out))
    stopping = max(2, round((count - held) * 0.15))
    return order[held + stopping :], order[held : held + stopping], order[:held]


def _length(batches: Iterable[Any]) -> int | None:
    data = getattr(batches, "dataset", None)
    try:
        return len(data) if data is not None else None
    except TypeError:
        return None


def _start_by_seed(squeeze: Squeeze) -> None:
    """New blocks start from this fit's seed, not from whatever was drawn when they were attached; fitted ones go on."""
    for stream in squeeze.places:
        block = squeeze.block(stream)
        if not block.fitted:
            block.reset_parameters()


def _report(
    squeeze: Squeeze, cache: Cache, output: str, task: str, held: Tensor, before: Tensor, generator: torch.Generator
) -> dict[str, Any]:
    with evaluating(squeeze):
        after = reporting.gated_values(squeeze, cache, output, held)
        cut = reporting.cut_of(squeeze, output)
        same = float(reporting.same_prediction(before, after, task, cut).float().mean())
        found: dict[str, Any] = {"unchanged": same, "unchanged_interval": reporting.wilson(same, len(held))}
        found |= reporting.gate_statistics(squeeze, cache, held, generator)
        if cache.labels is not None:
            found["accuracy_before"] = reporting.accuracy(before, cache.labels[held], task, cut)
            found["accuracy_after"] = reporting.accuracy(after, cache.labels[held], task, cut)
    return found


def _notes(squeeze: Squeeze, cache: Cache, found: dict[str, Any]) -> list[str]:
    notes = []
    if cache.skipped:
        notes.append(f"left out {number_of(cache.skipped, 'sample')} with NaN or infinity")
    if cache.left_out:
        notes.append(f"left out {number_of(cache.left_out, 'sample')} whose features would take too much memory")
    if len(cache) < FEW:
        notes.append(
            f"{len(cache)} samples are few: what is usual for each channel and the shares above are uncertain, a sound "
            "fit has a few hundred"
        )
    if reporting.all_alike(cache):
        notes.append(
            f"all {len(cache)} samples look the same to the model: the fit has nothing to learn from; give different "
            "ones, and look at what the preprocessing makes of them"
        )
        warnings.warn(notes[-1], SqueezeWarning, stacklevel=4)
    if found["fallback"] > 0.05:
        notes.append(
            f"the published rule kept nothing in {found['fallback']:.0%} of the samples, where the top tenth was taken"
        )
    if found["gate_spread"] < 1e-6:
        notes.append("the gates hardly differ: the fit found nothing to tell the channels apart by")
        warnings.warn(notes[-1], SqueezeWarning, stacklevel=4)
    return notes


def _fit_all(
    squeeze: Squeeze,
    batches: Iterable[Any],
    output: str,
    task: str | None,
    inputs: Pick | None,
    labels: Pick | None,
    epochs: int,
    patience: int,
    lr: float,
    seed: int,
    bar: Progress,
    device: torch.device,
    started: float,
) -> FitReport:
    """Everything is trained: the features move, so nothing can be cached; outputs are compared before and after."""
    generator = torch.Generator().manual_seed(seed)

    def look() -> Cache:
        with bar.task("features", _length(batches)) as advance:
            found = collect(
                squeeze,
                batches,
                output,
                inputs=inputs,
                labels=labels,
                windows=0,
                seed=seed,
                advance=advance,
                device=device,
            )
            assert found is not None  # there is one process
            return found

    if processes.world() > 1:
        raise InputError("train='all' runs in one process; for several use squeezecam.training.train")
    if iter(batches) is batches:
        raise FitError("train='all' goes over the data several times: pass a list or a DataLoader, not an iterator")
    first = look()
    if first.labels is None:
        raise FitError("objective='task' needs labels: batches of (x, y), or labels=lambda batch: ...")
    chosen = task or guess_task(first.values, first.labels, alone=said_alone(squeeze, output))
    check_labels(first.values, first.labels, chosen)
    with bar.task("fit", epochs) as advance:
        history = on_labels.train_all(
            squeeze, batches, output, chosen,
            inputs=inputs, labels=labels, epochs=epochs, rate=lr, patience=patience, advance=advance, device=device,
        )  # fmt: skip
    fitted = time.perf_counter()
    cache = look()
    # Held out are whole batches, which a shuffling loader deals out anew: the report is on all samples, and says so.
    index = torch.arange(len(cache))
    same_order = first.labels is not None and cache.labels is not None and torch.equal(first.labels, cache.labels)
    aligned = len(first) == len(cache) and same_order
    found = _report(squeeze, cache, output, chosen, index, first.values if aligned else cache.values, generator)
    held = torch.randperm(len(cache), generator=generator)[: max(2, len(cache) // 5)]
    readouts, said = read_out(squeeze, cache, held, gated=squeeze.apply_mode == "gate")
    notes = [
        *_notes(squeeze, cache, found),
        *said,
        "accuracy and predictions are on all samples, those trained on included",
    ]
    if not aligned:
        notes.append(
            "the batches came in another order the second time: 'before' is the trained model without its block"
        )
    trained = [name for name, tensor in squeeze.model.state_dict().items() if tensor.is_floating_point()]
    squeeze.fit_info = {
        "objective": "task", "train": "all", "task": chosen, "output": output, "samples": len(cache), "seed": seed,
        "settings": {"epochs": epochs, "lr": lr}, "trained": trained, "unchanged": found["unchanged"],
    }  # fmt: skip
    return FitReport(
        objective="task", train="all", task=chosen, output=output, mode=cache.mode, samples=len(cache), held_out=0,
        seed=seed, settings={"epochs": epochs, "lr": lr}, history=history, notes=notes, readouts=readouts,
        seconds={"fit": round(fitted - started, 2)}, shown=default_method(squeeze, output), **found,
    )  # fmt: skip
