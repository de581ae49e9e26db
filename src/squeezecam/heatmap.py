"""Maps from features and channel weights: aggregate, upsample. Pure functions on canonical features ``(N, C, *S)``."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from squeezecam.errors import InputError

AGGREGATES = ("mean", "positive", "energy", "contrast", "peaks")
BALANCED = 0.3
"""Share of the features' mass that is negative, above which their sign says nothing about presence.

Of normal numbers SiLU leaves .24 negative, GELU .15, no activation .5.
"""
UPSAMPLING = ("bicubic", "linear", "nearest", "spline")


def aggregate(features: Tensor, gates: Tensor, kept: Tensor, how: str = "mean") -> Tensor:
    """One map from the kept channels of the scaled features ``s_c u_c``: ``(N, *S)`` on the native grid.

    Args:
        features: ``(N, C, *S)``.
        gates: SE vectors ``(N, C)``.
        kept: ``(N, C)`` bool.
        how: ``"mean"``: unweighted mean of the kept channels (published). ``"positive"``: mean of their positive parts,
            for features that can be negative, whose plain mean cancels (after a LayerNorm it is identically zero).
            ``"energy"``: root of the mean square. ``"contrast"``: root of the mean square of what differs from the
            channel's own mean over the positions, for features negative as often as positive: after a LayerNorm every
            position has the same energy, and residual streams carry a large offset that is the same everywhere.
            ``"peaks"``: mean of each channel where it has its maximum (in every frame or slice of maps of rank 3), 0
            elsewhere: what a head that max-pools gets to see. Ours.

    """
    if how not in AGGREGATES:
        raise InputError(f"unknown aggregation '{how}'; expected one of {', '.join(AGGREGATES)}")
    features = at_least_float32(features)
    share = kept.to(gates.dtype) / kept.sum(1, keepdim=True).clamp_min(1)
    if how == "contrast":
        features = features - features.flatten(2).mean(2).view(*features.shape[:2], *[1] * (features.ndim - 2))
    if how in ("energy", "contrast"):
        return weighted_sum(features.square(), gates.square() * share).sqrt()
    if how == "peaks":
        inside = tuple(range(max(2, features.ndim - 2), features.ndim))
        features = features * (features == features.amax(inside, keepdim=True))
    return weighted_sum(features.relu() if how == "positive" else features, gates * share)


def suited_aggregate(features: Tensor) -> str:
    """What ``None`` stands for: the mean of features that are never negative (published), else what does not cancel.

    Mostly positive features (after SiLU or GELU) have their positive parts taken; features that are negative about as
    often as positive (a LayerNorm's, a transformer's residual stream) are read by their contrast.
    """
    if not bool((features < 0).any()):
        return "mean"
    features = at_least_float32(features)
    negative = (-features).relu().sum() / features.abs().sum()
    return "contrast" if float(negative) > BALANCED else "positive"


def principal(features: Tensor, steps: int = 24) -> Tensor:
    """Where the features vary together most: their first principal component over the positions, ``(N, *S)``, signed.

    Positive is the side with more energy. By power iteration from the energy, so that it runs on any grid and exports;
    Eigen-CAM (Muhammad and Yeasin, IJCNN 2020, arXiv 2008.00299) is the same by a decomposition, its sign left open.
    """
    flat = at_least_float32(features).flatten(2)
    flat = flat / flat.abs().amax((1, 2), keepdim=True).clamp_min(1e-12)  # its fourth power must not overflow
    centred = flat - flat.mean(2, keepdim=True)
    energy = flat.square().sum(1)
    energy = energy - energy.mean(1, keepdim=True)
    found, turned = energy[:, None], centred.transpose(1, 2)
    for _ in range(steps):
        found = torch.bmm(torch.bmm(found, turned), centred)
        found = found / torch.linalg.vector_norm(found, dim=2, keepdim=True).clamp_min(1e-12)
    found = found[:, 0]
    side = (found * energy).sum(1, keepdim=True)
    return torch.where(side < 0, -found, found).view(features.shape[0], *features.shape[2:])


def over_maximum(maps: Tensor) -> Tensor:
    """Each map ``(N, *S)`` over its largest magnitude."""
    return maps / maps.flatten(1).abs().amax(1).clamp_min(1e-12).view(-1, *[1] * (maps.ndim - 1))


def weighted_sum(features: Tensor, weights: Tensor) -> Tensor:
    """``sum_c w_c u_c(x)``: features ``(N, C, ...)`` and weights ``(N, C)`` to ``(N, ...)``, in at least float32."""
    flat = at_least_float32(features).flatten(2)
    summed = torch.bmm(weights.to(flat.dtype)[:, None], flat)
    return summed.view(features.shape[0], *features.shape[2:])


def upsample(maps: Tensor, size: tuple[int, ...], mode: str = "bicubic", *, empty_outside: bool = False) -> Tensor:
    """Maps ``(M, *S)`` enlarged to ``(M, *size)``, ``align_corners=False``.

    ``bicubic`` is cubic along width and height (or along a single axis) and linear along time or depth; ``linear`` and
    ``nearest`` apply to all axes. ``spline`` has each cell count as a cubic B-spline, linear along time or depth: it
    smooths by .58 cells and stays within the values, so that a peak may lie between cells, where ``linear`` can only
    put it on one. Outside the map the cells of the rim go on, so that a mask does not fade there; with
    ``empty_outside`` there is nothing, so that a peak is not pushed to the rim, which is right for finding something.
    The values are not clamped here: ``bicubic`` overshoots.
    """
    if mode not in UPSAMPLING:
        raise InputError(f"unknown upsampling '{mode}'; expected one of {', '.join(UPSAMPLING)}")
    if maps.ndim - 1 != len(size):
        raise InputError(f"a map of shape {tuple(maps.shape)} cannot be upsampled to {size}: the ranks differ")
    if tuple(maps.shape[1:]) == tuple(size) and mode != "spline":
        return maps
    rank = len(size)
    if mode == "spline":
        if rank == 3:
            in_time = F.interpolate(maps.flatten(2).transpose(1, 2), size[0], mode="linear", align_corners=False)
            maps = in_time.transpose(1, 2).unflatten(2, maps.shape[2:])
        for axis in range(max(0, rank - 2), rank):
            weights = _weights_for(maps, _spline_weights, maps.shape[axis + 1], size[axis], empty_outside)
            maps = torch.movedim(torch.movedim(maps, axis + 1, -1) @ weights.T, -1, axis + 1)
        return maps
    if mode == "bicubic" and rank == 3:
        frames, height, width = size
        flat = upsample(maps.flatten(0, 1), (height, width), mode).reshape(*maps.shape[:2], height * width)
        in_time = F.interpolate(flat.transpose(1, 2), frames, mode="linear", align_corners=False)
        return in_time.transpose(1, 2).reshape(maps.shape[0], *size)
    if mode == "bicubic" and rank == 1:
        return F.interpolate(maps[:, None, None], (1, size[0]), mode="bicubic", align_corners=False)[:, 0, 0]
    if mode == "nearest":
        return F.interpolate(maps[:, None], size, mode="nearest-exact")[:, 0]
    names = {1: "linear", 2: "bicubic" if mode == "bicubic" else "bilinear", 3: "trilinear"}
    return F.interpolate(maps[:, None], size, mode=names[rank], align_corners=False)[:, 0]


def through_gaussian(maps: Tensor, size: tuple[int, int], share: float) -> Tensor:
    """Maps ``(..., H, W)`` seen through a Gaussian at ``size`` points, ``(..., *size)``: each cell counts around its
    middle by ``exp(-d^2 / 2)``, d in ``share`` of the picture's height and width. There is nothing outside.
    """
    down, across = (
        _weights_for(maps, _gaussian_weights, cells, points, share)
        for cells, points in zip(maps.shape[-2:], size, strict=True)
    )
    return down @ maps @ across.T


def _weights_for(maps: Tensor, make: Callable[..., Tensor], cells: int, size: int, how: float) -> Tensor:
    """The weights in the dtype and on the device of ``maps``, where those of the last sizes stay: making them takes as
    long as a small model, and a device waits for them to arrive.
    """
    if torch.compiler.is_compiling() or type(maps) is not Tensor:  # what is traced must not be kept
        return make(cells, size, how).to(maps)
    return _kept_weights(make, cells, size, how, maps.dtype, maps.device)


@lru_cache(maxsize=64)
def _kept_weights(
    make: Callable[..., Tensor],
    cells: int,
    size: int,
    how: float,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    with torch.inference_mode(False):  # a tensor of inference mode could not be used where gradients are wanted
        return make(cells, size, how).to(device, dtype)


def _gaussian_weights(cells: int, size: int, share: float) -> Tensor:
    """``(size, cells)``: how much of each cell is at each point."""
    middles, at = ((torch.arange(count, dtype=torch.float64) + 0.5) / count for count in (cells, size))
    return torch.exp(-0.5 * ((at[:, None] - middles) / share) ** 2)


def _spline_weights(cells: int, size: int, empty_outside: bool = False) -> Tensor:
    """``(size, cells)``: how much of each cell is at each point by the cubic B-spline."""
    at = (torch.arange(size, dtype=torch.float64) + 0.5) * cells / size - 0.5
    first = at.floor().long() - 1
    weights = torch.zeros(size, cells, dtype=torch.float64)
    for step in range(4):
        cell = first + step
        away = (at - cell).abs()
        near = 2 / 3 - away**2 + away**3 / 2
        value = torch.where(away < 1, near, (2 - away).clamp_min(0) ** 3 / 6)
        if empty_outside:
            value = torch.where((cell >= 0) & (cell < cells), value, 0.0)
        weights.scatter_add_(1, cell.clamp(0, cells - 1)[:, None], value[:, None])
    return weights


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half precision and integers become float32; float64 stays."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
