"""The tasks of ``parity.py``: data, networks and recipes.

Pictures beside the project are optional: a task whose pictures are missing says so and is left out.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from av_truth import Watcher, make
from squeezecam.models.demo import DemoNet, demo_model
from squeezecam.parity.demo import Digits
from squeezecam.parity.network import Network
from squeezecam.parity.recipe import Recipe
from squeezecam.parity.samples import InMemory

SYNTHETIC_SEED = 11


class MissingError(Exception):
    """Pictures or networks that this task needs are not there."""


@dataclass
class Task:
    """One row of the tables.

    ``margin`` is in points for accuracies, in the labels' units for errors.
    """

    words: str
    network: Network
    training: InMemory
    test: InMemory
    recipes: dict[str, Recipe]
    kind: str = "classification"
    output: str = "output"
    boxes: Tensor | None = None
    classes: Tensor | None = None
    maps: int = 0
    margin: float = 0.5
    unit: str = "points"
    about: dict[str, Any] = field(default_factory=dict)


class SmallNet(nn.Module):
    """Four strided or plain convolutions, ReLU, mean pooling, one linear layer; 64 channels before it."""

    def __init__(self, inputs: int, outputs: int, offset: float = 0.0, scale: float = 1.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        sizes = (inputs, 16, 32, 64, 64)
        for number in range(4):
            stride = 2 if number < 3 else 1
            layers += [nn.Conv2d(sizes[number], sizes[number + 1], 3, stride, 1, bias=False)]
            layers += [nn.BatchNorm2d(sizes[number + 1]), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(64, outputs)
        with torch.no_grad():
            self.head.weight.mul_(scale)
            self.head.bias.mul_(scale).add_(offset)

    def forward(self, pictures: Tensor) -> Tensor:
        values: Tensor = self.head(self.features(pictures).mean((2, 3)))
        return values


class SmallResNet(nn.Module):
    """Three residual stages of two blocks each, 16, 32 and 64 channels, on a quarter of the pixels; 64 before the end.

    The form of the CIFAR networks of He et al. (CVPR 2016), with a strided first layer and no stride in the last stage.
    """

    def __init__(self, outputs: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
        for inputs, channels, stride in ((16, 16, 1), (16, 32, 2), (32, 64, 1)):
            layers += [ResidualBlock(inputs, channels, stride), ResidualBlock(channels, channels, 1)]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(64, outputs)

    def forward(self, pictures: Tensor) -> Tensor:
        values: Tensor = self.head(self.features(pictures).mean((2, 3)))
        return values


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        same = inputs == channels and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, channels, 1, stride, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        inside = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(features)))))
        return F.relu(inside + self.shortcut(features))


def folder() -> Path:
    beside = Path(__file__).resolve().parents[1] / ".." / "shared" / "material"
    found = Path(os.environ.get("SQUEEZECAM_MATERIAL") or beside).resolve()
    if not (found / "models.py").is_file():
        raise MissingError(f"no pictures at {found}: set SQUEEZECAM_MATERIAL to the folder that holds models.py")
    return found


def networks() -> Any:
    spec = importlib.util.spec_from_file_location("material_models", folder() / "models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def arrays(name: str) -> Any:
    return np.load(folder() / name, allow_pickle=False)


def demo() -> Task:
    training, test = Digits("train", 2000, SYNTHETIC_SEED), Digits("test", 1000, SYNTHETIC_SEED + 1)
    return Task(
        "demo: generated pictures of 48 x 48 pixels, a digit and pieces of others, 2,000 to train, 1,000 of other "
        "hands to test; the demo network (192 channels)",
        Network(training.inputs(torch.arange(2)), demo_model()[0], DemoNet),
        training, test,
        {
            "scratch": Recipe(epochs=5, batch_size=32, lr=2e-3, weight_decay=0.02),
            "fine-tune": Recipe(epochs=1, batch_size=32, lr=5e-4),
        },
        boxes=test.boxes, maps=60,
    )  # fmt: skip


def cifar() -> Task:
    models, data = networks(), arrays("cifar10/test5000.npz")
    pixels = torch.from_numpy(data["images"]).permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pictures = (pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    labels = torch.from_numpy(data["labels"]).long()
    return Task(
        "cifar: CIFAR-10 test pictures, even-numbered ones to train, odd ones to test (they are in the order of their "
        "classes), 2,500 each; from scratch a narrow ResNet-14 (64 channels), fine-tuned a trained ResNet-20 (64)",
        Network(pictures[:2], models.cifar_resnet20()[0], SmallResNet),
        InMemory(pictures[::2].contiguous(), labels[::2]), InMemory(pictures[1::2].contiguous(), labels[1::2]),
        {
            "scratch": Recipe(epochs=8, lr=5e-3, weight_decay=0.05, augment="flip-shift"),
            "fine-tune": Recipe(epochs=1, lr=5e-4, augment="flip-shift"),
        },
        maps=60,
    )  # fmt: skip


def smile() -> Task:
    data = arrays("faces/smiles.npz")
    pictures = torch.from_numpy(data["images"])[:, None].float() / 127.5 - 1
    return _faces(
        "smile: faces of 64 x 64 pixels, smiling or not, 600 and 600; a small network (64 channels)",
        pictures, torch.from_numpy(data["smiling"]).long(), 1, 2, None,
        {"scratch": Recipe(epochs=10, batch_size=32, weight_decay=0.05, augment="flip-shift")}, maps=60,
    )  # fmt: skip


def expression() -> Task:
    data = arrays("faces/smiles.npz")
    gray = torch.from_numpy(data["images"])[:, None].float()
    pictures = F.interpolate(gray, (112, 112), mode="bilinear").expand(-1, 3, -1, -1).contiguous()
    labels = torch.from_numpy(data["smiling"]).long()
    return _faces(
        "smile, fine-tuned: the same faces at 112 x 112; a trained network of 7 expressions with a new last layer",
        pictures, labels, 3, 2, networks().face_expression()[0],
        {"fine-tune": Recipe(epochs=1, batch_size=32, lr=5e-4, augment="flip-shift")}, maps=0, outputs=2,
    )  # fmt: skip


def gender() -> Task:
    pictures, data = _people()
    return _faces(
        "gender: faces of 112 x 112 pixels, taken at half of that, 200 and 200; a small network (64 channels)",
        F.avg_pool2d(pictures, 2) / 127.5 - 1, torch.from_numpy(data["gender"]).long(), 3, 2, None,
        {"scratch": Recipe(epochs=20, batch_size=20, weight_decay=0.05, augment="flip-shift")},
    )  # fmt: skip


def age() -> Task:
    pictures, data = _people()
    labels = torch.from_numpy(data["age"]).float()
    spread = float(labels[::2].std())
    task = _faces(
        "age (regression): the same faces; mean absolute error in years",
        F.avg_pool2d(pictures, 2) / 127.5 - 1, labels[:, None], 3, 1, None,
        {"scratch": Recipe(epochs=20, batch_size=20, lr=4e-3, weight_decay=0.05, augment="flip-shift")},
        offset=float(labels[::2].mean()), scale=spread,
    )  # fmt: skip
    return _regression(task, labels, spread)


def gender_tuned() -> Task:
    pictures, data = _people()
    return _faces(
        "gender, fine-tuned: a trained network with two heads, its output 'gender'",
        pictures, torch.from_numpy(data["gender"]).long(), 3, 2, networks().age_gender()[0],
        {"fine-tune": Recipe(epochs=1, batch_size=20, lr=2e-4, augment="flip-shift")}, output="gender",
    )  # fmt: skip


def age_tuned() -> Task:
    pictures, data = _people()
    labels = torch.from_numpy(data["age"]).float()
    task = _faces(
        "age, fine-tuned: the same network, its output 'age'",
        pictures, labels, 3, 1, networks().age_gender()[0],
        {"fine-tune": Recipe(epochs=1, batch_size=20, lr=2e-4, augment="flip-shift")}, output="age",
    )  # fmt: skip
    return _regression(task, labels, float(labels[::2].std()))


def audio_visual() -> Task:
    generator = torch.Generator().manual_seed(SYNTHETIC_SEED)
    training, test = make(600, generator), make(200, generator)
    inputs = (training.faces, training.sound)
    return Task(
        "audio-visual: generated clips of 20 frames, 600 to train, 200 to test; two encoders, their sum, a recurrent "
        "layer (16 channels a stream, one block each); accuracy of frames",
        Network(
            (training.faces[:2], training.sound[:2]), None, lambda: Watcher(16), at={"face": "see", "audio": "hear"}
        ),
        InMemory(inputs, (training.kind > 0).long()), InMemory((test.faces, test.sound), (test.kind > 0).long()),
        {"scratch": Recipe(epochs=8, batch_size=16, lr=4e-3)},
        classes=(test.kind == 1).sum(1),  # how many frames of the clip have an event that is seen: 0, 4 or 8
    )  # fmt: skip


def _people() -> tuple[Tensor, Any]:
    data = arrays("faces/utkface400.npz")
    return torch.from_numpy(data["images"]).permute(0, 3, 1, 2).float().contiguous(), data


def _faces(
    words: str,
    pictures: Tensor,
    labels: Tensor,
    channels: int,
    units: int,
    trained: nn.Module | None,
    recipes: dict[str, Recipe],
    *,
    output: str = "output",
    maps: int = 0,
    outputs: int | None = None,
    offset: float = 0.0,
    scale: float = 1.0,
) -> Task:
    """Even-numbered faces to train, odd ones to test."""
    network = Network(
        pictures[:2], trained, lambda: SmallNet(channels, units, offset, scale), output=output, outputs=outputs
    )
    return Task(
        words, network, InMemory(pictures[::2], labels[::2]), InMemory(pictures[1::2], labels[1::2]), recipes,
        output=output, maps=maps,
    )  # fmt: skip


def _regression(task: Task, labels: Tensor, spread: float) -> Task:
    task.kind, task.unit, task.margin = "regression", "years", round(0.05 * spread, 2)
    limits = labels[::2].quantile(torch.tensor([0.25, 0.5, 0.75]))
    task.classes = torch.bucketize(labels[1::2].contiguous(), limits)
    return task


TASKS: dict[str, Callable[[], Task]] = {
    "demo": demo, "cifar": cifar, "smile": smile, "expression": expression, "gender": gender, "age": age,
    "gender-tuned": gender_tuned, "age-tuned": age_tuned, "audio-visual": audio_visual,
}  # fmt: skip
