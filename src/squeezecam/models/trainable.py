"""What a model needs to be trained as it is, said before the first step in place of an error from inside of one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from squeezecam.errors import ModelError

COARSE = (torch.float16, torch.bfloat16)
"""Formats whose steps are wider than those of training: an update of a thousandth is rounded away, and Adam's epsilon
is 0 in the first of them.
"""


def refuse_untrainable(model: nn.Module, name: str) -> None:
    """Say no to a model that has nothing to train, or weights that cannot take small steps.

    Raises:
        ModelError: no parameter wants a gradient, or one that does is in half precision.
    """
    wanted = [p for p in model.parameters() if p.requires_grad]
    if not wanted:
        raise ModelError(
            f"no parameter of {name} wants a gradient, so that there is nothing to train and nothing to compare: set "
            "requires_grad_(True) on those that are to learn"
        )
    coarse = next((p.dtype for p in wanted if p.dtype in COARSE), None)
    if coarse is not None:
        raise ModelError(
            f"{name} has weights in {str(coarse).removeprefix('torch.')}, which are too coarse to be trained: let the "
            "factory return model.float()"
        )


def the_output(result: Any, name: str) -> Tensor:
    """What a model with one output returned, in training.

    Raises:
        ModelError: it returned something else: several outputs, or auxiliary ones beside its own in training mode.
    """
    if not isinstance(result, Tensor):
        raise ModelError(
            f"{name} returns {type(result).__name__} in training mode, and one tensor of scores is expected: write a "
            "factory that returns the model without its other outputs, such as auxiliary classifiers"
        )
    return result
