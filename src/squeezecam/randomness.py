"""Seeds that belong to a place in the work, and the random numbers of torch, Python and NumPy, seeded and put back.

What is drawn depends on seed and position alone, never on what was drawn before: work that was interrupted, or that is
divided among processes, goes on with the very numbers that it would have had.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import torch


def derive(*parts: int | str) -> int:
    """A seed in ``0 .. 2**63 - 1`` that belongs to these parts alone."""
    text = ":".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def seed_all(seed: int) -> None:
    """Seed torch (all devices), Python and, where it is in use, NumPy."""
    torch.manual_seed(seed)
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)


@contextlib.contextmanager
def torch_seeded(seed: int, devices: Iterable[torch.device]) -> Iterator[None]:
    """Torch's generators of the CPU and of ``devices`` start from ``seed`` inside, and go on as before afterwards."""
    listed = set(devices)
    cuda = sorted(torch.cuda.current_device() if d.index is None else d.index for d in listed if d.type == "cuda")
    with torch.random.fork_rng(devices=cuda):
        if any(device.type not in ("cpu", "cuda") for device in listed):  # torch keeps no state of theirs to go back to
            torch.manual_seed(seed)
        # Only the generators that are put back afterwards: torch.manual_seed would touch those of every device.
        torch.default_generator.manual_seed(seed)
        for index in cuda:
            torch.cuda.default_generators[index].manual_seed(seed)
        yield


@contextlib.contextmanager
def seeded(seed: int | None = None, *, devices: bool = False) -> Iterator[None]:
    """Everything random starts from ``seed`` inside, and goes on as before afterwards.

    ``devices`` puts accelerators' generators back too, which costs a transfer.
    """
    torch_state = torch.random.get_rng_state()
    python_state = random.getstate()
    numpy: Any = sys.modules.get("numpy")
    numpy_state = numpy.random.get_state() if numpy is not None else None
    cuda = devices and torch.cuda.is_available() and torch.cuda.is_initialized()
    cuda_states = torch.cuda.get_rng_state_all() if cuda else []
    try:
        if seed is not None:
            if devices:
                torch.manual_seed(seed)
            else:  # the CPU's alone: torch.manual_seed would seed the accelerators too
                torch.default_generator.manual_seed(seed)
            random.seed(seed)
            if numpy is not None:
                numpy.random.seed(seed % 2**32)
        yield
    finally:
        torch.random.set_rng_state(torch_state)
        random.setstate(python_state)
        if numpy_state is not None:
            numpy.random.set_state(numpy_state)
        if cuda:
            torch.cuda.set_rng_state_all(cuda_states)
