"""Another number of classes: a fresh last layer, judged by what comes out of the model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from squeezecam.attach import attach
from squeezecam.errors import ModelError
from squeezecam.models.classifier import give_classes
from squeezecam.parity.network import Network

PICTURES = torch.rand(2, 3, 16, 16)


class Net(nn.Module):
    """A convolution and a batch norm, pooled, and a head on top."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = self.head(self.features(x).mean((2, 3)))
        return values


class MeanOfHeads(nn.Module):
    """An ensemble: no single layer is the last one, the only one before the output is a convolution."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.heads = nn.ModuleList(nn.Linear(8, classes) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        z = self.features(x).mean((2, 3))
        return torch.stack([head(z) for head in self.heads]).mean(0)


def hidden(classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, classes))


def normed(classes: int) -> nn.Module:
    return nn.utils.parametrizations.weight_norm(nn.Linear(8, classes))


def given(model: nn.Module, classes: int) -> bool:
    model.eval()
    squeeze = attach(model, PICTURES)
    return give_classes(squeeze, PICTURES, squeeze.default_output, classes)


@pytest.mark.parametrize(
    "make", [lambda: Net(hidden(3)), lambda: Net(normed(3)), lambda: MeanOfHeads(3)], ids=["hidden", "normed", "mean"]
)
def test_a_model_that_gives_so_many_already_is_left_alone_whatever_its_head_is(make: Callable[[], nn.Module]) -> None:
    model = make()
    before = dict(model.named_modules())
    assert given(model, 3)
    assert dict(model.named_modules()) == before
    assert Network(PICTURES, model, outputs=3).start("fine-tune", 0, "gate")(PICTURES).shape == (2, 3)


def test_the_last_layer_of_a_head_with_a_hidden_layer_is_replaced() -> None:
    model = Net(hidden(5))
    first = model.head[0]
    assert given(model, 3)
    assert model(PICTURES).shape == (2, 3)
    assert model.head[0] is first


@pytest.mark.parametrize("make", [lambda: Net(normed(5)), lambda: MeanOfHeads(5)], ids=["normed", "mean"])
def test_what_cannot_be_replaced_stays_as_it_was(make: Callable[[], nn.Module]) -> None:
    model = make().eval()
    before, values = dict(model.named_modules()), model(PICTURES)
    assert not given(model, 3)
    assert dict(model.named_modules()) == before
    assert torch.equal(model(PICTURES), values)
    with pytest.raises(ModelError, match="none that can be replaced"):
        Network(PICTURES, model, outputs=3).start("fine-tune", 0, "gate")
