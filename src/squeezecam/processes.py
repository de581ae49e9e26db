"""Several processes working on one thing, as ``torchrun`` and ``accelerate launch`` start them; alone, nothing changes.

Thin on ``torch.distributed``: who am I, wait for the others, sum, and hand values round.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

PATIENCE = timedelta(hours=6)
"""How long a process waits for the others: one may fit or validate alone meanwhile."""


def join() -> None:
    """Join the group that the launcher describes in the environment (``RANK``, ``WORLD_SIZE``), unless that is done.

    NCCL where there are CUDA devices, each process on the one of its local rank; gloo otherwise. Without a launcher,
    or with a world of one, nothing happens.
    """
    if not dist.is_available() or dist.is_initialized():
        return
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "RANK" not in os.environ:
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("cpu:gloo,cuda:nccl", timeout=PATIENCE)
    else:
        dist.init_process_group("gloo", timeout=PATIENCE)


def leave() -> None:
    """Leave the group, where there is one: the last thing that a command does."""
    if _together():
        dist.destroy_process_group()


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if _together() else 1


def rank() -> int:
    """Which of them this is; 0 is the one that writes and speaks."""
    return dist.get_rank() if _together() else 0


def wait() -> None:
    """Go on when all processes have come here."""
    if world() > 1:
        dist.barrier()


def total(values: Tensor) -> Tensor:
    """The sum over all processes, elementwise; ``values`` itself is left alone."""
    if world() == 1:
        return values
    summed = values.detach().clone()
    dist.all_reduce(summed)
    return summed


def everyone(value: Any) -> list[Any]:
    """The values of all processes, in the order of their ranks; anything that pickles, between our own processes."""
    if world() == 1:
        return [value]
    found: list[Any] = [None] * world()
    dist.all_gather_object(found, value)
    return found


def at_first(value: Any) -> list[Any]:
    """The values of all processes in rank 0; an empty list in the others."""
    if world() == 1:
        return [value]
    found: list[Any] | None = [None] * world() if rank() == 0 else None
    dist.gather_object(value, found, dst=0)
    return found or []


def from_first(value: Any) -> Any:
    """The value of rank 0."""
    if world() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


@contextlib.contextmanager
def first_only(error: type[Exception] = RuntimeError) -> Iterator[bool]:
    """Yields whether this is rank 0, which does the work inside; the others wait, and fail with it where it fails.

    For rank 0 the block is as in one process (:func:`world` is 1): whatever divides its work elsewhere does all of it
    here, and nobody waits for processes that are not coming.
    """
    if world() == 1:
        yield True
        return
    here = rank() == 0
    failure: str | None = None
    token = _alone.set(here)
    try:
        yield here
    except BaseException as problem:
        failure = f"{type(problem).__name__}: {problem}"
        raise
    finally:
        _alone.reset(token)
        if (found := from_first(failure)) is not None and not here:
            raise error(f"the first process failed: {found}")


_alone: ContextVar[bool] = ContextVar("alone", default=False)


def _together() -> bool:
    return dist.is_available() and dist.is_initialized() and not _alone.get()
