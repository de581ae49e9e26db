"""Checkpoints: whole or not at all, newest first, read without unpickling."""

from __future__ import annotations

import contextlib
import os
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from squeezecam.errors import FitError, InputError
from squeezecam.files import atomic_path

FORMAT = "squeezecam-training/1"
KEEP = 2
"""Checkpoints that are kept: the newest, and one before it in case the newest was damaged."""
BEST = "best.pt"
_NAME = re.compile(r"step-(\d+)\.pt")


def write(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` so that ``torch.load(..., weights_only=True)`` reads it; on disk before this returns.

    Raises:
        FitError: something in it has no such form.
        InputError: the file cannot be written.

    """
    whole = {"format": FORMAT, **_plain(state, "state")}
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        torch.save(whole, file)
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> dict[str, Any]:
    """The state in a file of :func:`write`, on the CPU.

    Raises:
        InputError: missing, damaged, or no checkpoint of squeezecam.

    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # the sums of all parts: torch itself reads over flipped bits
        if damaged is not None:
            raise InputError(f"{path} is damaged ({damaged} does not match its checksum)")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such checkpoint") from None
    except InputError:
        raise
    except Exception as error:  # whatever torch and zipfile raise on other people's files
        line = " ".join(str(error).split())[:120]
        raise InputError(f"{path} is no readable checkpoint ({line})") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise InputError(f"{path} is not a checkpoint of squeezecam's training (expected format {FORMAT})")
    return state


def keep(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write the checkpoint of a step and remove all but the newest :data:`KEEP`."""
    path = folder / f"step-{step:09d}.pt"
    write(path, state)
    for old in _found(folder)[KEEP:]:
        with contextlib.suppress(OSError):
            old.unlink()
    return path


def newest(folder: Path, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that can be read; a damaged one is said and passed over."""
    for path in _found(folder):
        try:
            read(path)
        except InputError as error:
            say(f"{error}: the one before it is taken")
            continue
        return path
    return None


def clear(folder: Path) -> None:
    """Remove all checkpoints of an earlier run."""
    for path in [*_found(folder), folder / BEST]:
        path.unlink(missing_ok=True)


def _found(folder: Path) -> list[Path]:
    return sorted((p for p in folder.glob("step-*.pt") if _NAME.fullmatch(p.name)), reverse=True)


def _plain(value: Any, where: str) -> Any:
    """``value`` with tensors on the CPU and nothing in it but what ``weights_only`` admits."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {_key(key, where): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_plain(item, f"{where}.{number}") for number, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # a NumPy scalar
        return value.item()
    raise FitError(
        f"{where} is a {type(value).__name__}, which a checkpoint does not hold: an optimiser or scheduler whose "
        "state_dict() is made of numbers, text, lists, dicts and tensors is needed"
    )


def _key(key: Any, where: str) -> int | str:
    if isinstance(key, (int, str)):
        return key
    raise FitError(f"{where} has a key of type {type(key).__name__}; a checkpoint holds numbers and text")
