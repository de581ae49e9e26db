"""Checks and small conversions that every metric shares. Shapes are named in full when they do not fit."""

from __future__ import annotations

import torch
from torch import Tensor

from squeezecam.errors import InputError


def shape_of(tensor: Tensor) -> str:
    """Shape of a tensor, written as a tuple."""
    return str(tuple(tensor.shape))


def widest(device: torch.device) -> torch.dtype:
    """float64, or float32 on devices that have nothing wider."""
    return torch.float32 if device.type == "mps" else torch.float64


def as_maps(heatmap: Tensor, *, rank: int | None = 2) -> Tensor:
    """Heatmaps (N, *S) in at least float32; ``rank`` is the number of spatial axes asked for, None for any."""
    if heatmap.ndim < 2 or (rank is not None and heatmap.ndim != rank + 1):
        expected = "(N, *S)" if rank is None else {1: "(N, T)", 2: "(N, H, W)", 3: "(N, T, H, W)"}.get(rank, "(N, *S)")
        raise InputError(f"heatmap has shape {shape_of(heatmap)}, expected {expected}: one map per sample")
    if 0 in heatmap.shape[1:]:
        raise InputError(f"heatmap has shape {shape_of(heatmap)}: a map needs at least one pixel")
    return heatmap.detach().to(torch.promote_types(heatmap.dtype, torch.float32))


def maps_for_inputs(heatmap: Tensor, inputs: Tensor, *, rank: int | None = 2) -> Tensor:
    """Heatmaps (N, *S) that must match inputs (N, C, *S) in samples and size."""
    maps = as_maps(heatmap, rank=rank)
    if inputs.ndim != maps.ndim + 1 or inputs.shape[0] != maps.shape[0] or inputs.shape[2:] != maps.shape[1:]:
        raise InputError(
            f"heatmap has shape {shape_of(heatmap)} and inputs have shape {shape_of(inputs)}: expected (N, *S) and "
            "(N, C, *S) with the same N and S; upsample the heatmap to the input first"
        )
    return maps


def maps_and_masks(heatmap: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Heatmaps (N, *S) and object masks of the same shape, the masks as bool (non-zero is object)."""
    maps = as_maps(heatmap, rank=None)
    if mask.shape != maps.shape:
        raise InputError(
            f"heatmap has shape {shape_of(heatmap)} and mask has shape {shape_of(mask)}: expected the same, (N, H, W) "
            "or (N, T, H, W)"
        )
    return maps, mask.to(device=maps.device) != 0


def per_sample(target: Tensor, samples: int) -> Tensor:
    """Target classes (N,), as long."""
    if target.shape != (samples,) or target.is_floating_point() or target.is_complex():
        raise InputError(
            f"target has shape {shape_of(target)} and type {target.dtype}, expected ({samples},) integers: "
            "one class per sample"
        )
    return target.long()


def same_shape(first: Tensor, second: Tensor, names: tuple[str, str]) -> None:
    """Raise unless both tensors have one shape."""
    if first.shape != second.shape:
        raise InputError(
            f"{names[0]} has shape {shape_of(first)} and {names[1]} has shape {shape_of(second)}: expected the same"
        )


def finite_rows(maps: Tensor) -> Tensor:
    """Which samples (N,) have finite values only."""
    # The extremes pass NaN and infinity on, and are many times faster than asking every pixel.
    flat = maps.flatten(1)
    return flat.amin(dim=1).isfinite() & flat.amax(dim=1).isfinite()


def nan_where_not(values: Tensor, valid: Tensor) -> Tensor:
    """``values`` (N, ...) with NaN for every sample that is not ``valid`` (N,)."""
    shaped = valid.view(-1, *([1] * (values.ndim - 1)))
    return values.masked_fill(~shaped, float("nan"))
