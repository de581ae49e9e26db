"""What a model answers on a whole loader, the work divided among the processes, the result the same in all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from squeezecam import processes, tree
from squeezecam.errors import InputError
from squeezecam.fit.batches import Pick
from squeezecam.module import Squeeze
from squeezecam.tap import evaluating
from squeezecam.training.batches import call_and_labels
from squeezecam.training.data import Epochs


def predictions(
    module: nn.Module,
    loader: Iterable[Any],
    *,
    inputs: Pick | None = None,
    labels: Pick | None = None,
    select: Callable[[Any], Tensor] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Outputs ``(M, ...)`` and labels ``(M, ...)`` for all of ``loader``, on the CPU, in the loader's order.

    In evaluation mode and without gradients. Each of several processes runs its part, and all of them get everything,
    so that a metric of the whole set (average precision, say) is computed on the whole set.

    Args:
        module: a model, or a :class:`~squeezecam.Squeeze`.
        loader: as for :func:`~squeezecam.training.train`.
        inputs, labels: say what in a batch is input and what is label; ``(x, y)`` is understood.
        select: the tensor out of what the module returns; None: a tensor as it is, the default output of a Squeeze.

    Raises:
        InputError: no batches, or an output that is no tensor where ``select`` is not given.

    """
    world, rank = processes.world(), processes.rank()
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    mine: list[tuple[Tensor, Tensor | None]] = []
    with torch.no_grad(), evaluating(module):
        for step in Epochs(loader, world=world, rank=rank, accumulate=1, seed=0).steps(0):
            for batch, counts in step:
                if counts:
                    (args, kwargs), found = call_and_labels(module, batch, inputs, labels, device)
                    output = _select(module, module(*args, **kwargs), select)
                    mine.append((output.detach().cpu(), None if found is None else torch.as_tensor(found).cpu()))
    parts = processes.everyone(mine)
    ordered = [part[turn] for turn in range(max(map(len, parts))) for part in parts if turn < len(part)]
    if not ordered:
        raise InputError("there was not a single batch to predict on")
    known = [found for _, found in ordered if found is not None]
    return torch.cat([output for output, _ in ordered]), torch.cat(known) if len(known) == len(ordered) else None


def _select(module: nn.Module, result: Any, select: Callable[[Any], Tensor] | None) -> Tensor:
    if select is not None:
        return select(result)
    if isinstance(module, Squeeze):
        return module.select(result)
    found = tree.leaves(result)
    if len(found) != 1:
        raise InputError(
            f"the module returns {type(result).__name__} with {len(found)} tensors: say which one with "
            "select=lambda output: ..."
        )
    return found[0][1]
