"""Pictures with one coloured square, for models that count colours."""

from __future__ import annotations

import torch
from torch import Tensor


def patches(count: int, seed: int = 0) -> Tensor:
    """Grey noise with one square of 8 pixels in red, green or blue."""
    generator = torch.Generator().manual_seed(seed)
    pictures = 0.05 * torch.rand(count, 3, 32, 32, generator=generator)
    for n in range(count):
        x, y = (4 * torch.randint(0, 7, (2,), generator=generator)).tolist()
        pictures[n, n % 3, y : y + 8, x : x + 8] = 1.0
    return pictures
