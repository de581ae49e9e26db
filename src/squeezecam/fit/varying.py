"""Pictures changed at random, each in its own way, for fits from few of them.

Mirrored, turned, cut to a window of about its proportions that is enlarged again, gray or blurred now and then,
contrast and colours moved, and another picture of the batch put in.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from squeezecam import heatmap

CROPPED, SMALLEST = 0.8, 0.3
"""Share of the pictures that are cut to a window, and its smallest side as a share."""
STRETCHED = 0.14
"""How far the logarithm of a window's sides may move, one up and the other down."""
TURNED, FARTHEST = 0.5, 0.35
"""Share of the pictures that are turned, and how far at most, in radians."""
GRAY, BLURRED = 0.15, 0.15
"""Shares of the pictures whose channels are all their mean, and that are blurred."""
BLUR = 45
"""Of how many parts of the shorter side one is the box that a picture is blurred by, twice."""
JITTER = 0.35
"""How far contrast and, in units of twice the deviation, colours of a picture move."""
PASTED, PASTE = 0.3, (0.3, 0.75)
"""Share of the pictures that another is put into, and the sides of what is put in."""


def varied(pictures: Tensor) -> Tensor:
    """A batch ``(N, C, H, W)`` changed at random, by numbers drawn on the CPU: a seed says the same on every device."""
    given = pictures.dtype
    changed = _dulled(_moved(heatmap.at_least_float32(pictures)))  # places in half precision are whole pixels off
    moved = JITTER * (2 * torch.rand(2, len(changed), changed.shape[1], 1, 1) - 1).to(changed)
    changed = changed * (1 + moved[0, :, :1]) + 2 * changed.std() * moved[1]
    return _pasted(changed).to(given)


def _moved(pictures: Tensor) -> Tensor:
    """Each mirrored, turned, and cut to a window that is enlarged again; what lies outside is the picture mirrored."""
    count, (height, width) = len(pictures), pictures.shape[-2:]
    mirrored = torch.where(torch.rand(count) < 0.5, -1.0, 1.0)
    side = torch.where(torch.rand(count) < CROPPED, _between(SMALLEST, 1.0, count), 1.0)
    stretch = _between(-STRETCHED, STRETCHED, count).exp()
    sides = torch.stack([side * stretch, side / stretch], 1).clamp_max(1)
    centre = (1 - sides) * (2 * torch.rand(count, 2) - 1)
    angle = torch.where(torch.rand(count) < TURNED, _between(-FARTHEST, FARTHEST, count), 0.0)
    across, down = sides.unbind(1)
    matrix = torch.stack(
        [
            torch.stack([mirrored * across * angle.cos(), -down * angle.sin() * height / width], 1),
            torch.stack([mirrored * across * angle.sin() * width / height, down * angle.cos()], 1),
        ],
        1,
    )
    return _sampled(pictures, matrix, centre, "reflection")


def _dulled(pictures: Tensor) -> Tensor:
    """Some gray, some blurred."""
    gray, blurred = (torch.rand(2, len(pictures)) < torch.tensor([[GRAY], [BLURRED]])).to(pictures.device)
    pictures = torch.where(gray[:, None, None, None], pictures.mean(1, keepdim=True), pictures)
    reach = min(pictures.shape[-2:]) // (2 * BLUR)
    box = 2 * reach + 1
    if reach and bool(blurred.any()):
        softer = pictures[blurred]
        for _ in range(2):
            softer = F.avg_pool2d(softer, box, 1, reach, count_include_pad=False)
        pictures = pictures.masked_scatter(blurred[:, None, None, None], softer)
    return pictures


def _pasted(pictures: Tensor) -> Tensor:
    """Some of the pictures with the whole of another, made smaller, put into them."""
    count = len(pictures)
    sides = torch.stack([_between(*PASTE, count), _between(*PASTE, count)], 1)
    centre = (1 - sides) * (2 * torch.rand(count, 2) - 1)
    chosen = torch.rand(count) < PASTED
    # Where the frame of the other one is, in the coordinates of this one, turned round.
    small = _sampled(pictures.roll(1, 0), torch.diag_embed(1 / sides), -centre / sides, "border")
    height, width = pictures.shape[-2:]
    across = ((_middles(width)[None] - centre[:, :1]).abs() <= sides[:, :1])[:, None, :]
    down = ((_middles(height)[None] - centre[:, 1:]).abs() <= sides[:, 1:])[:, :, None]
    inside = (across & down & chosen[:, None, None]).to(pictures.device)
    return torch.where(inside[:, None], small, pictures)


def _sampled(pictures: Tensor, matrix: Tensor, centre: Tensor, outside: str) -> Tensor:
    """What lies at ``matrix @ place + centre`` of each picture; ``(N, 2, 2)`` and ``(N, 2)``, across and down, places
    in [-1, 1].
    """
    affine = torch.cat([matrix, centre[:, :, None]], 2).to(pictures)
    grid = F.affine_grid(affine, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, padding_mode=outside, align_corners=False)


def _middles(cells: int) -> Tensor:
    """Middles of this many cells of [-1, 1]."""
    return (2 * torch.arange(cells) + 1) / cells - 1


def _between(low: float, high: float, count: int) -> Tensor:
    return low + (high - low) * torch.rand(count)
