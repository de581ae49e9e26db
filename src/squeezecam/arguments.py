"""Where an argument of the model stands in a call: what was given by place in the example may come by name, or the
other way round.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from torch import nn

from squeezecam import tree


def by_name(model: nn.Module, path: tree.Path) -> tree.Path:
    """A path in ``(args, kwargs)`` as it is where the argument comes by name."""
    kind, key, *rest = path
    names = list(_parameters(model))
    return (1, names[int(key)], *rest) if kind == 0 and int(key) < len(names) else path


def where_given(model: nn.Module, path: tree.Path, call: tree.Call) -> tree.Path:
    """The path in ``call`` of the tensor that is at ``path`` in the example; ``path`` itself where there is none."""
    given = {by_name(model, found): found for found, _ in tree.leaves(call)}
    return given.get(by_name(model, path), path)


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
