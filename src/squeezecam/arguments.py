"""Arguments of the model in a call: where they stand, for what was given by place in the example may come by name, or
the other way round; and which have a row for each sample.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from squeezecam import tree

if TYPE_CHECKING:
    from squeezecam.module import Squeeze


def by_name(model: nn.Module, path: tree.Path) -> tree.Path:
    """A path in ``(args, kwargs)`` as it is where the argument comes by name."""
    kind, key, *rest = path
    names = list(_parameters(model))
    return (1, names[int(key)], *rest) if kind == 0 and int(key) < len(names) else path


def where_given(model: nn.Module, path: tree.Path, call: tree.Call) -> tree.Path:
    """The path in ``call`` of the tensor that is at ``path`` in the example; ``path`` itself where there is none."""
    kind, key = path[:2]
    if key in call[1] if kind == 1 else int(key) < len(call[0]):  # given as in the example: nothing to look up
        return path
    given = {by_name(model, found): found for found, _ in tree.leaves(call)}
    return given.get(by_name(model, path), path)


def is_shared(squeeze: Squeeze, path: tree.Path, tensor: Tensor) -> bool:
    """Whether the tensor at ``path`` of a call is the same for all samples, a mask or a table say, although its first
    axis may be as long as the batch: in the example it was as long as here, and the batch was not.
    """
    known = {by_name(squeeze.model, place): shape for place, (shape, _) in squeeze.example_leaves.items()}
    shape = known.get(by_name(squeeze.model, path), ())
    return not tensor.ndim or (bool(shape) and squeeze.example_batch != shape[0] == tensor.shape[0])


def sample(squeeze: Squeeze, inputs: Any, index: int, count: int) -> Any:
    """Sample ``index`` of ``count`` of what the model takes, the batch axis kept; what all samples share as it is."""
    call = tree.as_call(inputs)
    for path, tensor in tree.leaves(call):
        if not is_shared(squeeze, path, tensor) and len(tensor) == count:
            call = tree.replace(call, path, tensor[index : index + 1])
    args, kwargs = call
    return kwargs if isinstance(inputs, Mapping) else args[0] if isinstance(inputs, Tensor) else args


def own_beside(squeeze: Squeeze, call: tree.Call, path: tree.Path) -> list[tree.Path]:
    """Where in ``call`` the tensors with a row for each sample are, but for the one at ``path``."""
    return [found for found, one in tree.leaves(call) if found != path and not is_shared(squeeze, found, one)]


def left_out(model: nn.Module, call: tree.Call) -> list[str]:
    """Names of arguments that ``model`` cannot do without, and that are not in ``call``."""
    (args, kwargs), parameters = call, _parameters(model)
    given = {*list(parameters)[: len(args)], *kwargs}
    free = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and parameter.kind not in free and name not in given
    ]


def _parameters(model: nn.Module) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(model.forward).parameters
    except (TypeError, ValueError):  # of no function of Python's
        return {}
