"""What is wrong with inputs that a model failed on, in words, by what the example of ``attach`` looked like.

Looked at once something has failed, so that it costs nothing before.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from squeezecam import tree
from squeezecam.errors import InputError, SiteError, SqueezeError

if TYPE_CHECKING:
    from squeezecam.module import Squeeze


@contextlib.contextmanager
def told(squeeze: Squeeze, inputs: Any, batch: Any = None) -> Iterator[None]:
    """An error inside is one that says what is wrong with ``inputs``, where something is; any other goes through.

    Args:
        squeeze: whose model is run inside.
        inputs: what it is run on, as given by the caller.
        batch: of a fit, what ``inputs`` were taken from.

    Raises:
        InputError: the inputs differ from the example in form: no tensors, other arguments, other axes, another dtype.

    """
    try:
        yield
    except Exception as error:
        if isinstance(error, torch.cuda.OutOfMemoryError) or (
            isinstance(error, SqueezeError) and not isinstance(error, SiteError)
        ):
            raise
        words = _wrong(squeeze, inputs)
        if words is None:
            raise
        hint = "" if batch is None else f"; {in_a_fit(batch)}"
        raise InputError(words + hint) from error


def check_batches(squeeze: Squeeze, batches: Any) -> None:
    """Refuse what is no iterable of batches, before anything is run.

    Raises:
        InputError: nothing that can be gone through, a text, a dict, or one tensor or array.

    """
    axes = len(next(iter(squeeze.example_leaves.values()), ((), None))[0])
    single = isinstance(batches, Tensor) and batches.ndim <= max(axes, 1)  # one axis more: a stack of batches
    if single or isinstance(batches, (str, bytes, Mapping)) or _is_array(batches) or not _iterable(batches):
        raise InputError(
            f"batches must be an iterable of batches, a list or a DataLoader; got {named(batches)}: give [x] or "
            "[(x, y)] for a single batch"
        )


def in_a_fit(batch: Any) -> str:
    """What was taken for a batch of a fit, and how to say what of it is input."""
    return (
        f"the batch is {named(batch)}, expected are batches such as x or (x, y), of a DataLoader or in a list; "
        "inputs=lambda batch: ... says what of a batch is input"
    )


def named(given: Any) -> str:
    """What ``given`` is, in words: kind, shape, keys."""
    if isinstance(given, Tensor):
        return f"a tensor of shape {tuple(given.shape)}"
    if _is_array(given):
        return f"a NumPy array of shape {tuple(given.shape)}"
    if isinstance(given, Mapping):
        return f"a dict with the keys {', '.join(map(str, given)) or '(none)'}"
    if isinstance(given, (tuple, list)):
        kinds = list(dict.fromkeys(named(item) for item in given))
        what = f"each {kinds[0]}" if len(kinds) == 1 else ", ".join(kinds[:4])
        return f"a {type(given).__name__} of {len(given)}" + (f" ({what})" if kinds else "")
    return "None" if given is None else f"an object of type {type(given).__name__}"


def _wrong(squeeze: Squeeze, inputs: Any) -> str | None:
    args, kwargs = tree.as_call(inputs)
    if not tree.leaves((args, kwargs)):
        return f"the model takes tensors, {_as_before(squeeze)}; got {named(inputs)}: {_to_tensor(inputs)}"
    return _other_arguments(squeeze, inputs, args, kwargs) or _other_form(squeeze, args, kwargs)


def _to_tensor(inputs: Any) -> str:
    first = inputs[0] if isinstance(inputs, (tuple, list)) and inputs else inputs
    if _is_array(first):
        return "try torch.from_numpy(x)" if first is inputs else "try torch.from_numpy(numpy.stack(x))"
    if type(first).__module__.startswith("PIL"):
        return "try preprocess(picture)[None], with the model's own preprocessing and a batch axis"
    return "give what the model takes"


def _other_arguments(squeeze: Squeeze, inputs: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """Other arguments than ``forward`` takes: their number, or their names."""
    found = _parameters(squeeze.model)
    if found is None:
        return None
    names = [p.name for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    needed = [p.name for p in found if p.name in names and p.default is p.empty]
    takes = f"the model's forward takes {', '.join(names) or 'nothing'}"
    if kwargs:
        free = any(p.kind == p.VAR_KEYWORD for p in found)
        if all(name in kwargs for name in needed) and (free or all(key in names for key in kwargs)):
            return None
        return f"{takes}; got {named(inputs)}: name the keys as these, or give the tensor itself"
    places = [p for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    free = any(p.kind == p.VAR_POSITIONAL for p in found)
    if len(args) > len(places) and not free:
        advice = "give one tensor with a batch axis"
        if len(places) == 1 and all(isinstance(one, Tensor) for one in args):
            axes = next((len(shape) for shape, _ in squeeze.example_leaves.values()), 0)
            advice += f": torch.{'cat' if args[0].ndim == axes else 'stack'}(x)"
        return f"{takes}; got {named(inputs)}, which stands for as many arguments: {advice}"
    if len(args) < sum(p.default is p.empty for p in places):
        return f"{takes}; got {named(inputs)}: give a tuple ({', '.join(needed)})"
    return None


def _other_form(squeeze: Squeeze, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """Tensors with another number of axes than those of the example, or in another number format."""
    for path, tensor in tree.leaves((args, kwargs)):
        if path not in squeeze.example_leaves:
            continue
        shape, dtype = squeeze.example_leaves[path]
        said = f"the input has shape {tuple(tensor.shape)}, that of the example was {shape}"
        if tensor.ndim == len(shape) - 1:
            return f"{said}: an axis is missing, for a single sample the batch axis: try x[None]"
        if tensor.ndim != len(shape):
            return f"{said}: expected are {len(shape)} axes, the batch first"
        if tensor.dtype != dtype:
            return f"the input is {tensor.dtype}, that of the example was {dtype}: try x.to({dtype})"
    return None


def _as_before(squeeze: Squeeze) -> str:
    shapes = [str(shape) for shape, _ in squeeze.example_leaves.values()]
    return f"the example had shape {', '.join(shapes)}" if shapes else "with a batch axis"


def _parameters(model: nn.Module) -> list[inspect.Parameter] | None:
    try:
        return list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return None


def _is_array(given: Any) -> bool:
    return type(given).__module__ == "numpy" and hasattr(given, "shape")


def _iterable(given: Any) -> bool:
    return hasattr(given, "__iter__") or hasattr(given, "__getitem__")
