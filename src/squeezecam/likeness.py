"""Evidence spread over the cells that look alike: from the part of an object that gave it away to all of it.

A classifier's evidence sits on the telling part, a face or a beak. Its features say which other cells belong to the
same thing. Each step gives every cell the mean over all cells, weighed by how alike their features are: a random walk,
closed form, no fit. Affinity walks on class evidence go back to Ahn and Kwak, CVPR 2018, arXiv 1803.10464, who learn
theirs; figures are in ``docs/evidence.md``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from squeezecam import heatmap

ALIKE, STEPS = 0.02, 2
"""How much of the others a cell is like, on average over a picture; steps of the walk."""
LEAST, MOST, HALVINGS = 0.5, 64.0, 12
"""Bounds of the exponent that makes it so, and how often the interval between them is halved."""
LARGEST = 32
"""Cells in height and width, at most: the walk takes memory with the fourth power of it. Larger grids are pooled."""


def affinities(
    features: Tensor, grid: tuple[int, ...], finer: Tensor | None = None, *, centred: bool = False, alike: float = ALIKE
) -> Tensor:
    """How alike the cells of ``grid`` are, ``(N, P, P)`` in [0, 1], P = cells of the grid.

    A power of the cosine of the features ``(N, C, *S)``; where there is a finer map ``(N, C', *grid)``, of the
    geometric mean of both cosines. Cosines lie about .2 in one network and about .5 in another, so that no fixed power
    serves both: for each picture it is the one with which a cell is like ``alike`` of the others on average.
    ``centred`` takes the mean over the positions out of the features first: those that can be negative often carry a
    large offset that is the same everywhere.
    """
    found = cosines(features, grid, centred)
    if finer is not None:
        found = (found * cosines(finer, grid, centred)).sqrt()
    cells = found.shape[1]
    itself = found.diagonal(dim1=1, dim2=2).sum(1).round()  # 1 for every cell that has features, whatever the power
    enough = (itself + alike * cells * (cells - 1))[:, None, None]
    logarithm = found.log()  # minus infinity where there is no likeness: no power of it
    least, most = (torch.full_like(found[:, :1, :1], bound) for bound in (LEAST, MOST))
    for _ in range(HALVINGS):
        middle = (least * most).sqrt()
        much = (middle * logarithm).exp().sum((1, 2), keepdim=True) > enough
        least, most = torch.where(much, middle, least), torch.where(much, most, middle)
    return ((least * most).sqrt() * logarithm).exp()


def cosines(features: Tensor, grid: tuple[int, ...], centred: bool = False) -> Tensor:
    """Cosine between the features of every two cells, negative ones as 0, ``(N, P, P)``.

    Features ``(N, C, *S)`` of another grid are brought to ``grid`` by linear interpolation. Their inner products are
    interpolated in their place, which comes to the same and takes a fraction of the work.
    """
    features = heatmap.at_least_float32(features)
    size = tuple(features.shape[2:])
    smaller = tuple(min(own, asked) for own, asked in zip(size, grid, strict=True))
    if smaller != size:
        features = _pooled(features, smaller)
    flat = features.flatten(2)
    flat = flat / flat.abs().amax((1, 2), keepdim=True).clamp_min(1e-12)  # whatever their scale, nothing overflows
    if centred:
        flat = flat - flat.mean(2, keepdim=True)
    products = torch.bmm(flat.transpose(1, 2), flat)
    if smaller != grid:
        for _ in range(2):  # rows, then columns: the result is symmetric
            rows = products.unflatten(2, smaller)
            products = _linear(rows, grid).flatten(2).transpose(1, 2)
    length = products.diagonal(dim1=1, dim2=2).clamp_min(1e-12).sqrt()
    return (products / (length[:, :, None] * length[:, None, :])).clamp(0, 1)


def spread(maps: Tensor, affinity: Tensor, steps: int = STEPS) -> Tensor:
    """Maps ``(N, *grid)`` after a walk by ``affinity (N, P, P)``. A cell that is like no other becomes 0."""
    share = affinity / affinity.sum(2, keepdim=True).clamp_min(1e-12)
    flat = maps.flatten(1)[:, :, None].to(share.dtype)
    for _ in range(steps):
        flat = torch.bmm(share, flat)
    return flat[:, :, 0].view(maps.shape)


def walking_grid(grid: tuple[int, ...]) -> tuple[int, ...]:
    """The grid of the walk for maps on ``grid``."""
    return tuple(min(cells, LARGEST) for cells in grid)


def on_grid(maps: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Maps ``(N, *S)`` on ``grid``: enlarged linearly, made smaller by the mean."""
    smaller = tuple(min(own, asked) for own, asked in zip(maps.shape[1:], grid, strict=True))
    if smaller != tuple(maps.shape[1:]):
        maps = _pooled(maps[:, None], smaller)[:, 0]
    return maps if smaller == grid else _linear(maps[:, None], grid)[:, 0]


def _pooled(features: Tensor, grid: tuple[int, ...]) -> Tensor:
    if len(grid) == 1:
        return F.adaptive_avg_pool1d(features, grid[0])
    return F.adaptive_avg_pool2d(features, (grid[0], grid[1]))


def _linear(features: Tensor, grid: tuple[int, ...]) -> Tensor:
    mode = "linear" if len(grid) == 1 else "bilinear"
    return F.interpolate(features, grid, mode=mode, align_corners=False)
