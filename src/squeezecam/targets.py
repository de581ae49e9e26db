"""Which class a map is asked for: what a caller may type, turned into class indices ``(N, K)``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from squeezecam.errors import InputError

Target = int | Sequence[int] | Sequence[Sequence[int]] | Tensor | Callable[[Any], Tensor] | None


def score_rows(values: Tensor) -> Tensor:
    """One row of scores a sample, ``(N, K)``: of scores for every frame the mean, a single value as a column.

    The class with the highest mean is the predicted one of a clip (:func:`class_targets`). Other shapes are left alone.
    """
    if values.ndim == 3:
        return values.mean(1)
    return values[:, None] if values.ndim == 1 else values


def class_targets(target: Target, result: Any, values: Tensor) -> tuple[Tensor | None, bool]:
    """Class indices ``(N, K)`` on the device of ``values``, and whether the caller asked for several per sample.

    Args:
        target: int, one per sample, a list of several per sample, a function of the model's output that returns one of
            these as an integer tensor, or None: the class with the highest value.
        result: what the model returned.
        values: the selected output, ``(N,)``, ``(N, classes)``, or ``(N, T, classes)`` with scores for every frame, of
            which the mean over the frames decides. Any other has no classes: with ``target`` None the indices are None.

    Raises:
        InputError: no class indices, out of range, or not one row per sample.

    """
    n = len(values)
    if target is None:
        if values.ndim > 3:
            return None, False
        scores = values.mean(1) if values.ndim == 3 else values
        best = scores.argmax(1) if scores.ndim == 2 else torch.zeros(n, dtype=torch.long, device=values.device)
        return best[:, None], False
    if callable(target) and not isinstance(target, Tensor):
        target = target(result)
        if not isinstance(target, Tensor) or target.is_floating_point():
            raise InputError(
                "a target function must return class indices (an integer tensor): maps come from a forward pass, there "
                "is no gradient of a score to take"
            )
    try:
        wanted = torch.as_tensor(target)  # checked where it is, for reading from another device means to wait
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"targets must be class indices, as many for each sample; got {target!r}") from None
    if wanted.is_floating_point() or wanted.is_complex() or wanted.dtype == torch.bool:
        raise InputError(f"targets must be class indices, got {wanted.dtype}")
    several = wanted.ndim == 2
    if wanted.ndim == 0:
        wanted = wanted.expand(n)
    if wanted.ndim > 2 or wanted.shape[0] != n:
        raise InputError(
            f"targets of shape {tuple(wanted.shape)} do not fit a batch of {n}: give one int, {n} ints, or {n} lists"
        )
    wanted = wanted.long() if several else wanted.long()[:, None]
    classes = values.shape[-1] if values.ndim in (2, 3) else 1
    if bool(((wanted < 0) | (wanted >= classes)).any()):
        low, high = int(wanted.min()), int(wanted.max())
        given = str(low) if low == high else f"{low} to {high}"
        known = f"0 to {classes - 1}" if classes > 1 else "0, for the output has one value"
        raise InputError(f"targets must be class indices from {known}; got {given}")
    own = not isinstance(target, Tensor)  # the caller's tensor may be in pinned memory and written to once we return
    return wanted.to(values.device, non_blocking=own), several
