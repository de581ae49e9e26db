"""Another number of classes for a model: a fresh classification layer in place of its own, tried out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from squeezecam import tree
from squeezecam.models.weights import classes_in, fit_names, read_state_dict
from squeezecam.module import Squeeze
from squeezecam.tap import evaluating


def give_classes(squeeze: Squeeze, example: Any, output: str, classes: int) -> bool:
    """Whether ``output`` of the model has ``classes`` values, if need be after a fresh layer was put in, in place.

    What counts is what comes out. A model that gives so many already stays as it is, whatever its last layers are. Of
    another one the layer that the output was traced back to is replaced; where the output then has another length all
    the same (the layer stands further in front, or something is computed from it), the old layer is put back.

    Args:
        squeeze: attached to the model.
        example: a batch as the model takes it.
        output: name of the output.
        classes: wanted values of each sample.
    """
    if _length(squeeze, example, output) == classes:
        return True
    name = (squeeze.classifiers[output] or "").rpartition(".")[0]
    modules = dict(squeeze.model.named_modules())
    layer = modules.get(name)
    fresh = None if layer is None else _fresh(layer, classes)
    if layer is None or fresh is None or not name:
        return False
    parent, _, own = name.rpartition(".")
    setattr(modules[parent], own, fresh)
    try:
        fits = _length(squeeze, example, output) == classes
    except RuntimeError:  # the layers behind it take no other number
        fits = False
    if not fits:
        setattr(modules[parent], own, layer)
    return fits


def take_classes(model: nn.Module, path: Path) -> int | None:
    """Give ``model`` the number of classes that a weights file has, in place, where that is all in which they differ.

    Such a file is what `squeezecam train` leaves of a model whose classification layer it replaced.

    Returns:
        The number of classes; None where the file agrees with the model or differs in other ways, and nothing is done.

    Raises:
        ModelError: as `squeezecam.models.weights.read_state_dict`.
    """
    classes = classes_in(path, model)
    if classes is None:
        return None
    state, _ = fit_names(read_state_dict(path), model)
    own, modules = model.state_dict(), dict(model.named_modules())
    others = [name for name in state if name in own and state[name].shape != own[name].shape]
    places = dict.fromkeys(name.rpartition(".")[0] for name in others)
    fresh = {place: _fresh(modules[place], classes) if place in modules else None for place in places}
    if "" in fresh or None in fresh.values():
        return None
    for place, layer in fresh.items():
        parent, _, name = place.rpartition(".")
        setattr(modules[parent], name, layer)
    return classes


def _length(squeeze: Squeeze, example: Any, output: str) -> int | None:
    """Values of a sample, or of each of its frames; None for a map of them."""
    args, kwargs = tree.as_call(example)
    with torch.no_grad(), evaluating(squeeze):
        values: Tensor = squeeze.select(squeeze.model(*args, **kwargs), output)
    if values.ndim > 3:
        return None
    return values.shape[-1] if values.ndim > 1 else 1


def _fresh(layer: nn.Module, classes: int) -> nn.Module | None:
    """A layer like this one for so many classes; None where it is neither linear nor a convolution, or its weights are
    computed from others (weight and spectral norm), which a plain layer would silently do without.
    """
    own = dict(layer.named_parameters(recurse=False))
    if "weight" not in own:
        return None
    made: nn.Module
    if isinstance(layer, nn.Linear):
        made = nn.Linear(layer.in_features, classes, bias="bias" in own)
    elif isinstance(layer, nn.Conv2d) and layer.groups == 1:
        made = nn.Conv2d(
            layer.in_channels, classes, layer.kernel_size, layer.stride, layer.padding, layer.dilation,  # type: ignore[arg-type]
            bias="bias" in own, padding_mode=layer.padding_mode,
        )  # fmt: skip
    else:
        return None
    return made.to(own["weight"]).train(layer.training)
