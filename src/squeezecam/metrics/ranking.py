"""Order of the pixels of a heatmap, and masks of the first so many. Any number of spatial axes."""

from __future__ import annotations

import torch
from torch import Tensor

from squeezecam.errors import InputError


def pixel_ranks(maps: Tensor, *, scattered: bool = False) -> Tensor:
    """Rank of every pixel within its own map (N, *S), 0 for the highest value, as long.

    Args:
        maps: raw values.
        scattered: how ties are broken. False: of equal values, the one that comes first in row-major order ranks first.
            True: in a fixed irregular order, the same for all maps of a size. Maps that are cut at 0 have large areas
            of equal values, and taking those row by row would favour or punish the top of the picture.

    The result is the same on every device and for every batch composition.
    """
    flat = maps.flatten(1)
    positions = torch.arange(flat.shape[1], device=maps.device)
    if scattered:
        fixed = torch.randperm(flat.shape[1], generator=torch.Generator().manual_seed(0)).to(maps.device)
        order = fixed[flat[:, fixed].sort(dim=1, descending=True, stable=True).indices]
    else:
        order = flat.sort(dim=1, descending=True, stable=True).indices
    return torch.empty_like(order).scatter_(1, order, positions.expand_as(order)).view_as(maps)


def pixel_counts(pixels: int, shares: Tensor) -> Tensor:
    """Whole number of pixels for each share in [0, 1] (halves round up), as long."""
    if bool(((shares < 0) | (shares > 1)).any()):
        raise InputError(f"shares are {shares.tolist()}, expected values between 0 and 1")
    return (shares.double() * pixels + 0.5).floor().long()


def first_pixels(ranks: Tensor, count: Tensor | int) -> Tensor:
    """Mask of the ``count`` first pixels of each map: ranks (N, *S), count an int or (N,); bool, shaped as ranks."""
    if isinstance(count, Tensor):
        count = count.to(ranks.device).view(-1, *([1] * (ranks.ndim - 1)))
    return ranks < count
