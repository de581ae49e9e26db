"""A model for other classes than those that it was made for: a fresh classification layer on the same backbone."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from squeezecam.attach import attach
from squeezecam.commands.pictures import example_of
from squeezecam.errors import ModelError
from squeezecam.models.loaded import LoadedModel


def with_classes(loaded: LoadedModel, labels: tuple[str, ...], *, seed: int = 0) -> LoadedModel:
    """``loaded`` with a classification layer of its own for ``labels``; the model is changed in place.

    The layer is the one that the class map is made of: found and verified by `squeezecam.attach`, linear or a 1x1
    convolution. A model that already has as many outputs keeps its layer.

    Args:
        loaded: any model of pictures with one output.
        labels: names of the K classes.
        seed: of the new layer's weights.

    Raises:
        ModelError: the model's classification layer is of no known form.
    """
    squeeze = attach(loaded.model, example_of(loaded))
    head = squeeze.head()
    if head is None:
        raise ModelError(
            f"{loaded.name} cannot be given {len(labels)} classes: its classification layer is of no known form; "
            f"write a factory that returns the model with {len(labels)} outputs, as file.py:factory"
        )
    name = head.weight.removeprefix("model.").removesuffix(".weight")
    layer = loaded.model.get_submodule(name)
    torch.manual_seed(seed)
    fresh: nn.Module
    if isinstance(layer, nn.Linear):
        if layer.out_features == len(labels):
            return replace(loaded, labels=labels)
        fresh = nn.Linear(layer.in_features, len(labels), bias=layer.bias is not None)
    elif isinstance(layer, nn.Conv2d):
        if layer.out_channels == len(labels):
            return replace(loaded, labels=labels)
        fresh = nn.Conv2d(layer.in_channels, len(labels), 1, bias=layer.bias is not None)
    else:
        raise ModelError(f"{loaded.name} cannot be given {len(labels)} classes: '{name}' is a {type(layer).__name__}")
    parent, _, own = name.rpartition(".")
    setattr(loaded.model.get_submodule(parent), own, fresh.to(next(layer.parameters())))
    return replace(loaded, labels=labels)
