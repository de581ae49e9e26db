"""Tuning a fitted block by what the model answers to masked pictures."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import squeezecam
from squeezecam.errors import FitError, InputError
from squeezecam.fit.tuning import prefer

CHANNELS, EYES = 24, 3
"""Channels of the model; for each of the two animals the first three see the eye, the next three the whole body."""


class Animals(nn.Module):
    """Two kinds of animal, red and green, each a square body with a blue eye, and nothing. An eye counts for more than
    a place of the body, but alone it is taken for nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, CHANNELS, 4, 4), nn.ReLU())
        self.head = nn.Linear(CHANNELS, 3)
        with torch.no_grad():
            conv = self.features[0]
            conv.weight.zero_()
            conv.bias.fill_(-0.1)
            self.head.weight.zero_()
            self.head.bias.copy_(torch.tensor([0.0, 0.0, 4.0]))
            for kind in range(2):
                eyes = slice(6 * kind, 6 * kind + EYES)
                bodies = slice(6 * kind + EYES, 6 * kind + 2 * EYES)
                conv.weight[eyes, 2] = 1 / 16  # the eye is blue ...
                conv.weight[eyes, kind] = 1 / 16  # ... on the colour of its kind
                conv.bias[eyes] = -1.0
                conv.weight[bodies, kind] = 1 / 16
                self.head.weight[kind, eyes] = 60.0
                self.head.weight[kind, bodies] = 12.0
            conv.weight[12:] = 0.02 * torch.randn(CHANNELS - 12, 3, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


def animals(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    pictures = 0.2 * torch.rand(count, 3, 32, 32, generator=generator)
    for picture in pictures:
        kind, row, column, high, wide = (
            int(torch.randint(low, end, (), generator=generator))
            for low, end in ((0, 2), (0, 4), (0, 4), (3, 5), (3, 5))
        )
        top, left = 4 * row, 4 * column
        picture[kind, top : top + 4 * high, left : left + 4 * wide] = 0.8
        picture[2, top : top + 4, left : left + 4] = 1.0
    return pictures


@pytest.fixture(scope="module")
def fitted() -> squeezecam.Squeeze:
    squeeze = squeezecam.attach(Animals(), animals(2))
    squeeze.fit(list(animals(128).split(16)), seed=0)
    return squeeze


def average_drop(squeeze: squeezecam.Squeeze, pictures: Tensor) -> float:
    with torch.no_grad():
        full, target = squeeze.model(pictures).softmax(1).max(1)
        heat = squeeze.explain(pictures, method="published").heatmap
        heat = heat / heat.flatten(1).amax(1).view(-1, 1, 1)
        kept = squeeze.model(pictures * heat[:, None]).softmax(1).gather(1, target[:, None])[:, 0]
    return float(((full - kept).relu() / full).mean())


def test_it_finds_the_channels_that_show_what_the_model_needs(fitted: squeezecam.Squeeze) -> None:
    squeeze, pictures = copy.deepcopy(fitted), animals(64, seed=1)
    before, model = average_drop(squeeze, pictures), copy.deepcopy(squeeze.model.state_dict())
    spread = block_spread(squeeze, pictures)
    report = squeeze.tune(list(animals(128).split(8)), seed=0)
    assert report.kept > 0
    assert report.after["adcc"] > report.before["adcc"]
    assert average_drop(squeeze, pictures) < before - 0.1
    assert block_spread(squeeze, pictures) == pytest.approx(spread, rel=0.1)  # gates as narrow as they were
    assert all(torch.equal(value, squeeze.model.state_dict()[name]) for name, value in model.items())
    assert all(parameter.requires_grad for parameter in squeeze.model.parameters())
    assert squeeze.explain(pictures, method="published").status == ["ok"] * 64


def block_spread(squeeze: squeezecam.Squeeze, pictures: Tensor) -> float:
    vectors = next(iter(squeeze.capture(pictures)[1].values())).squeezed
    return float(squeeze.block().logits(vectors).std(1, correction=0).mean().detach())


def test_the_same_again_with_the_same_seed(fitted: squeezecam.Squeeze) -> None:
    found = []
    for _ in range(2):
        squeeze = copy.deepcopy(fitted)
        squeeze.tune(list(animals(96).split(4)), epochs=2, seed=3)
        found.append(squeeze.block().expand.weight.detach().clone())
    assert torch.equal(*found)
    assert not torch.equal(found[0], fitted.block().expand.weight)


def test_preferences_are_in_deviations_of_each_column() -> None:
    block = squeezecam.SEBlock(4, hidden=2)
    with torch.no_grad():
        block.reduce.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]]))
        block.expand.weight.copy_(torch.tensor([[2.0, 0], [0, 30.0], [-2.0, 0], [0, -30.0]]))  # deviations 2^.5, 450^.5
    before = block.expand.weight.detach().clone()
    vectors = torch.tensor([[1.0, 0, 0, 0]])
    prefer(block, torch.tensor([0.0, 0, 0, 1.0]), vectors)
    wanted = before.clone()
    wanted[3] += torch.tensor([2**0.5, 450**0.5])
    ratio = block.expand.weight.detach()[0, 0] / wanted[0, 0]
    assert torch.allclose(block.expand.weight.detach(), wanted * ratio)
    assert float(block.logits(vectors).std(correction=0)) == pytest.approx(2**0.5)


def test_what_cannot_be_tuned_is_refused(fitted: squeezecam.Squeeze) -> None:
    new = squeezecam.attach(Animals(), animals(2))
    with pytest.raises(FitError, match="comes first"):
        new.tune(list(animals(16).split(4)))
    with pytest.raises(FitError, match="iterator"):
        fitted.tune(iter(animals(16).split(4)))
    with pytest.raises(FitError, match="two batches"):
        fitted.tune([animals(4)])
    with pytest.raises(InputError, match="epochs"):
        fitted.tune(list(animals(16).split(4)), epochs=0)


def test_a_model_in_half_precision_is_tuned_too() -> None:
    squeeze = squeezecam.attach(Animals().bfloat16(), torch.rand(2, 3, 32, 32).bfloat16())
    batches = [torch.rand(4, 3, 32, 32).bfloat16() for _ in range(8)]
    squeeze.fit(batches)
    assert len(squeeze.tune(batches, epochs=2).history) == 3


@pytest.mark.parametrize("what", ["tune", "refine", "locate"])
def test_maps_with_a_time_axis_are_refused_by_what_was_asked_for(what: str) -> None:
    net = nn.Sequential(nn.Conv3d(3, 24, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(24, 3))
    clips = [torch.rand(4, 3, 16, 32, 32) for _ in range(4)]
    squeeze = squeezecam.attach(net.eval(), clips[0][:2])
    squeeze.fit(clips)
    with pytest.raises(InputError, match=r"made for maps of height and width; that .* has 3 axes"):
        getattr(squeeze, what)(clips, epochs=1)
