"""What refiner and locator share: evidence as a logit, what they see of features, and the convolutions that learn what
to add to the logit.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_RIM = 0.015
"""Evidence is squeezed into [_RIM, 1 - _RIM], so that its logit stays finite."""


def evidence_logit(share: Tensor) -> Tensor:
    """Logit of evidence in [0, 1]."""
    return torch.logit(share * (1 - 2 * _RIM) + _RIM)


def projected(layer: nn.Conv2d, features: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """``layer`` on features with mean 0 and deviation 1 in the data that was fitted on, without making these."""
    weight = layer.weight * scale.view(1, -1, 1, 1)
    assert layer.bias is not None
    return F.conv2d(features, weight, layer.bias - weight.flatten(1) @ mean)


class Correction(nn.Module):
    """Maps ``(N, inputs, H, W)`` to what is added to a logit, ``(N, H, W)``: 0 at the start."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(inputs, hidden, 3, padding=1)
        self.near = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.far = nn.Conv2d(hidden, hidden, 3, padding=2, dilation=2)
        self.last = nn.Conv2d(hidden, 1, 3, padding=1)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, maps: Tensor) -> Tensor:
        """See the class."""
        inner = F.relu(self.mix(maps))
        inner = inner + F.relu(self.near(inner))
        inner = inner + F.relu(self.far(inner))
        found: Tensor = self.last(inner)[:, 0]
        return found
