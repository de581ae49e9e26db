"""What the command line feeds to a model: one batch of pictures, in the number format of the model's weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from squeezecam.errors import ModelError
from squeezecam.models.loaded import LoadedModel, as_is


@dataclass(frozen=True)
class InOwnDtype:
    """``make_inputs`` on pictures in a floating-point format that the model computes in.

    A preprocessing gives float32, or float64 where it went through NumPy, whatever the model's weights are.

    Attributes:
        make_inputs: a batch (N, C, h, w) to what the model takes.
        dtypes: floating-point formats of the model's parameters, the first one's in front; a batch in one of them, or
            of integers, stays as it is.
    """

    make_inputs: Callable[[Tensor], Any]
    dtypes: tuple[torch.dtype, ...]

    def __call__(self, batch: Tensor) -> Any:
        """The batch as the model takes it."""
        if batch.is_floating_point() and self.dtypes and batch.dtype not in self.dtypes:
            batch = batch.to(self.dtypes[0])
        return self.make_inputs(batch)


def feeding(loaded: LoadedModel) -> Callable[[Tensor], Any]:
    """How this model is fed with pictures of any floating-point format.

    Raises:
        ModelError: it needs more than a batch of pictures.
    """
    if loaded.make_inputs is as_is:
        needed = _required(loaded.model)
        if len(needed) > 1:
            raise ModelError(
                f"{loaded.name} takes {len(needed)} inputs ({', '.join(needed)}), and the command line feeds pictures "
                f"only: use it from Python, squeezecam.attach(model, ({', '.join(needed)})), or give a module around "
                "it that takes the pictures and adds the rest"
            )
    floating = (p.dtype for p in loaded.model.parameters() if p.is_floating_point())
    return InOwnDtype(loaded.make_inputs, tuple(dict.fromkeys(floating)))


def _required(model: nn.Module) -> list[str]:
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return []
    free = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is inspect.Parameter.empty and p.kind not in free]
