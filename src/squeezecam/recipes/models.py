"""A model for other classes than those that it was made for: a fresh classification layer on the same backbone."""

from __future__ import annotations

from dataclasses import replace

import torch

from squeezecam.attach import attach
from squeezecam.commands.pictures import example_of
from squeezecam.errors import ModelError
from squeezecam.models.classifier import give_classes
from squeezecam.models.loaded import LoadedModel


def with_classes(loaded: LoadedModel, labels: tuple[str, ...], *, seed: int = 0) -> LoadedModel:
    """``loaded`` with a classification layer of its own for ``labels``; the model is changed in place.

    The layer is the last one before the output, linear or a convolution, and what comes out is looked at: see
    `squeezecam.models.classifier.give_classes`. A model that already has as many outputs keeps its layer.

    Args:
        loaded: any model of pictures with one output.
        labels: names of the K classes.
        seed: of the new layer's weights.

    Raises:
        ModelError: the model's classification layer is of no known form.
    """
    example = example_of(loaded)
    squeeze = attach(loaded.model, example)
    torch.manual_seed(seed)
    if not give_classes(squeeze, example, squeeze.default_output, len(labels)):
        raise ModelError(
            f"{loaded.name} cannot be given {len(labels)} classes: its classification layer is of no known form; "
            f"write a factory that returns the model with {len(labels)} outputs, as file.py:factory"
        )
    return replace(loaded, labels=labels)
