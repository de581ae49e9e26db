"""Pearson and Spearman correlation of rows, batched on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from squeezecam.metrics.checks import same_shape, widest


def pearson(first: Tensor, second: Tensor) -> Tensor:
    """Pearson correlation (N,) of the rows of two tensors (N, *S). NaN where a row is constant or not finite."""
    same_shape(first, second, ("first", "second"))
    wide = torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.float32)
    a, b = first.detach().flatten(1).to(wide), second.detach().flatten(1).to(wide)
    flat = (a == a[:, :1]).all(dim=1) | (b == b[:, :1]).all(dim=1)
    a, b = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
    # Scaled to a maximum of 1 first, so that very small maps do not underflow when squared.
    a = a / a.abs().amax(dim=1, keepdim=True)
    b = b / b.abs().amax(dim=1, keepdim=True)
    value = (a * b).sum(dim=1) / (a.square().sum(dim=1) * b.square().sum(dim=1)).sqrt()
    return value.clamp(-1, 1).masked_fill(flat, float("nan"))


def average_ranks(values: Tensor) -> Tensor:
    """Ranks (N, P) of each row from 1, equal values sharing the mean of their ranks."""
    ordered, order = values.sort(dim=1)
    new = torch.ones_like(ordered, dtype=torch.long)
    new[:, 1:] = (ordered[:, 1:] != ordered[:, :-1]).long()
    group = new.cumsum(dim=1) - 1
    positions = torch.arange(1, values.shape[1] + 1, device=values.device, dtype=widest(values.device)).expand_as(
        ordered
    )
    total = torch.zeros_like(positions).scatter_add(1, group, positions)
    size = torch.zeros_like(positions).scatter_add(1, group, torch.ones_like(positions))
    mean = (total / size.clamp_min(1)).gather(1, group)
    return torch.empty_like(mean).scatter_(1, order, mean)


def spearman(first: Tensor, second: Tensor) -> Tensor:
    """Spearman rank correlation (N,) of the rows of two tensors (N, *S), ties sharing the mean rank.

    NaN where a row is constant (it has no order) or not finite.
    """
    same_shape(first, second, ("first", "second"))
    a, b = first.detach().flatten(1), second.detach().flatten(1)
    finite = a.isfinite().all(dim=1) & b.isfinite().all(dim=1)
    value = pearson(average_ranks(a), average_ranks(b)).masked_fill(~finite, float("nan"))
    return value.to(torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.float32))
