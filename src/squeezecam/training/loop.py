"""``train``: one training loop, for a block in the path or any module, on one or many processes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from squeezecam import processes
from squeezecam.errors import FitError, InputError
from squeezecam.files import output_folder
from squeezecam.fit.batches import Pick
from squeezecam.fit.progress import Progress
from squeezecam.module import Squeeze
from squeezecam.training.batches import call_and_labels, samples
from squeezecam.training.data import Epochs
from squeezecam.training.modes import train_mode
from squeezecam.training.record import note_training
from squeezecam.training.report import Epoch, TrainingReport
from squeezecam.training.run import Run, Settings

if TYPE_CHECKING:
    from accelerate import Accelerator

Loss = Callable[[Any, Any], Tensor]
Validate = Callable[[nn.Module], "float | dict[str, float]"]
Precision = Literal["no", "bf16", "fp16"]


@dataclass(frozen=True)
class EpochState:
    """What an ``on_epoch`` function is given after every epoch, in every process.

    Attributes:
        record: the epoch's figures.
        module: the module as it was validated (the averaged copy with ``ema``), unwrapped.
        is_first: whether this process is the one that writes and speaks.

    """

    record: Epoch
    module: nn.Module
    is_first: bool


def train(
    module: nn.Module,
    loader: Iterable[Any],
    *,
    loss: Loss,
    epochs: int,
    optimiser: torch.optim.Optimizer | None = None,
    scheduler: Any = None,
    schedule: Literal["step", "epoch"] = "step",
    validate: Validate | None = None,
    best: str | None = None,
    patience: int | None = None,
    accumulate: int = 1,
    precision: Precision | None = None,
    ema: float | None = None,
    clip: float | None = None,
    checkpoints: str | Path | None = None,
    every: int | None = None,
    resume: bool = True,
    seed: int = 0,
    inputs: Pick | None = None,
    labels: Pick | None = None,
    on_epoch: Sequence[Callable[[EpochState], None]] = (),
    progress: bool | None = None,
    find_unused: bool = False,
    accelerator: Accelerator | None = None,
) -> TrainingReport:
    """Train ``module`` in place, on the device where it lies, over ``loader``; an interrupted run goes on to the same
    numbers.

    Of a Squeeze it is noted what was trained, so that ``squeeze.save`` writes that with the block.

    One step sees ``accumulate`` batches of the loader in each process. Its loss is the mean over all their samples, so
    accumulation, several processes and one big batch agree, also at the end of an epoch that does not divide.
    Submodules of which no parameter wants a gradient stay in evaluation mode. Under ``torchrun`` or ``accelerate
    launch`` every process calls this with the same arguments; nothing else changes.

    Args:
        module: any module; a :class:`~squeezecam.Squeeze` in ``gate`` mode trains its block with the model (freeze
            parameters with ``requires_grad_(False)`` to train less).
        loader: a ``DataLoader`` over *all* data (it is divided here), or another iterable that can be begun again.
        loss: ``loss(output, labels)``, a mean over samples; with a ``set_epoch`` it is told the epoch's number.
        epochs: how many, those before an interruption included.
        optimiser: None: AdamW at 1e-3 over the parameters that want gradients.
        scheduler: any with ``step``, ``state_dict`` and ``load_state_dict``; moved on after every ``schedule``.
        validate: called with the module (averaged with ``ema``) in evaluation mode and without gradients after every
            epoch, in every process (see :func:`~squeezecam.training.predictions`); what rank 0 returns counts.
        best: name of a figure of ``validate`` (``"value"`` where it returns one number): the module ends with the
            weights of the epoch that had it highest, or lowest with ``"min:loss"``. None: with the last ones.
        patience: with ``best``: stop after so many epochs without a better one.
        accumulate: batches for one step.
        precision: ``"bf16"`` or ``"fp16"`` (not on the CPU) for autocast; None: as the launcher says, or ``"no"``.
        ema: decay of an exponential average of the weights, .999 say, which is what is validated and what the module
            ends with.
        clip: largest norm of the gradient.
        checkpoints: folder (shared by all processes) for a checkpoint after every epoch; None: none.
        every: a checkpoint also after so many steps.
        resume: go on from the newest readable checkpoint; False begins anew and removes older ones.
        seed: of order, augmentation and dropout.
        inputs, labels: say what in a batch is input and what is label; ``(x, y)`` is understood.
        on_epoch: functions called with an :class:`EpochState` after every epoch, validation and checkpoint.
        progress: a bar on standard error; None: where that is a terminal.
        find_unused: parameters that a step does not reach are looked for (several processes only; slower).
        accelerator: an ``accelerate.Accelerator`` of one's own, which then decides on precision.

    Raises:
        InputError: arguments that do not fit, or checkpoints of another run in the folder.
        FitError: a loss that is no number, or an empty loader.

    """
    if isinstance(module, Squeeze) and module.apply_mode == "observe":
        raise InputError(
            "in 'observe' the block is not in the path and would not learn: attach(..., apply='gate'), or train "
            "squeeze.model"
        )
    if epochs < 1 or accumulate < 1 or (every is not None and every < 1):
        raise InputError(f"epochs, accumulate and every must be at least 1: got {epochs}, {accumulate} and {every}")
    if ema is not None and not 0 < ema < 1:
        raise InputError(f"ema is a decay between 0 and 1 such as 0.999, got {ema}")
    if (best is not None or patience is not None) and (validate is None or best is None):
        raise InputError("best and patience go by a figure of validation: give validate=... and best='name'")
    started = time.perf_counter()
    settings = Settings(precision, accumulate, ema, seed, find_unused, best)
    with Run(module, optimiser, scheduler, settings, accelerator) as run, train_mode(module) as training_mode:
        data = Epochs(loader, world=processes.world(), rank=processes.rank(), accumulate=accumulate, seed=seed)
        folder = _folder(checkpoints)
        first = processes.rank() == 0
        if folder is not None:
            run.open(folder, resume, _say if first else lambda line: None)
        with Progress(progress if first else False) as bar:
            while run.epoch < epochs and not run.exhausted(patience):
                began = time.perf_counter()
                tell = getattr(loss, "set_epoch", None)
                if callable(tell):
                    tell(run.epoch)
                with bar.task(f"epoch {run.epoch + 1} of {epochs}", _length(data)) as advance:
                    advance(run.in_epoch)
                    training_mode()
                    last = None
                    for group in data.steps(run.epoch, run.in_epoch):
                        calls = [
                            (*call_and_labels(module, batch, inputs, labels, run.device), counts)
                            for batch, counts in group
                        ]
                        last = calls[0][0]
                        run.step([(c, f, samples(c, f) if counts else 0) for c, f, counts in calls], loss, clip)
                        if scheduler is not None and schedule == "step":
                            run.schedule()
                        advance(1)
                        if folder is not None and every is not None and run.steps % every == 0:
                            run.save(folder)
                if run.in_epoch == 0:
                    raise FitError("the loader gave no batch: there is nothing to train on")
                run.finish_epoch(validate, schedule if scheduler is not None else None, last, began, folder)
                for function in on_epoch:
                    function(EpochState(run.records[-1], run.result, first))
        run.settle(folder)
        if isinstance(module, Squeeze):
            note_training(module, "squeezecam.training", steps=run.steps, seed=seed)
        return TrainingReport(
            run.records, run.steps, run.best_epoch, run.resumed_at, processes.world(), run.precision, seed,
            round(time.perf_counter() - started, 2),
        )  # fmt: skip


def _folder(path: str | Path | None) -> Path | None:
    if path is None:
        return None
    with processes.first_only(InputError) as here:
        if here:
            output_folder(path)
    return Path(path).expanduser()


def _length(data: Epochs) -> int | None:
    try:
        return len(data)
    except TypeError:
        return None


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
