"""An output of one value: a decision between two sides when told, else a regression that says what heat means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import squeezecam
from squeezecam.commands.predictions import prediction
from squeezecam.errors import FitError, InputError
from squeezecam.fit.labels import task_loss
from squeezecam.render.explained import caption
from squeezecam.sides import as_classes, read_as_binary, two_sides


class Planted(nn.Module):
    """Red speaks for yes, green for no, each where it is bright."""

    def __init__(self, link: str = "identity", form: str = "column", head: str = "linear") -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.ReLU(), nn.AvgPool2d(4))
        self.fc: nn.Module = nn.Conv2d(3, 1, 1) if head.startswith("conv") else nn.Linear(3, 1)
        self.deep = nn.Linear(3, 3, bias=False)
        self.link, self.form, self.head = link, form, head
        with torch.no_grad():
            self.image[0].weight.copy_(torch.eye(3)[:, :, None, None])
            self.deep.weight.copy_(torch.eye(3))
            self.fc.weight.copy_(torch.tensor([[40.0, -40.0, 0.5]]).view(self.fc.weight.shape))
            self.fc.bias.fill_(0.3)

    def forward(self, x: Tensor) -> Tensor:
        u = self.image(x)
        if self.head.startswith("conv"):
            y = self.fc(u)
            y = (y.relu() if self.head == "conv relu" else y).mean((2, 3))
        else:
            z = u.mean((2, 3))
            y = self.fc(self.deep(z).relu() if self.head == "deep" else z)
        y = y.sigmoid() if self.link == "sigmoid" else y
        return y if self.form == "column" else y[:, 0]


def pictures(count: int = 8, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures with a small red and a small green patch, of which one is brighter; places of red and of green."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.05 * torch.rand(count, 3, 32, 32, generator=generator)
    columns = torch.randint(0, 4, (count,), generator=generator) * 8
    places = torch.stack([torch.zeros_like(columns), columns], 1), torch.stack([columns * 0 + 16, 24 - columns], 1)
    for i in range(count):
        for channel, place in enumerate(places):
            top, left = place[i].tolist()
            x[i, channel, top : top + 8, left : left + 8] = 1.0 if i % 2 == channel else 0.5
    return x, *places


def points_at(heat: Tensor, place: Tensor) -> Tensor:
    peak = heat.flatten(1).argmax(1)
    rows, columns = peak // 32, peak % 32
    inside = (rows >= place[:, 0]) & (rows < place[:, 0] + 8)
    return inside & (columns >= place[:, 1]) & (columns < place[:, 1] + 8)


FORMS = [("identity", "column"), ("identity", "flat"), ("sigmoid", "column"), ("sigmoid", "flat")]


@pytest.mark.parametrize("head", ["linear", "conv"])
@pytest.mark.parametrize(("link", "form"), FORMS)
def test_the_side_decided_for_is_explained_and_its_evidence_adds_up(link: str, form: str, head: str) -> None:
    model = Planted(link, form, head).double().eval()
    x, red, green = pictures()
    x = x.double()
    squeeze = squeezecam.attach(model, x[:2], task="binary")
    found = squeeze.explain(x, method="class")
    logit = Planted("identity", "flat", head).double()(x).detach()
    assert found.target is not None
    assert found.scores is not None
    assert found.target.tolist() == (logit > 0).long().tolist() == [1, 0] * 4
    torch.testing.assert_close(found.scores, torch.stack([-logit / 2, logit / 2], 1), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.scores.softmax(1)[:, 1], logit.sigmoid())
    assert bool(points_at(found.heatmap, torch.where(found.target[:, None] == 1, red, green)).all())
    evidence = squeeze.head()
    assert evidence is not None
    features = squeeze.capture(x)[1]["map"].features
    constant = evidence.constant(model, features, found.target)
    chosen = found.scores.gather(1, found.target[:, None])[:, 0]
    torch.testing.assert_close(found.raw.mean((1, 2)) + constant, chosen, rtol=1e-9, atol=1e-9)
    if link == "identity":  # what the model returns stays its own
        assert torch.equal(found.output, model(x))


def test_either_side_can_be_asked_for() -> None:
    x, red, green = pictures()
    squeeze = squeezecam.attach(Planted().eval(), x[:2], task="binary")
    both = squeeze.explain(x, target=[[0, 1]] * len(x), method="class")
    assert bool(points_at(both.heatmap[:, 0], green).all())
    assert bool(points_at(both.heatmap[:, 1], red).all())
    torch.testing.assert_close(both.raw[:, 0], -both.raw[:, 1])
    with pytest.raises(InputError, match="from 0 to 1; got 2"):
        squeeze.explain(x, target=2)


def test_one_value_is_a_regression_unless_told() -> None:
    x, red, _ = pictures()
    squeeze = squeezecam.attach(Planted().eval(), x[:2])
    found = squeeze.explain(x, method="class")
    assert bool(points_at(found.heatmap, red).all())
    assert found.scores is not None
    assert torch.equal(found.scores, found.output)
    value = f"{float(found.output[1, 0]):.4g}"
    assert prediction(squeeze, found, 1, None, None).title() == f"value {value} (heat: what raises it)"
    assert caption(found, 1) == f"{value} (heat: what raises it)"
    published = squeeze.explain(x, method="published")
    assert prediction(squeeze, published, 1, None, None).title() == f"value {value}"


def test_titles_of_a_decision_name_the_side_and_its_probability() -> None:
    x, *_ = pictures()
    squeeze = squeezecam.attach(Planted().eval(), x[:2], task="binary")
    found = squeeze.explain(x, method="class")
    logit = found.output[:, 0]
    told = [prediction(squeeze, found, i, None, None) for i in (0, 1)]
    assert told[0].title() == f"positive side · {float(logit[0].sigmoid()):.1%}"
    assert told[1].title() == f"negative side · {float((-logit[1]).sigmoid()):.1%}"
    assert [one.value for one in told] == pytest.approx(logit[:2].tolist())
    assert prediction(squeeze, found, 0, ("cat", "dog"), None).label == "dog"
    asked = squeeze.explain(x, method="class", target=1)
    assert "asked for" in prediction(squeeze, asked, 1, None, None).title()


@pytest.mark.parametrize("head", ["linear", "deep", "conv relu"])
@pytest.mark.parametrize("labelled", [False, True])
def test_a_fit_for_a_decision(head: str, labelled: bool, tmp_path: Path) -> None:
    x, *_ = pictures(80)
    x = x * torch.linspace(0.5, 1.5, 80)[:, None, None, None]
    truth = (torch.arange(80) % 2 == 0).float()[:, None]
    data: Any = list(zip(x.split(16), truth.split(16), strict=True)) if labelled else list(x.split(16))
    model = Planted(head=head).eval()
    squeeze = squeezecam.attach(model, x[:2])
    report = squeeze.fit(data, task="binary")
    assert report.task == "binary"
    assert not report.notes or "one value" not in " ".join(report.notes)
    if labelled and head != "conv relu":
        assert report.accuracy_before == 1.0
    squeeze.save(tmp_path / "m.squeeze.safetensors")
    back = squeezecam.load(tmp_path / "m.squeeze.safetensors", model, x[:2])
    fresh = pictures(6, 5)
    found = squeeze.explain(fresh[0], method="class")
    assert torch.equal(back.explain(fresh[0], method="class").raw, found.raw)
    if head != "conv relu":
        where = torch.where(found.target[:, None] == 1, fresh[1], fresh[2])  # type: ignore[index]
        assert bool(points_at(found.heatmap, where).all())
        assert bool(points_at(back.explain(fresh[0], method="published").heatmap, where).all())


def test_training_on_labels_for_a_decision_is_that_of_its_logit() -> None:
    """Cross-entropy of the two sides is binary cross-entropy of the logit, so labels 0 and 1 train it."""
    x, *_ = pictures(80)
    truth = (torch.arange(80) % 2).float()  # the other way round than the model says
    squeeze = squeezecam.attach(Planted().eval(), x[:2], apply="gate")
    data = list(zip(x.split(16), truth.split(16), strict=True))
    report = squeeze.fit(data, objective="task", train="head", task="binary", epochs=3)
    assert report.accuracy_before == 0.0
    assert report.history[-1] < report.history[0]
    logit = squeeze.model(x)[:, 0]
    loss = task_loss(two_sides(logit, "identity"), as_classes(truth), "classification")
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(logit, truth))
    with pytest.raises(FitError, match="one label a sample, 0 or 1"):
        squeeze.fit([(one, 2 * two) for one, two in data], objective="task")


def test_a_regression_is_told_what_its_maps_mean() -> None:
    x, *_ = pictures(40)
    guessed = squeezecam.attach(Planted().eval(), x[:2]).fit(list(x.split(10)))
    assert guessed.task == "regression"
    assert any("task='binary'" in note for note in guessed.notes)
    said = squeezecam.attach(Planted().eval(), x[:2]).fit(list(x.split(10)), task="regression")
    assert not any("task='binary'" in note for note in said.notes)


def test_what_cannot_be_a_decision_is_refused() -> None:
    x, *_ = pictures(20)
    classes = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    with pytest.raises(InputError, match="one value"):
        squeezecam.attach(classes.eval(), x[:2], task="binary")
    with pytest.raises(InputError, match="fit\\(task="):
        squeezecam.attach(classes, x[:2], task="regression")
    squeeze = squeezecam.attach(Planted().eval(), x[:2], task="binary")
    with pytest.raises(InputError, match="read as a decision"):
        squeeze.fit(list(x.split(5)), task="regression")


def test_a_read_out_of_one_value_serves_both_sides_once_told() -> None:
    x, *_ = pictures(60)
    squeeze = squeezecam.attach(Planted(head="deep").eval(), x[:2])
    squeeze.fit(list((x * torch.linspace(0.5, 1.5, 60)[:, None, None, None]).split(12)))
    before = squeeze.explain(x[:4], method="class").raw
    read_as_binary(squeeze)
    after = squeeze.explain(x[:4], method="class", target=[[0, 1]] * 4).raw
    torch.testing.assert_close(after, torch.stack([-before, before], 1) / 2)


@pytest.mark.parametrize("method", ["class", "focus"])
def test_the_plain_module_shows_the_same(method: str) -> None:
    x, *_ = pictures()
    squeeze = squeezecam.attach(Planted("sigmoid").eval(), x[:2], task="binary")
    output, heat, _ = squeeze.as_module(method=method)(x)
    assert output.shape == (8, 1)
    torch.testing.assert_close(heat, squeeze.explain(x, method=method).heatmap, rtol=1e-4, atol=1e-6)


def test_masks_are_refined_for_the_side_decided_for() -> None:
    x, *_ = pictures(24)
    squeeze = squeezecam.attach(Planted().eval(), x[:2], task="binary")
    squeeze.refine(list(x.split(6)), epochs=1)
    assert squeeze.explain(x[:4]).method == "refined"
