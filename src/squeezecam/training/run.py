"""One training as it stands: weights, optimiser, average, counters; a step, the end of an epoch, a checkpoint."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from squeezecam import processes, tree
from squeezecam.errors import FitError, InputError
from squeezecam.module import Squeeze
from squeezecam.randomness import derive, seed_all, seeded
from squeezecam.tap import evaluating
from squeezecam.training import checkpoint
from squeezecam.training.accelerating import accelerating
from squeezecam.training.gates import watch
from squeezecam.training.report import Epoch

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Settings:
    """What the numbers of a run depend on beside data and model."""

    precision: str | None
    accumulate: int
    ema: float | None
    seed: int
    find_unused: bool
    best: str | None


class Run:
    """The state of a training; a context manager that gives module and random numbers back as they were wrapped.

    Args:
        module: what is trained, in place.
        optimiser, scheduler: None for the default, or for none.
        settings: see there.
        given: an Accelerator of the caller's, or None.

    """

    def __init__(
        self, module: nn.Module, optimiser: Any, scheduler: Any, settings: Settings, given: Accelerator | None
    ) -> None:
        if isinstance(module, Squeeze) and any(
            p.requires_grad and not name.startswith(("model.", "blocks.")) for name, p in module.named_parameters()
        ):
            settings = replace(settings, find_unused=True)  # what stands beside the path, such as a refiner
        self.module, self.settings, self.scheduler, self.given = module, settings, scheduler, given
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        if not self.parameters:
            raise InputError("no parameter of the module wants a gradient: there is nothing to train")
        self.plain_optimiser = optimiser or torch.optim.AdamW(self.parameters, lr=1e-3)
        self.epoch = self.in_epoch = self.steps = 0
        self.loss_sum = torch.zeros(2)  # of losses, and of samples, in this epoch and process
        self.records: list[Epoch] = []
        self.best_epoch: int | None = None
        self.best_state: dict[str, Tensor] | None = None
        self.resumed_at: int | None = None
        self.seconds = 0.0
        self.stack = contextlib.ExitStack()

    def __enter__(self) -> Run:
        with contextlib.ExitStack() as stack:
            stack.enter_context(seeded(devices=True))
            own = next(self.module.parameters()).device
            self.accelerator = stack.enter_context(accelerating(self.settings, self.given, own))
            self.stays = self.given is None and processes.world() == 1
            self.device: torch.device = own if self.stays else self.accelerator.device
            self.precision = str(self.accelerator.mixed_precision)
            self.module.to(self.device)
            self.loss_sum = self.loss_sum.to(self.device)
            decay = self.settings.ema
            self.average = (
                None if decay is None else AveragedModel(self.module, multi_avg_fn=get_ema_multi_avg_fn(decay))
            )
            stack.callback(self._unwrap)
            self.model: nn.Module | None = None
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    @property
    def result(self) -> nn.Module:
        """What is validated and what comes out: the average, or the module itself."""
        return self.module if self.average is None else self.average.module

    # --- checkpoints --------------------------------------------------------------------------------

    def open(self, folder: Path, resume: bool, say: Callable[[str], None]) -> None:
        """Go on from the newest checkpoint in ``folder``, or begin anew there."""
        path: Path | None = None
        with processes.first_only(InputError) as here:
            if here and not resume:
                checkpoint.clear(folder)
            elif here:
                path = checkpoint.newest(folder, say)
        path = processes.from_first(path)
        if path is None:
            return
        state = checkpoint.read(path)
        self._check(state, path)
        self.module.load_state_dict(state["module"])
        self.plain_optimiser.load_state_dict(state["optimiser"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.epoch, self.in_epoch, self.steps = state["epoch"], state["in_epoch"], state["steps"]
        self.best_epoch, self.resumed_at, self.seconds = state["best_epoch"], state["steps"], state["seconds"]
        self.records = [Epoch(**record) for record in state["records"]]
        if processes.rank() == 0:
            self.loss_sum.copy_(state["loss_sum"])
        if self.best_epoch is not None:
            self.best_state = checkpoint.read(folder / checkpoint.BEST)["module"]
        say(f"going on from {path} (epoch {self.epoch + 1}, step {self.steps})")

    def save(self, folder: Path) -> None:
        """Write a checkpoint of this moment: rank 0 writes, nobody goes on before it is on disk."""
        loss_sum = processes.total(self.loss_sum)
        if not bool(loss_sum.isfinite().all()):
            raise FitError(_NOT_FINITE)
        scaler, identity = self.accelerator.scaler, self._identity()
        with processes.first_only(FitError) as here:
            if here:
                state = {
                    "identity": identity, "module": self.module.state_dict(),
                    "optimiser": self.plain_optimiser.state_dict(),
                    "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
                    "average": None if self.average is None else self.average.state_dict(),
                    "scaler": None if scaler is None else scaler.state_dict(),
                    "epoch": self.epoch, "in_epoch": self.in_epoch, "steps": self.steps, "loss_sum": loss_sum,
                    "records": [asdict(record) for record in self.records], "best_epoch": self.best_epoch,
                    "seconds": self.seconds,
                }  # fmt: skip
                checkpoint.keep(folder, self.steps, state)

    def _identity(self) -> dict[str, Any]:
        """What has to be the same for the numbers to go on."""
        return {
            "shapes": {name: list(tensor.shape) for name, tensor in self.module.state_dict().items()},
            "optimiser": type(self.plain_optimiser).__name__,
            "scheduler": None if self.scheduler is None else type(self.scheduler).__name__,
            "batches in a step": self.settings.accumulate * processes.world(),
            "precision": self.precision,
            "ema": self.settings.ema,
            "seed": self.settings.seed,
            "best": self.settings.best,
        }

    def _check(self, state: dict[str, Any], path: Path) -> None:
        found, mine = state["identity"], self._identity()
        for name, value in mine.items():
            if found.get(name) != value:
                what = "another model" if name == "shapes" else f"a run with {name} {found.get(name)}, not {value}"
                raise InputError(f"{path} is of {what}: give another folder, or resume=False to begin anew")

    # --- steps --------------------------------------------------------------------------------------

    def step(
        self, calls: list[tuple[tree.Call, Any, int]], loss: Callable[[Any, Any], Tensor], clip: float | None
    ) -> None:
        """One step of the optimiser on the mean loss over all samples of all processes."""
        if self.model is None:  # wrapped late, so that what a checkpoint brought is what is wrapped
            self.optimiser: Any = self.accelerator.prepare_optimizer(self.plain_optimiser)
            self.model = self.accelerator.prepare_model(self.module, device_placement=False if self.stays else None)
        seed_all(derive(self.settings.seed, "step", self.steps, processes.rank()))
        mine = sum(size for _, _, size in calls)
        everything = float(processes.total(torch.tensor(float(mine), device=self.device)))
        for number, ((args, kwargs), found, size) in enumerate(calls):
            more = number + 1 < len(calls)
            with self.accelerator.no_sync(self.model) if more else contextlib.nullcontext():
                value = loss(self.model(*args, **kwargs), found)
                if not isinstance(value, Tensor) or value.ndim:
                    shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                    raise InputError(f"the loss must be one number for the batch (a mean over samples), got {shape}")
                # DDP takes the mean over processes: times their number makes it the sum of the weighted losses.
                self.accelerator.backward(value * (size * processes.world() / everything))
            self.loss_sum += torch.stack([value.detach().float() * size, value.new_tensor(float(size))]).to(
                self.loss_sum
            )
        if clip is not None:
            self.accelerator.clip_grad_norm_(self.parameters, clip)
        self.optimiser.step()
        self.optimiser.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.module)
        self.steps += 1
        self.in_epoch += 1

    def schedule(self, value: float | None = None) -> None:
        """Move the scheduler on, unless the step was one that fp16 left out."""
        if self.accelerator.optimizer_step_was_skipped:
            return
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            if value is None:
                raise InputError("ReduceLROnPlateau goes by validation: give schedule='epoch' and validate=...")
            self.scheduler.step(value)
        else:
            self.scheduler.step()

    def finish_epoch(
        self,
        validate: Callable[[nn.Module], float | dict[str, float]] | None,
        schedule: str | None,
        last: tree.Call | None,
        began: float,
        folder: Path | None,
    ) -> None:
        """Validate, note the figures, keep the best, and write the checkpoint."""
        losses, count = processes.total(self.loss_sum).tolist()
        mean = losses / count
        if not math.isfinite(mean):
            raise FitError(_NOT_FINITE)
        metrics = self._validated(validate)
        gates = {}
        if isinstance(self.result, Squeeze) and last is not None:
            gates = {s: found.as_dict() for s, found in watch(self.result, _inputs(last)).items()}
        rate = float(self.plain_optimiser.param_groups[0]["lr"])
        record = Epoch(self.epoch, self.steps, mean, metrics, rate, processes.from_first(gates), 0.0)
        self.records.append(record)
        if self._is_best(record):
            self.best_epoch = self.epoch
            self.best_state = {n: t.detach().to("cpu", copy=True) for n, t in self.result.state_dict().items()}
            if folder is not None:
                with processes.first_only(FitError) as here:
                    if here:
                        checkpoint.write(folder / checkpoint.BEST, {"epoch": self.epoch, "module": self.best_state})
        if schedule == "epoch":
            name = (self.settings.best or "min:value").removeprefix("min:")
            self.schedule(metrics.get(name, next(iter(metrics.values()), None)))
        record.seconds = round(time.perf_counter() - began, 2)
        self.epoch, self.in_epoch = self.epoch + 1, 0
        self.loss_sum.zero_()
        if folder is not None:
            self.save(folder)

    def exhausted(self, patience: int | None) -> bool:
        """Whether the last better epoch is ``patience`` epochs ago."""
        return patience is not None and self.best_epoch is not None and self.epoch - 1 - self.best_epoch >= patience

    def settle(self, folder: Path | None) -> None:
        """Give the module what was asked for: the best weights, the average, or what it has."""
        if self.best_state is not None:
            self.module.load_state_dict(self.best_state)
        elif self.average is not None:
            self.module.load_state_dict(self.average.module.state_dict())

    def _validated(self, validate: Callable[[nn.Module], float | dict[str, float]] | None) -> dict[str, float]:
        if validate is None:
            return {}
        with torch.no_grad(), evaluating(self.result), seeded(derive(self.settings.seed, "validate", self.epoch)):
            found = processes.from_first(validate(self.result))
        return {k: float(v) for k, v in found.items()} if isinstance(found, dict) else {"value": float(found)}

    def _is_best(self, record: Epoch) -> bool:
        if self.settings.best is None:
            return False
        name = self.settings.best.removeprefix("min:")
        if name not in record.metrics:
            raise InputError(
                f"best='{self.settings.best}', but validation gives {', '.join(record.metrics) or 'nothing'}"
            )
        sign = -1 if self.settings.best.startswith("min:") else 1
        known = next((e.metrics[name] for e in self.records if e.epoch == self.best_epoch), None)
        value = record.metrics[name]
        return not math.isnan(value) and (known is None or sign * value > sign * known)

    def _unwrap(self) -> None:
        if self.model is not None:
            self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
            self.model = None


_NOT_FINITE = "the loss is not a number any more: lower the learning rate, clip the gradient (clip=1.0), check the data"


def _inputs(call: tree.Call) -> Any:
    args, kwargs = call
    return kwargs if kwargs else args
