"""An Accelerator for the length of a training, without leaving its global state behind."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from squeezecam import processes
from squeezecam.errors import InputError, ModelError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from squeezecam.training.run import Settings

PRECISIONS = ("no", "bf16", "fp16")


@contextlib.contextmanager
def accelerating(settings: Settings, given: Accelerator | None, device: torch.device) -> Iterator[Accelerator]:
    """The Accelerator that was given, or one of these settings: for ``device`` where there is one process, else for
    what the launcher gave to this one.

    Accelerate keeps precision and device in global state, so a second training in the same program could not choose
    another: that state is put back afterwards. The process group stays.

    Raises:
        ModelError: accelerate is not installed.
        InputError: an unknown precision, one that this device does not have, or an Accelerator made before the
            processes joined.

    """
    if given is not None:
        yield given
        return
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState, GradientState, PartialState
        from accelerate.utils import DistributedDataParallelKwargs
    except ImportError:
        raise ModelError("training needs the package accelerate: pip install 'squeezecam[train]'") from None
    precision = settings.precision or os.environ.get("ACCELERATE_MIXED_PRECISION") or "no"
    if precision not in PRECISIONS:
        raise InputError(f"unknown precision '{precision}'; expected one of {', '.join(PRECISIONS)}")
    processes.join()
    alone = processes.world() == 1
    on_cpu = device.type == "cpu" if alone else _only_cpu()
    if precision == "fp16" and on_cpu:  # accelerate would train in float32 and not say so
        raise InputError("precision 'fp16' needs an accelerator, and this is trained on the CPU: try 'bf16'")
    with _own_state(AcceleratorState, GradientState, *([PartialState] if alone else [])):
        try:
            accelerator = Accelerator(
                mixed_precision=precision,
                cpu=on_cpu,
                kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=settings.find_unused)],
            )
        except ValueError as error:
            raise InputError(f"precision '{precision}' cannot be had here: {error}") from None
        if accelerator.num_processes != processes.world():
            raise InputError(
                f"accelerate was set up for {accelerator.num_processes} process(es) before, but there are "
                f"{processes.world()}: call squeezecam.processes.join() first"
            )
        yield accelerator


@contextlib.contextmanager
def _own_state(*kinds: Any) -> Iterator[None]:
    """The shared state of these classes empty inside, and what it was afterwards."""
    before = [dict(kind._shared_state) for kind in kinds]
    for kind in kinds:
        kind._shared_state.clear()
    try:
        yield
    finally:
        for kind, kept in zip(kinds, before, strict=True):
            kind._shared_state.clear()
            kind._shared_state.update(kept)


def _only_cpu() -> bool:
    return not torch.accelerator.is_available() if hasattr(torch, "accelerator") else not torch.cuda.is_available()
