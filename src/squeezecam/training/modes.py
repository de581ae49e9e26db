"""Training and evaluation flags while a training runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from torch import nn


@contextlib.contextmanager
def train_mode(module: nn.Module) -> Iterator[Callable[[], None]]:
    """Yields what puts ``module`` into training mode, frozen parts left in evaluation mode; flags are put back.

    A part is frozen when it has parameters and none of them wants a gradient: its dropout and its running statistics
    then rest with its weights.
    """
    flags = [(part, part.training) for part in module.modules()]

    def switch() -> None:
        module.train()
        for part in module.modules():
            wanted = [p.requires_grad for p in part.parameters()]
            if wanted and not any(wanted):
                part.eval()

    try:
        yield switch
    finally:
        for part, training in flags:
            part.training = training
