"""Pictures with one coloured square, for models that count colours."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def patches(count: int, seed: int = 0) -> Tensor:
    """Grey noise with one square of 8 pixels in red, green or blue."""
    generator = torch.Generator().manual_seed(seed)
    pictures = 0.05 * torch.rand(count, 3, 32, 32, generator=generator)
    for n in range(count):
        x, y = (4 * torch.randint(0, 7, (2,), generator=generator)).tolist()
        pictures[n, n % 3, y : y + 8, x : x + 8] = 1.0
    return pictures


class TwoStages(nn.Module):
    """Two stages and a linear layer that counts red, green and blue patches."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(3, 3, 4, 4), nn.ReLU())
        self.coarse = nn.Sequential(nn.Conv2d(3, 3, 2, 2), nn.ReLU())
        self.head = nn.Linear(3, 3)
        with torch.no_grad():
            for convolution in (self.fine[0], self.coarse[0]):
                size = convolution.kernel_size[0]
                convolution.weight.copy_(torch.eye(3)[:, :, None, None].expand(3, 3, size, size) / size**2)
                convolution.bias.fill_(-0.05)
            self.head.weight.copy_(40 * torch.eye(3))
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.coarse(self.fine(x)).mean((2, 3)))
