"""Figures about chosen channels in the table, and the pace of a measurement."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import squeezecam
from conftest import Planted
from squeezecam import InputError
from squeezecam.evaluation.channels import channel_figures
from squeezecam.evaluation.pace import paced
from squeezecam.evaluation.subject import Subject
from squeezecam.pacing import AT_ONCE

NAMES = ["channel_faithfulness", "channel_correlation", "opposing_share"]


def pictures(count: int = 5) -> Tensor:
    """Channel 0 is strong, the others are weak: it is the one that a z-score picks out of three by activation."""
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(count, 3, 12, 12, generator=generator) * 0.1
    x[:, 0] += 2
    return x


def planted(*weights: list[float]) -> squeezecam.Squeeze:
    return squeezecam.attach(Planted(torch.tensor(weights)), pictures(2))


def figures(squeeze: squeezecam.Squeeze, method: str, target: int, x: Tensor | None = None) -> dict[str, Tensor]:
    x = pictures() if x is None else x
    return channel_figures(Subject(squeeze, "output"), x, method, torch.full((len(x),), target), "logits")


def test_a_chosen_channel_that_carries_the_class_loses_more_than_a_random_one() -> None:
    squeeze = planted([1.0, 0.1, 0.1], [-1.0, 0.1, 0.1])
    found = figures(squeeze, "contribution", 0)
    x = pictures()
    explained = squeeze.explain(x, method="contribution")
    assert explained.kept.tolist() == [[True, False, False]] * 5
    probability = squeeze(x).softmax(1)[:, 0]
    without = x.clone()
    without[:, 0] = 0
    lost = probability - squeeze(without).softmax(1)[:, 0]
    assert (found["channel_faithfulness"] > 0).all()
    assert (found["channel_faithfulness"] <= lost + 1e-6).all()  # less that of random channels, of which one is it
    assert torch.equal(found["opposing_share"], torch.zeros(5))


def test_the_chosen_channels_are_held_against_random_ones_by_hand() -> None:
    squeeze = planted([1.0, 3.0, -8.0], [0.0, 0.0, 0.1])
    x = torch.tensor([2.0, 0.1, 0.05]).view(1, 3, 1, 1).expand(1, 3, 12, 12).contiguous()
    assert squeeze.explain(x, method="contribution").kept.tolist() == [[True, False, False]]
    subject = Subject(squeeze, "output")
    found = channel_figures(subject, x, "contribution", torch.tensor([0]), "scores")["channel_faithfulness"]
    # Channels 0, 1 and 2 add 2, .3 and -.4 to the score. One of them is drawn four times, the first in each order.
    generator = torch.Generator().manual_seed(0)
    drawn = [int(torch.randperm(3, generator=generator).argmin()) for _ in range(4)]
    random = sum([2.0, 0.3, -0.4][channel] for channel in drawn) / 4
    assert random != pytest.approx(-0.4, abs=0.1)  # what the channel with the lowest score loses
    assert found.item() == pytest.approx(2 - random, abs=1e-5)


def test_a_chosen_channel_may_vote_against_the_class() -> None:
    squeeze = planted([1.0, 0.1, 0.1], [-1.0, 0.1, 0.1])
    found = figures(squeeze, "contribution", 1)
    assert torch.equal(found["opposing_share"], torch.ones(5))
    assert (found["channel_faithfulness"] < 0).all()  # the class gains where the channel is gone


def test_what_keeps_all_channels_has_chosen_nothing() -> None:
    squeeze = planted([1.0, 0.1, -0.1], [-1.0, 0.1, 0.1])
    found = figures(squeeze, "class", 0)
    assert found["channel_faithfulness"].isnan().all()
    assert torch.allclose(found["opposing_share"], torch.tensor(1 / 3))
    assert torch.allclose(found["channel_correlation"].double(), torch.ones(5, dtype=torch.float64))


def test_columns_by_name_are_for_our_own_methods_only() -> None:
    squeeze = planted([1.0, 0.1, 0.1], [-1.0, 0.1, 0.1])
    found = squeezecam.evaluate(squeeze, pictures(), ["contribution", "class"], NAMES)
    assert [c.name for c in found.columns] == [*NAMES, "map_area"]
    assert not found.values("contribution", "channel_faithfulness").isnan().any()
    assert found.values("random-map", "opposing_share").isnan().all()
    lines = {line.split("  ")[0]: line for line in found.text().splitlines()}
    assert lines["random map"].count("n/a") == 3
    assert "n/a" not in lines["contribution"]
    assert "n/a: not applicable" in str(found)
    rows = [row.split(",") for row in found.csv().splitlines() if "random-map" in row and "opposing" in row]
    assert len(rows) == 1
    assert "n/a" not in rows[0]


def test_figures_are_those_of_each_picture_alone() -> None:
    squeeze = planted([1.0, 0.4, 0.1], [-1.0, 0.1, 0.3])
    x = pictures(4)
    together = figures(squeeze, "contribution", 0, x)
    for i in range(4):
        alone = figures(squeeze, "contribution", 0, x[i : i + 1])
        for name in NAMES:
            assert torch.allclose(together[name][i : i + 1], alone[name], atol=1e-6, equal_nan=True), name


class Tokens(nn.Module):
    """A class token beside the tokens of the map; attention makes the answer depend on both."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
        self.last = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1)
        found: Tensor = self.fc(self.last(self.block(tokens))[:, 0])
        return found


