"""One number per clip or per frame out of a model's output: the score that streams are measured by."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from squeezecam.frames import valid_frames


def scores(values: Tensor, goal: Tensor | None) -> Tensor:
    """``(N,)`` or ``(N, T)``: the target's logit less the mean of the others; a single output as it is."""
    values = values.double()
    if values.ndim == 1:
        return values
    if values.shape[-1] == 1 or goal is None:
        return values.flatten(2).mean(2) if values.ndim > 2 and goal is None else values[..., 0]
    index = goal.view(-1, *[1] * (values.ndim - 1)).expand(*values.shape[:-1], 1)
    own = values.gather(-1, index)[..., 0]
    return own - (values.sum(-1) - own) / (values.shape[-1] - 1)


def inside(frames: Tensor, lengths: Any) -> Tensor | None:
    """``(N, T)`` bool: frames of the output that are no padding; None: all."""
    if lengths is None or frames.ndim != 2:
        return None
    return valid_frames(lengths, len(frames), frames.shape[1], frames.device)


def over_time(values: Tensor, inside: Tensor | None) -> Tensor:
    """``(N,)``: the mean over the frames that count."""
    if values.ndim == 1:
        return values
    return values.mean(1) if inside is None else (values * inside).sum(1) / inside.sum(1)


def known(values: Tensor | None) -> Tensor:
    """Values that were computed for certain."""
    assert values is not None
    return values
