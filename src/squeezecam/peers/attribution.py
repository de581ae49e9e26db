"""Occlusion and integrated gradients from captum: maps in the pixels of the picture, not of a feature map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from squeezecam.models.torchvision_guard import require
from squeezecam.module import Squeeze
from squeezecam.peers.front import fronted, sample_by_sample
from squeezecam.peers.method import MapMethod

PACKAGE = "captum"
WINDOW_SHARE = 0.2
"""Side of the occluding window as a share of the picture's; it moves by half of itself."""
IG_STEPS = 32
PASSES = 16


def window(*size: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Size of the occluding window and its stride in pictures (clips) of ``size``, in pixels (and frames)."""
    sides = tuple(max(1, round(side * WINDOW_SHARE)) for side in size)
    return sides, tuple(max(1, side // 2) for side in sides)


def occlusion(
    squeeze: Squeeze,
    inputs: Any,
    target: Tensor | None,
    *,
    output: str | None = None,
    seeds: Sequence[int] | None = None,
    stream: str | None = None,
) -> Tensor:
    """Drop of the class score while a window is covered with 0 (in the units of the inputs), where it drops."""
    attr = require("captum.attr", "peers")
    with fronted(squeeze, inputs, output, stream) as (front, pictures), torch.no_grad():
        wanted = front(pictures).argmax(1) if target is None else target.to(pictures.device)
        sides, strides = window(*pictures.shape[2:])
        channels = pictures.shape[1]
        found = attr.Occlusion(front).attribute(
            pictures,
            sliding_window_shapes=(channels, *sides),
            strides=(channels, *strides),
            baselines=0,
            target=wanted,
            perturbations_per_eval=max(1, PASSES // len(pictures)),
        )
    return _drawn(found)


def integrated_gradients(
    squeeze: Squeeze,
    inputs: Any,
    target: Tensor | None,
    *,
    output: str | None = None,
    seeds: Sequence[int] | None = None,
    stream: str | None = None,
) -> Tensor:
    """Integrated gradients from a picture of zeros, summed over the channels, the positive part."""
    attr = require("captum.attr", "peers")
    with fronted(squeeze, inputs, output, stream) as (front, pictures):
        with torch.no_grad():
            wanted = front(pictures).argmax(1) if target is None else target.to(pictures.device)
        found = attr.IntegratedGradients(front).attribute(
            pictures.requires_grad_(),
            baselines=0,
            target=wanted,
            n_steps=IG_STEPS,
            internal_batch_size=max(PASSES, len(pictures)),
        )
    return _drawn(found)


def _drawn(attributions: Tensor) -> Tensor:
    """``(N, C, *S)`` as maps ``(N, *S)``, at least 0, as captum draws them with ``sign="positive"``."""
    return attributions.detach().sum(1).clamp_min(0).float()


def _occlusion_cost(squeeze: Squeeze, shape: tuple[int, ...]) -> float:
    sides, strides = window(*shape[1:])
    return 1 + math.prod(
        1 + math.ceil((whole - side) / stride) for whole, side, stride in zip(shape[1:], sides, strides, strict=True)
    )


def methods() -> list[MapMethod]:
    """Both of them."""
    return [
        MapMethod(
            "occlusion", "occlusion", "peer", sample_by_sample(occlusion), _occlusion_cost, True, PACKAGE,
            "Zeiler and Fergus, ECCV 2014, arXiv 1311.2901",
        ),
        MapMethod(
            "integrated-gradients", "integrated gradients", "peer", sample_by_sample(integrated_gradients),
            lambda squeeze, shape: 3.0 * IG_STEPS, True, PACKAGE, "Sundararajan et al., ICML 2017, arXiv 1703.01365",
        ),
    ]  # fmt: skip
