"""What the tests share: a fixed seed, the optional material, and small models whose answers are known."""

from __future__ import annotations

import os
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from squeezecam import Squeeze

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def material() -> Path:
    """Folder of trained models and photographs; it is no part of the project."""
    beside = Path(__file__).resolve().parents[1] / ".." / "shared" / "material"
    folder = Path(os.environ.get("SQUEEZECAM_MATERIAL") or beside).resolve()
    if not (folder / "models.py").is_file():
        pytest.skip(f"no material at {folder}: set SQUEEZECAM_MATERIAL to the folder that holds models.py")
    return folder


@pytest.fixture(scope="module")
def device() -> Iterator[torch.device]:
    """The accelerator of this machine, or what SQUEEZECAM_TEST_DEVICE names; without TF32, whose digits are few."""
    name = os.environ.get("SQUEEZECAM_TEST_DEVICE") or ("cuda" if torch.cuda.is_available() else "")
    if not name:
        pytest.skip("no accelerator: torch.cuda.is_available() is false, and SQUEEZECAM_TEST_DEVICE names no device")
    matmul, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, convolutions.allow_tf32
    matmul.allow_tf32 = convolutions.allow_tf32 = False
    yield torch.empty(0, device=name).device
    matmul.allow_tf32, convolutions.allow_tf32 = before


# --- models ---------------------------------------------------------------------------------------------


class ConvNet(nn.Module):
    """Convolutions of any rank, ReLU, functional mean pooling, linear: nothing to hook after the features."""

    def __init__(self, rank: int = 2, channels: int = 32, classes: int = 5) -> None:
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
        self.features = nn.Sequential(conv(2, 8, 3, 2, 1), nn.ReLU(), conv(8, channels, 3, 1, 1), nn.ReLU())
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).flatten(2).mean(2))


class ChannelsLast(nn.Module):
    """Convolution, then a channels-last stage (N, ..., C), as in Swin: mean pooling over the middle axes, linear."""

    def __init__(self, rank: int = 2, channels: int = 32, classes: int = 5) -> None:
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
        self.stem = conv(2, 8, 3, 2, 1)
        self.mix = nn.Sequential(nn.Linear(8, channels), nn.ReLU())
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix(self.stem(x).movedim(1, -1))
        return self.fc(x.mean(dim=tuple(range(1, x.ndim - 1))))


class NormHead(nn.Module):
    """Mean pooling, LayerNorm, linear, on features that can be negative, as in ConvNeXt."""

    def __init__(self, channels: int = 32, classes: int = 5) -> None:
        super().__init__()
        self.features = nn.Conv2d(2, channels, 3, 2, 1)
        self.norm = nn.LayerNorm(channels)
        self.fc = nn.Linear(channels, classes)
        nn.init.normal_(self.norm.weight, 1, 0.3)
        nn.init.normal_(self.norm.bias, 0, 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.features(x).mean((2, 3))))


class ConvHead(nn.Module):
    """A 1x1 convolution before the pooling, with or without a ReLU, as in SqueezeNet."""

    def __init__(self, relu: bool = True, channels: int = 32, classes: int = 5) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(2, channels, 3, 2, 1), nn.ReLU())
        self.classifier = nn.Conv2d(channels, classes, 1)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.classifier(self.features(x))
        return (F.relu(x) if self.relu else x).mean((2, 3))


class InPlaceRelu(nn.Module):
    """A functional ReLU *in place* stands between the feature map and the pooling, as in DenseNet."""

    def __init__(self, channels: int = 32, classes: int = 5) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(2, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, channels, 3, 1, 1))
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.features(x), inplace=True).mean((2, 3)))


class Planted(nn.Module):
    """The features are the input's own channels, the classification layer is given: all can be said by hand."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        classes, channels = weight.shape
        self.features = nn.Conv2d(channels, channels, 1, bias=False)
        self.fc = nn.Linear(channels, classes, bias=bias is not None)
        with torch.no_grad():
            self.features.weight.copy_(torch.eye(channels)[:, :, None, None])
            self.fc.weight.copy_(weight)
            if bias is not None:
                self.fc.bias.copy_(bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))


@dataclass
class Answer:
    logits: Tensor
    note: str = "kept"


@dataclass
class MappedAnswer(OrderedDict):
    """An ordered dict and a dataclass at once, as the outputs of transformers are."""

    logits: Tensor
    extra: Tensor

    def __post_init__(self) -> None:
        self.update(logits=self.logits, extra=self.extra)


class Pair(NamedTuple):
    logits: Tensor
    extra: Tensor


WRAPPERS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "dict": lambda logits, extra: {"logits": logits, "extra": extra},
    "tuple": lambda logits, extra: (logits, extra),
    "list": lambda logits, extra: [logits, extra],
    "namedtuple": Pair,
    "dataclass": lambda logits, extra: Answer(logits),
    "mapped dataclass": MappedAnswer,
    "defaultdict": lambda logits, extra: defaultdict(list, logits=logits, extra=extra),
    "nested": lambda logits, extra: {"aux": {"extra": extra}, "logits": logits},
}


class Structured(nn.Module):
    """Class scores inside a dict, tuple, named tuple, dataclass or nest, beside another output."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.inner = ConvNet(classes=5)
        self.other = nn.Linear(32, 1)

    def forward(self, x: Tensor) -> object:
        pooled = self.inner.features(x).mean((2, 3))
        return WRAPPERS[self.kind](self.inner.fc(pooled), self.other(pooled))


class TwoStreams(nn.Module):
    """Two inputs that meet as vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.face, self.body = ConvNet(channels=16), ConvNet(channels=24)
        self.fc = nn.Linear(40, 3)

    def forward(self, face: Tensor, body: Tensor) -> Tensor:
        pooled = [self.face.features(face).mean((2, 3)), self.body.features(body).mean((2, 3))]
        return self.fc(torch.cat(pooled, 1))


class Wrapper(nn.Module):
    """What parallel wrappers look like: the module under the name ``module``."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: object, **kwargs: object) -> object:
        return self.module(*args, **kwargs)


def leave_identity(squeeze: Squeeze, seed: int = 1) -> Squeeze:
    """Give every block arbitrary weights, as a fit would; rows of both signs, so that one hidden unit is alive."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for stream in squeeze.places:
            block = squeeze.block(stream)
            block.reduce.weight.copy_(torch.rand(block.reduce.weight.shape, generator=generator))
            block.reduce.weight[1::2] *= -1
            block.expand.weight.copy_(torch.randn(block.expand.weight.shape, generator=generator))
    return squeeze


def hooks_of(model: nn.Module) -> int:
    """Number of forward hooks of all modules."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
