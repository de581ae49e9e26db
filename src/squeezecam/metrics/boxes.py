"""Boxes as x0, y0, x1, y1 in pixels, x1 and y1 exclusive: to masks, from masks, and their overlap."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from squeezecam.errors import InputError
from squeezecam.metrics.checks import shape_of, widest
from squeezecam.metrics.components import connected_components

Boxes = Tensor | Sequence[Tensor]
"""Per sample any number of boxes: tensors (B, 4) or (4,); or one tensor (N, 4) or (N, B, 4), rows of NaN ignored."""


def padded_boxes(boxes: Boxes, device: torch.device | None = None) -> Tensor:
    """Boxes of N samples as one floating-point tensor (N, B, 4), filled up with NaN.

    A box without area, or with x1 < x0, is an error: it would silently match nothing.
    """
    rows = []
    kind = torch.float64 if device is None else widest(device)
    for index, entry in enumerate(boxes):
        row = torch.as_tensor(entry).to(device=device, dtype=kind)
        if row.numel() == 0:
            row = row.new_zeros(0, 4)
        elif row.ndim == 1:
            row = row.unsqueeze(0)
        if row.ndim != 2 or row.shape[1] != 4:
            raise InputError(f"boxes of sample {index} have shape {shape_of(row)}, expected (B, 4): x0, y0, x1, y1")
        if bool(((row[:, 2] <= row[:, 0]) | (row[:, 3] <= row[:, 1])).any()):
            raise InputError(f"boxes of sample {index} are {row.tolist()}: expected x0 < x1 and y0 < y1, in pixels")
        rows.append(row)
    most = max((row.shape[0] for row in rows), default=0)
    padded = torch.full((len(rows), most, 4), float("nan"), dtype=kind, device=device)
    for index, row in enumerate(rows):
        padded[index, : row.shape[0]] = row
    return padded


def boxes_to_mask(boxes: Boxes, height: int, width: int, *, device: torch.device | None = None) -> Tensor:
    """Masks (N, height, width), bool: the union of each sample's boxes.

    A pixel belongs to a box that contains its centre, so whole-number boxes cover ``x1 - x0`` by ``y1 - y0`` pixels,
    and parts outside the picture are cut off. No boxes give an empty mask.
    """
    padded = padded_boxes(boxes, device)
    x = torch.arange(width, device=padded.device, dtype=padded.dtype) + 0.5
    y = torch.arange(height, device=padded.device, dtype=padded.dtype) + 0.5
    across = (x >= padded[..., 0, None]) & (x < padded[..., 2, None])
    down = (y >= padded[..., 1, None]) & (y < padded[..., 3, None])
    return (down.unsqueeze(-1) & across.unsqueeze(-2)).any(dim=1)


def mask_to_boxes(masks: Tensor, *, connectivity: int = 8) -> list[Tensor]:
    """Bounding boxes of the connected components of each mask (N, H, W): N tensors (B, 4) of floats."""
    found = connected_components(masks != 0, connectivity=connectivity)
    sizes = torch.bincount(found.mask, minlength=masks.shape[0]).tolist()
    return list(torch.split(found.boxes.to(widest(masks.device)), sizes))


def box_overlap(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union (P, Q) of boxes (P, 4) and (Q, 4), by area, no pixel added."""
    kind = widest(first.device)
    first, second = first.to(kind).unsqueeze(1), second.to(kind).unsqueeze(0)
    sides = torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(first[..., :2], second[..., :2])
    shared = sides.clamp_min(0).prod(dim=-1)
    area = (first[..., 2:] - first[..., :2]).prod(dim=-1) + (second[..., 2:] - second[..., :2]).prod(dim=-1)
    return shared / (area - shared)
