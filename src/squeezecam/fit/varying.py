"""Pictures changed at random, each in its own way, for fits from few of them.

Mirrored, cut to a window that is enlarged again, contrast and colours moved, and another picture of the batch put in.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from squeezecam import heatmap

CROPPED, SMALLEST = 0.5, 0.4
"""Share of the pictures that are cut to a window of their proportions, and its smallest side as a share."""
JITTER = 0.2
"""How far contrast and, in units of twice the deviation, colours of a picture move."""
PASTED, PASTE = 0.3, (0.3, 0.75)
"""Share of the pictures that another is put into, and the sides of what is put in."""


def varied(pictures: Tensor) -> Tensor:
    """A batch ``(N, C, H, W)`` changed at random, by numbers drawn on the CPU: a seed says the same on every device."""
    count, given = len(pictures), pictures.dtype
    pictures = heatmap.at_least_float32(pictures)  # places in half precision are whole pixels off
    mirrored = torch.where(torch.rand(count) < 0.5, -1.0, 1.0)
    side = torch.where(torch.rand(count) < CROPPED, _between(SMALLEST, 1.0, count), 1.0)
    centre = (1 - side[:, None]) * (2 * torch.rand(count, 2) - 1)
    changed = _window(pictures, torch.stack([side * mirrored, side], 1), centre)
    moved = JITTER * (2 * torch.rand(2, count, pictures.shape[1], 1, 1) - 1).to(pictures)
    changed = changed * (1 + moved[0, :, :1]) + 2 * pictures.std() * moved[1]
    return _pasted(changed).to(given)


def _pasted(pictures: Tensor) -> Tensor:
    """Some of the pictures with the whole of another, made smaller, put into them."""
    count = len(pictures)
    sides = torch.stack([_between(*PASTE, count), _between(*PASTE, count)], 1)
    centre = (1 - sides) * (2 * torch.rand(count, 2) - 1)
    chosen = torch.rand(count) < PASTED
    # Where the frame of the other one is, in the coordinates of this one, turned round.
    small = _window(pictures.roll(1, 0), 1 / sides, -centre / sides)
    height, width = pictures.shape[-2:]
    across = ((_middles(width)[None] - centre[:, :1]).abs() <= sides[:, :1])[:, None, :]
    down = ((_middles(height)[None] - centre[:, 1:]).abs() <= sides[:, 1:])[:, :, None]
    inside = (across & down & chosen[:, None, None]).to(pictures.device)
    return torch.where(inside[:, None], small, pictures)


def _window(pictures: Tensor, scale: Tensor, centre: Tensor) -> Tensor:
    """What lies at ``scale * place + centre`` of each picture; across and down ``(N, 2)``, places in [-1, 1]."""
    affine = torch.cat([torch.diag_embed(scale), centre[:, :, None]], 2).to(pictures)
    grid = F.affine_grid(affine, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


def _middles(cells: int) -> Tensor:
    """Middles of this many cells of [-1, 1]."""
    return (2 * torch.arange(cells) + 1) / cells - 1


def _between(low: float, high: float, count: int) -> Tensor:
    return low + (high - low) * torch.rand(count)
