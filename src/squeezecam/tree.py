"""Tensors inside whatever a module takes or returns: tuples, lists, dicts, dataclasses, and nests of them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from squeezecam.errors import InputError

Path = tuple[str | int, ...]
Call = tuple[tuple[Any, ...], dict[str, Any]]


def _children(value: Any) -> list[tuple[str | int, Any]]:
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, (tuple, list)):
        return list(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return []


def leaves(value: Any, path: Path = ()) -> list[tuple[Path, Tensor]]:
    """All tensors in ``value`` with the keys and indices that lead to them, in order."""
    if isinstance(value, Tensor):
        return [(path, value)]
    return [leaf for key, child in _children(value) for leaf in leaves(child, (*path, key))]


def constants(value: Any, path: Path = ()) -> list[tuple[Path, Any]]:
    """All numbers, flags, words and gaps (None) in ``value`` with what leads to them, in order: what a call says beside
    its tensors.
    """
    if value is None or isinstance(value, (bool, int, float, complex, str)):
        return [(path, value)]
    return [found for key, child in _children(value) for found in constants(child, (*path, key))]


def get(value: Any, path: Path) -> Any:
    """The part of ``value`` at ``path``; raises KeyError, IndexError or AttributeError where there is none."""
    for key in path:
        indexed: Any = value
        value = indexed[key] if isinstance(value, (Mapping, tuple, list)) else getattr(value, str(key))
    return value


def replace(value: Any, path: Path, new: Any) -> Any:
    """A shallow copy of ``value`` with the part at ``path`` replaced; the original is left alone."""
    if not path:
        return new
    key, rest = path[0], path[1:]
    if isinstance(value, tuple):
        items = list(value)
        items[int(key)] = replace(items[int(key)], rest, new)
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, list):
        copied = list(value)
        copied[int(key)] = replace(copied[int(key)], rest, new)
        return copied
    if isinstance(value, Mapping):
        changed: Any = {name: (replace(child, rest, new) if name == key else child) for name, child in value.items()}
        kind: Any = type(value)
        if dataclasses.is_dataclass(value):
            return kind(**changed)
        return kind(value.default_factory, changed) if isinstance(value, defaultdict) else kind(changed)
    return dataclasses.replace(value, **{str(key): replace(getattr(value, str(key)), rest, new)})


def repeated(call: Call, paths: Iterable[Path], count: int) -> Call:
    """A call of one sample with the tensors at ``paths``, those that have its axis, there ``count`` times."""
    for path in paths:
        tensor = get(call, path)
        if tensor.ndim and tensor.shape[0] == 1:
            call = replace(call, path, tensor.expand(count, *tensor.shape[1:]))
    return call


def replace_tensor(value: Any, old: Tensor, new: Tensor) -> Any:
    """``value`` with ``new`` wherever it holds the very tensor ``old``: keys and values of an attention, say."""
    for path, leaf in leaves(value):
        if leaf is old:
            value = replace(value, path, new)
    return value


def distinct(value: Any) -> Any:
    """``value`` with a copy wherever a tensor stands that stood before: what is followed by identity stays apart."""
    known: set[int] = set()
    for path, leaf in leaves(value):
        if id(leaf) in known:
            value = replace(value, path, leaf.clone())
        known.add(id(leaf))
    return value


def show(path: Path) -> str:
    """A path as a user would write it: ``gender``, ``0``, ``logits.0``; ``output`` for the whole."""
    return ".".join(str(key) for key in path) or "output"


def as_call(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a model takes, as ``(args, kwargs)``: a tensor, a tuple of positional or a dict of keyword arguments."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, (tuple, list)):
        return tuple(inputs), {}
    return (inputs,), {}


def batch_size(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Length of the first axis of the first tensor among the arguments, or 1."""
    found = leaves((args, kwargs))
    return found[0][1].shape[0] if found and found[0][1].ndim else 1  # not int(): it may be symbolic in an export


@contextlib.contextmanager
def on_one_device(module: nn.Module, inputs: Any) -> Iterator[None]:
    """An error inside is one that names the devices, where no input lies on any device of ``module``.

    Looked at once something has failed, because a model may well move its inputs itself.
    """
    try:
        yield
    except RuntimeError as error:
        own = {tensor.device for tensor in (*module.parameters(), *module.buffers())}
        given = {tensor.device for _, tensor in leaves(inputs)}
        if not own or not given or own & given:
            raise
        model, batch = (", ".join(sorted(map(str, devices))) for devices in (own, given))
        raise InputError(f"the model is on {model}, its inputs are on {batch}: move them, x.to('{model}')") from error


def to_device(value: Any, device: torch.device) -> Any:
    """``value`` with every tensor moved to ``device``."""
    for path, tensor in leaves(value):
        if tensor.device != device:
            value = replace(value, path, tensor.to(device))
    return value