def test_tokens_beside_the_map_stay_as_they_are() -> None:
    x = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    squeeze = squeezecam.attach(Tokens().eval(), x[:2], at="block")
    found = figures(squeeze, "contribution", 1, x)
    assert found["channel_correlation"].isfinite().all()
    assert ((found["opposing_share"] >= 0) & (found["opposing_share"] <= 1)).all()


# --- pace ------------------------------------------------------------------------------------------------


class Conv(nn.Module):
    """``views``: looks at its features through ``view``, which channels last does not allow."""

    def __init__(self, views: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features, self.fc = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, 3)
        self.views, self.last = views, False

    def forward(self, x: Tensor) -> Tensor:
        self.last = x.is_contiguous(memory_format=torch.channels_last)
        seen = self.features(x).relu()
        pooled = seen.view(len(x), -1).view(len(x), 8, -1).mean(2) if self.views else seen.mean((2, 3))
        found: Tensor = self.fc(pooled)
        return found


@pytest.mark.parametrize("views", [False, True])
def test_channels_last_where_the_model_takes_it(views: bool) -> None:
    model, x = Conv(views), torch.rand(6, 3, 32, 32)
    subject = Subject(squeezecam.attach(model.eval(), x), "output")
    plain = subject.predict(x)
    faster, size = paced(subject, x, 64)
    found = faster.predict(x)
    assert model.last is not views
    assert torch.allclose(found, plain, atol=1e-6)
    assert size == 64


@pytest.mark.parametrize(("side", "most", "expected"), [(224, 16, 4), (448, 16, 4), (112, 64, 16), (224, 2, 2)])
def test_as_many_pictures_at_a_time_as_stay_in_the_cache(side: int, most: int, expected: int) -> None:
    x = torch.zeros(2, 3, side, side)
    assert paced(Subject(squeezecam.attach(Conv().eval(), x), "output"), x, most)[1] == expected
    assert AT_ONCE == 4 * 3 * 224 * 224


def test_a_model_that_answers_otherwise_keeps_its_layout() -> None:
    class Odd(Conv):
        def forward(self, x: Tensor) -> Tensor:
            found = super().forward(x)
            return found + 1.0 if self.last else found

    model, x = Odd(), torch.rand(4, 3, 32, 32)
    subject = Subject(squeezecam.attach(model.eval(), x), "output")
    faster, _ = paced(subject, x, 8)
    assert torch.equal(faster.predict(x), subject.predict(x))


class Around(nn.Module):
    """The answer depends on the picture beside the map: in its last column stands the sign of all evidence."""

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        self.features, self.fc, self.noise = nn.Conv2d(3, 3, 1, bias=False), nn.Linear(3, 2, bias=False), noise
        with torch.no_grad():
            self.features.weight.copy_(torch.eye(3)[:, :, None, None])
            self.fc.weight.copy_(torch.tensor([[1.0, 0.1, 0.1], [-1.0, 0.1, 0.1]]))

    def forward(self, x: Any) -> Tensor:
        found: Tensor = self.fc(self.features(x).relu().mean((2, 3))) * x[:, 0, 0, -1:]
        return found + self.noise * torch.rand(found.shape)


def test_what_goes_past_the_map_is_held_fixed_for_each_picture() -> None:
    x = pictures()
    x[:, 0, 0, -1] = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])
    found = figures(squeezecam.attach(Around().eval(), x, at="features"), "contribution", 0, x)
    assert found["opposing_share"].tolist() == [0.0, 1.0, 0.0, 1.0, 0.0]


def test_a_head_that_cannot_be_run_alone_is_said() -> None:
    squeeze = squeezecam.attach(Around(noise=1.0).eval(), pictures(), at="features")
    with pytest.raises(InputError, match="leave channel_faithfulness"):
        squeezecam.evaluate(squeeze, pictures(), ["published"], NAMES)
