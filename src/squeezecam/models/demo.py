"""The embedded default network (``--model demo``): a small CNN that names the handwritten digit in a cluttered picture.

Trained by ``scripts/train_demo.py`` on ``squeezecam.data.demo``; no download, no network.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from PIL.Image import Image

DEMO_LABELS: tuple[str, ...] = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
SIDE = 96
WEIGHTS = "demo.safetensors"


class _ConvNorm(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(outputs),
        )


class _Residual(nn.Module):
    """Two 3x3 convolutions with a shortcut; keeps channels and grid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _ConvNorm(channels, channels, 3)
        self.conv2 = _ConvNorm(channels, channels, 3)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.relu(x + self.conv2(self.relu(self.conv1(x))))
        return out


class DemoNet(nn.Module):
    """Convolutions, ReLU, global average pooling and one linear layer.

    Takes float RGB pictures (N, 3, H, W) in [0, 1], H and W from 8 on, and gives logits (N, classes). ``features`` ends
    in a ReLU and gives (N, channels, H/8, W/8): 12 x 12 for the 96 x 96 pixels of the demo.

    Args:
        classes: number of logits.
        channels: channels of the last feature map.
    """

    def __init__(self, classes: int = len(DEMO_LABELS), channels: int = 192) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Sequential(_ConvNorm(3, 24, 3, 2), nn.ReLU()),
            nn.Sequential(_ConvNorm(24, 48, 3, 2), nn.ReLU()),
            _Residual(48),
            nn.Sequential(_ConvNorm(48, 96, 3, 2), nn.ReLU()),
            _Residual(96),
            nn.Sequential(_ConvNorm(96, channels, 1), nn.ReLU()),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(channels, classes)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return logits (N, classes) of pictures (N, 3, H, W) in [0, 1]."""
        centred = (pictures - 0.5) / 0.25
        logits: torch.Tensor = self.head(self.flatten(self.pool(self.features(centred))))
        return logits


def preprocess(picture: Image) -> torch.Tensor:
    """Turn a PIL picture of any mode and size into float32 (3, 96, 96) in [0, 1].

    A picture of another size is resized as a whole to the square (nothing is cropped), so a position in the map is the
    same fraction of the picture's width and height.
    """
    import numpy as np
    from PIL import Image as Pillow

    rgb = picture.convert("RGB")
    if rgb.size != (SIDE, SIDE):
        rgb = rgb.resize((SIDE, SIDE), Pillow.Resampling.BICUBIC)
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous().float() / 255


def demo_metadata() -> dict[str, str]:
    """Return what the weights' file says of its training: settings, seed, ``test_accuracy`` and how it was measured."""
    from safetensors import safe_open

    with resources.as_file(resources.files("squeezecam") / "assets" / WEIGHTS) as path, safe_open(path, "pt") as file:
        return dict(file.metadata() or {})


def demo_model(*, random: bool = False) -> tuple[nn.Module, Callable[[Image], torch.Tensor]]:
    """Return the trained demo network in evaluation mode (float32, CPU) and its preprocessing.

    Args:
        random: leave the weights as initialised, from torch's global generator, instead of loading the trained ones.
    """
    model = DemoNet()
    if not random:
        from safetensors.torch import load

        stored = load((resources.files("squeezecam") / "assets" / WEIGHTS).read_bytes())
        model.load_state_dict(
            {name: value.float() if value.is_floating_point() else value for name, value in stored.items()}
        )
    return model.eval(), preprocess
