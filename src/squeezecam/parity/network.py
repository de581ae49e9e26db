"""The network of a run: fresh from a seed or trained, with or without a block, the same otherwise."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from squeezecam import tree
from squeezecam.attach import attach
from squeezecam.errors import InputError, ModelError
from squeezecam.models.classifier import give_classes
from squeezecam.module import Apply, Squeeze
from squeezecam.randomness import torch_seeded

Build = Callable[[], nn.Module]


@dataclass(frozen=True)
class Network:
    """Where the networks of a study come from.

    Attributes:
        example: a batch as the model takes it.
        trained: with its weights, for fine-tuning; or None.
        build: gives a network with fresh weights from torch's global generator; None: ``trained`` with every layer
            reset.
        at: where the block goes, as for :func:`squeezecam.attach`.
        reduction: of the block.
        outputs: units that the classification layer is to have; another number gets a new layer. None: as it is.
        output: name of one of several outputs.
        offset: what a new classification layer of one unit begins at: the mean of the labels, for a regression.

    """

    example: Any
    trained: nn.Module | None = None
    build: Build | None = None
    at: Any = None
    reduction: int = 16
    outputs: int | None = None
    output: str | None = None
    offset: float | None = None

    @property
    def device(self) -> torch.device:
        """Where the networks run: where the trained one is; without one, where ``build`` puts them."""
        return torch.device("cpu") if self.trained is None else _device(self.trained, torch.device("cpu"))

    def start(self, start: str, seed: int, apply: Apply) -> Squeeze:
        """A network with its block (identity start) for one run; the block takes nothing from the network's chance.

        Everything drawn depends on ``seed``, so that two calls with different ``apply`` give the same weights.
        """
        with torch_seeded(seed, [self.device]):
            model = self._with_outputs(self._fresh() if start == "scratch" else self._copy())
        with torch_seeded(seed, [self.device]):
            example = tree.to_device(self.example, _device(model, self.device))
            return attach(model, example, at=self.at, apply=apply, reduction=self.reduction)

    def _copy(self) -> nn.Module:
        if self.trained is None:
            raise InputError("fine-tuning needs a trained model; a function that builds fresh ones was given")
        return copy.deepcopy(self.trained)

    def _fresh(self) -> nn.Module:
        if self.build is not None:
            return self.build() if self.trained is None else self.build().to(self.device)
        return reset(self._copy())

    def _with_outputs(self, model: nn.Module) -> nn.Module:
        if self.outputs is None:
            return model
        example = tree.to_device(self.example, _device(model, self.device))
        squeeze = attach(model, example, at=self.at)
        before = {id(p) for p in model.parameters()}
        if not give_classes(squeeze, example, squeeze.output_name(self.output), self.outputs):
            raise ModelError(
                f"the labels need {self.outputs} outputs, and the classification layer of {type(model).__name__} is "
                "none that can be replaced: give a model with that many"
            )
        if self.offset is not None and self.outputs == 1:
            for name, parameter in model.named_parameters():
                if name.endswith("bias") and id(parameter) not in before:
                    nn.init.constant_(parameter, self.offset)
        return model


def _device(model: nn.Module, otherwise: torch.device) -> torch.device:
    return next((p.device for p in model.parameters()), otherwise)


def reset(model: nn.Module) -> nn.Module:
    """Every layer of ``model`` back to fresh weights, in place.

    Raises:
        ModelError: parameters that no layer's ``reset_parameters`` reaches would keep what they learned.

    """
    reached: set[int] = set()
    for module in model.modules():
        renew = getattr(module, "reset_parameters", None)
        if callable(renew):
            renew()
            reached.update(id(t) for t in [*module._parameters.values(), *module._buffers.values()] if t is not None)
            if isinstance(module, nn.MultiheadAttention):
                reached.update(id(p) for p in module.parameters())
        elif isinstance(module, nn.MultiheadAttention):
            module._reset_parameters()
            reached.update(id(p) for p in module._parameters.values() if p is not None)
    left = [name for name, p in model.named_parameters() if id(p) not in reached]
    if left:
        shown = ", ".join(left[:3]) + (f" and {len(left) - 3} more" if len(left) > 3 else "")
        raise ModelError(
            f"cannot train {type(model).__name__} from scratch: nothing says how {shown} begin; give a function that "
            "builds a fresh one (scratch=...), or only fine-tune"
        )
    return model


def same_tensors(first: nn.Module, second: nn.Module) -> bool:
    """Whether two modules hold the same values, to the bit, under the same names."""
    one, two = first.state_dict(), second.state_dict()
    return one.keys() == two.keys() and all(_equal(one[key], two[key]) for key in one)


def _equal(first: Any, second: Any) -> bool:
    return torch.equal(first, second) if isinstance(first, Tensor) else bool(first == second)
