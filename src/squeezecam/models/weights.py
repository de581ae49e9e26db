"""Weights files: safetensors, or a state dict of tensors; nothing in them is ever unpickled into objects."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from squeezecam.errors import ModelError

_NESTED = ("state_dict", "model_state_dict", "model", "net")
_CONVERT = "torch.save(model.state_dict(), 'weights.pt')"


def load_weights(model: nn.Module, path: Path) -> str:
    """Load all of a weights file into ``model``, or nothing of it.

    Understood are safetensors, and what ``torch.load(weights_only=True)`` reads: a state dict, also one nested under
    ``state_dict``, ``model_state_dict``, ``model`` or ``net``. A prefix that all names share (``module.``,
    ``_orig_mod.``, Lightning's ``model.``) is taken off where the model has no such names. Names and shapes must then
    agree one to one; only the batch counters of BatchNorm (``num_batches_tracked``), which evaluation does not use, and
    tensors tied to one that is present may be missing. Values are cast to the model's dtypes.

    Args:
        model: changed in place; unchanged when an error is raised.
        path: the file.

    Returns:
        What was loaded, in words: ``"62 tensors from weights.pt (prefix 'module.' removed)"``.

    Raises:
        ModelError: no such file, a file that needs unpickling, or names or shapes that do not agree.
    """
    path = Path(path)
    state, prefix = fit_names(read_state_dict(path), model)
    own = model.state_dict()
    tensors = {name: value for name, value in own.items() if isinstance(value, Tensor)}
    given = len(state)
    for name in set(tensors) - set(state):
        if name.rpartition(".")[2] == "num_batches_tracked":
            state[name] = tensors[name]
        else:
            tied = next((other for other in state if other in tensors and _same(tensors[other], tensors[name])), None)
            if tied is not None:
                state[name] = state[tied]
    problems = [
        _problem("missing", [name for name in tensors if name not in state]),
        _problem("unexpected", [name for name in state if name not in own]),
        _problem(
            "of another shape",
            [
                f"{name} {tuple(state[name].shape)} for {tuple(value.shape)}"
                for name, value in tensors.items()
                if name in state and state[name].shape != value.shape
            ],
        ),
    ]
    if any(problems):
        raise ModelError(
            f"weights file {path} does not fit {type(model).__name__} ({len(tensors)} tensors; the file has {given}): "
            + "; ".join(problem for problem in problems if problem)
        )
    # Extra states of modules are no weights and no tensors: the model keeps its own.
    model.load_state_dict({**own, **state})
    return f"{given} tensors from {path.name}" + (f" (prefix {prefix!r} removed)" if prefix else "")


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name, on the CPU.

    Raises:
        ModelError: no such file, damaged, it needs unpickling, or it holds no tensors by name.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"weights file {path}: " + ("it is a folder" if path.is_dir() else "no such file"))
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise ModelError(f"weights file {path} cannot be read: {error.strerror or error}") from error
    if path.suffix.lower() == ".safetensors" or start[8:] == b"{":
        return _read_safetensors(path)
    found: Any = _read_torch(path)
    while isinstance(found, Mapping):
        nested = [found[key] for key in _NESTED if isinstance(found.get(key), Mapping)]
        if not nested:
            break
        found = nested[0]
    state = _tensors(found) if isinstance(found, Mapping) else {}
    if not state:
        held = f"a dict with {names(map(str, found))}" if isinstance(found, Mapping) else type(found).__name__
        raise ModelError(f"weights file {path} holds {held}, not tensors by name; save it as {_CONVERT}")
    return state


def fit_names(state: dict[str, Tensor], model: nn.Module) -> tuple[dict[str, Tensor], str]:
    """``state`` under the names of ``model``: a prefix that all names share is taken off where more of them then agree.

    Returns:
        The renamed dict (a new one) and the prefix, ``""`` where none was removed.
    """
    own = set(model.state_dict())
    best, removed, prefix = dict(state), "", ""
    while state:
        first = next(iter(state)).partition(".")[0] + "."
        if not all(name.startswith(first) and len(name) > len(first) for name in state):
            break
        state, prefix = {name[len(first) :]: value for name, value in state.items()}, prefix + first
        if len(own & state.keys()) > len(own & best.keys()):
            best, removed = dict(state), prefix
    return best, removed


def classes_in(path: Path, model: nn.Module) -> int | None:
    """How many classes a weights file has, where that is all in which it differs from ``model``.

    A network trained further on other classes has the names of the original and a classifier of another length: all
    tensors that differ do so in their first axis, and by the same two numbers.

    Returns:
        The number of classes, or None where the file agrees with the model or differs in other ways.

    Raises:
        ModelError: as `read_state_dict`.
    """
    state, _ = fit_names(read_state_dict(path), model)
    own = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    differing = [
        (state[name].shape, own[name].shape) for name in own if name in state and state[name].shape != own[name].shape
    ]
    if not differing or any(not a or not b or a[1:] != b[1:] for a, b in differing):
        return None
    lengths = {(a[0], b[0]) for a, b in differing}
    return int(lengths.pop()[0]) if len(lengths) == 1 else None


def names(parts: Iterable[str], limit: int = 3) -> str:
    """The first ``limit`` names, comma-separated, and how many more there are."""
    listed = list(parts)
    return ", ".join(listed[:limit]) + (f", and {len(listed) - limit} more" if len(listed) > limit else "")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:
        raise ModelError(f"weights file {path} is not a whole safetensors file: {_line(error)}") from error


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        text = str(error)
        unsafe = re.search(r"GLOBAL (\S+)", text)
        if unsafe or "TorchScript" in text or "legacy .tar" in text:
            held = f"holds objects ({unsafe.group(1)})" if unsafe else "is a TorchScript or legacy archive"
            raise ModelError(
                f"weights file {path} {held}, not only tensors: reading it could run code, so it is refused; "
                f"where you trust it, load it yourself and save {_CONVERT}"
            ) from error
        raise ModelError(
            f"weights file {path} is neither safetensors nor a state dict that torch.load(weights_only=True) reads "
            f"({_line(error)}); expected is what {_CONVERT} writes"
        ) from error


def _tensors(found: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {str(key): value for key, value in found.items() if isinstance(value, Tensor)}


def _same(a: Tensor, b: Tensor) -> bool:
    # The address is 0 for tensors without storage of their own (meta device, no elements).
    return a.data_ptr() == b.data_ptr() != 0 and a.shape == b.shape and a.stride() == b.stride()


def _problem(what: str, found: list[str]) -> str:
    return f"{len(found)} {what} ({names(found)})" if found else ""


def _line(error: BaseException) -> str:
    """The first sentence of an error, since PyTorch's run over many lines."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:120]}{'...' if len(text) > 120 else ''}"
