"""From a batch of a loader to a call of the module and its labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from squeezecam import tree
from squeezecam.fit.batches import Pick, split
from squeezecam.module import Squeeze


def call_and_labels(
    module: nn.Module, batch: Any, inputs: Pick | None, labels: Pick | None, device: torch.device
) -> tuple[tree.Call, Any]:
    """``((args, kwargs), labels)`` of a batch, on ``device``.

    Understood without help: a tensor; ``(x, y)``; a tuple of several inputs with the labels at its end; a dict with
    labels under one of the usual names.

    Raises:
        InputError: none of these, and no ``inputs`` function was given.

    """
    several = isinstance(batch, (tuple, list)) and len(batch) > 1
    positional = module.positional if isinstance(module, Squeeze) else len(batch) - 1 if several else 1
    given, found = split(batch, positional, inputs, labels)
    if isinstance(found, (list, tuple)) and not tree.leaves(found):
        found = torch.as_tensor(found)
    return tree.as_call(tree.to_device(given, device)), tree.to_device(found, device)


def samples(call: tree.Call, labels: Any) -> int:
    """How many samples a batch has: the length of the first tensor of the call."""
    args, kwargs = call
    return int(tree.batch_size(args, kwargs)) if tree.leaves((args, kwargs)) else _length(labels)


def _length(labels: Any) -> int:
    return len(labels) if isinstance(labels, Tensor) and labels.ndim else 1
