"""Outputs of independent yes-or-no labels: no label is held against another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import squeezecam
from squeezecam.adapter import load
from squeezecam.commands.predictions import prediction
from squeezecam.errors import FitError, InputError
from squeezecam.fit import masked
from squeezecam.fit.batches import guess_task
from squeezecam.fit.labels import task_loss
from squeezecam.fit.pictures import Pictures
from squeezecam.fit.report import accuracy, same_prediction
from squeezecam.focus import speaking_for
from squeezecam.links import read_as_labels, score_kind
from squeezecam.refiner import evidence_of


class Colours(nn.Module):
    """Is there red, is there green, is there blue: a patch embedding, mean pooling, one logit for each."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 3, 4, 4)
        self.head = nn.Linear(3, 3)
        with torch.no_grad():
            self.features.weight.zero_()
            for colour in range(3):
                self.features.weight[colour, colour] = 1 / 16
            self.features.bias.zero_()
            self.head.weight.copy_(20 * torch.eye(3) + 0.5)
            self.head.bias.fill_(-1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).relu().mean((2, 3)))


class Deep(nn.Module):
    """The same question, answered in probabilities behind a hidden layer: no known form."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 8, 4, 4)
        self.hidden = nn.Linear(8, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(self.features(x).relu().mean((2, 3))).tanh()).sigmoid()


def pictures(count: int) -> Tensor:
    """Dark pictures with a red, a green and a blue square, each there or not."""
    generator = torch.Generator().manual_seed(3)
    found = 0.02 * torch.rand(count, 3, 24, 24, generator=generator)
    there = torch.rand(count, 3, generator=generator) < 0.6
    for colour, corner in enumerate(((0, 0), (12, 4), (4, 12))):
        y, x = corner
        found[there[:, colour], colour, y : y + 8, x : x + 8] = 1.0
    return found


@pytest.fixture
def told() -> squeezecam.Squeeze:
    x = pictures(40)
    squeeze = squeezecam.attach(Colours(), x[:2])
    squeeze.fit(list(x.split(8)), task="multi-label", progress=False)
    return squeeze


def test_no_label_is_held_against_another(told: squeezecam.Squeeze) -> None:
    x = pictures(6)
    values, seen = told.capture(x)
    features, target = next(iter(seen.values())).features, torch.tensor([0, 1, 2, 0, 1, 2])
    head = told.evidence()
    assert head is not None
    for given in (values, None):
        found = evidence_of(head, told.model, features, target, given)
        assert torch.equal(found.contrast, found.full)
        wanted = values.sigmoid().gather(1, target[:, None])[:, 0]
        assert torch.allclose(found.probability, wanted, atol=1e-5)
    read_as_labels(told, "output", labels=False)
    head = told.evidence()
    assert head is not None
    found = evidence_of(head, told.model, features, target, values)
    assert not torch.allclose(found.contrast, found.full, atol=1e-3)


def test_masks_are_judged_by_the_probability_of_the_label_alone(told: squeezecam.Squeeze) -> None:
    values, target = torch.tensor([[2.0, 2.0, -1.0]]), torch.tensor([1])
    found = masked._probability(Pictures(told, None, None), values, target)
    assert torch.allclose(found, torch.tensor([2.0]).sigmoid())
    read_as_labels(told, "output", labels=False)
    found = masked._probability(Pictures(told, None, None), values, target)
    assert torch.allclose(found, values.softmax(1)[:, 1])


def test_what_all_labels_have_in_common_still_speaks_for_each(told: squeezecam.Squeeze) -> None:
    features, target = torch.ones(1, 3, 2, 2), torch.tensor([0])
    head = told.evidence()
    assert head is not None
    assert torch.allclose(speaking_for(head, told.model, features, target), torch.full((1, 2, 2), 21.5))
    read_as_labels(told, "output", labels=False)
    head = told.evidence()
    assert head is not None
    assert torch.allclose(speaking_for(head, told.model, features, target), torch.full((1, 2, 2), 40 / 3))


def test_the_adapter_and_a_later_fit_remember(told: squeezecam.Squeeze, tmp_path: Path) -> None:
    told.save(tmp_path / "colours.squeeze.safetensors")
    again = load(tmp_path / "colours.squeeze.safetensors", Colours(), pictures(2))
    assert score_kind(again, "output") == "sigmoid"
    head = again.evidence()
    assert head is not None
    assert not head.competing
    report = again.fit(list(pictures(40).split(8)), progress=False)
    assert report.task == "multi-label"
    assert again.fit(list(pictures(40).split(8)), task="classification", progress=False).task == "classification"
    assert score_kind(again, "output") == "logits"


def test_captions_say_how_likely_each_label_is_by_itself(told: squeezecam.Squeeze) -> None:
    x = torch.zeros(1, 3, 24, 24)
    x[0, :2] = 0.6
    found = told.explain(x, method="class", target=0)
    likely = float(told.model(x).sigmoid()[0, 0])
    assert likely > 0.99
    said = prediction(told, found, 0, None, None)
    assert said.title() == f"class 0 · {likely:.1%}"
    absent = prediction(told, told.explain(x, method="class", target=2), 0, None, None)
    assert absent.title() == f"class 2 · {absent.probability:.1%} (the model says no)"


def test_attach_can_be_told_before_anything_is_fitted() -> None:
    squeeze = squeezecam.attach(Colours(), pictures(2), task="multi-label")
    assert squeeze.explain(pictures(2), method="class").scores_are == "sigmoid"
    assert squeezecam.attach(Colours(), pictures(2)).explain(pictures(2), method="class").scores_are == "logits"
    with pytest.raises(InputError, match="multi-label"):
        squeezecam.attach(Colours(), pictures(2), task="regression")


def test_labels_are_recognised_by_the_labels_of_a_fit() -> None:
    x = pictures(40)
    there = (x.amax((2, 3)) > 0.5).float()
    squeeze = squeezecam.attach(Colours(), x[:2])
    squeeze.fit([(a, b) for a, b in zip(x.split(8), there.split(8), strict=True)], progress=False)
    assert score_kind(squeeze, "output") == "sigmoid"


def test_a_refiner_of_labels_is_judged_label_by_label(told: squeezecam.Squeeze) -> None:
    x = pictures(48)
    report = told.refine(list(x.split(8)), epochs=2, lr=5e-3, hold_out=0.1, progress=False)
    assert report.held_out == 8
    held = x[:8]
    found = told.explain(held, method="refined")
    values = told.model(held).detach()
    target = values.argmax(1)
    assert torch.equal(found.target, target)
    masks = torch.stack([(m - m.min()) / (m.max() - m.min()) for m in found.heatmap])
    likely, kept = (v.sigmoid().gather(1, target[:, None])[:, 0] for v in (values, told.model(held * masks[:, None])))
    drop = ((likely - kept).relu() / likely).detach()
    assert float(drop.max()) > 0.01
    assert report.after["drop"] == pytest.approx(float(drop.mean()), abs=1e-4)


def test_a_read_out_of_probabilities_is_fitted_to_what_the_sigmoid_was_given() -> None:
    torch.manual_seed(0)
    x = torch.rand(160, 3, 16, 16) * torch.rand(160, 3, 1, 1)
    net = Deep().eval()
    with torch.no_grad():
        net.head.weight.mul_(6)
    squeeze = squeezecam.attach(net, x[:2])
    squeeze.fit(list(x.split(16)), task="multi-label", progress=False)
    head = squeeze.readouts["output"].first
    assert head.link == "sigmoid"
    assert not head.competing
    assert head.r2 > 0.9
    with torch.no_grad():
        values, seen = squeeze.capture(x[:8])
    features = next(iter(seen.values())).features
    logits = head.logits(net, features)
    assert torch.allclose(logits, torch.logit(values), atol=0.2 * torch.logit(values).std().item())
    found = evidence_of(head, net, features, values.argmax(1), values)
    assert torch.equal(found.probability, values.amax(1))
    assert torch.equal(found.contrast, found.full)


class OneByOne(Colours):
    """A layer and a sigmoid for each label, joined."""

    def __init__(self, joined: str) -> None:
        super().__init__()
        self.joined = joined
        self.heads = nn.ModuleList(nn.Linear(3, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        z = self.features(x).relu().mean((2, 3))
        parts = [head(z).sigmoid() for head in self.heads]
        return torch.cat(parts, 1) if self.joined == "cat" else torch.stack([p[:, 0] for p in parts], 1)


class Likely(Colours):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).sigmoid()


def labelled(count: int = 80) -> list[tuple[Tensor, Tensor]]:
    x = pictures(count)
    return list(zip(x.split(8), (x.amax((2, 3)) > 0.5).float().split(8), strict=True))


@pytest.mark.parametrize("joined", ["cat", "stack"])
def test_a_sigmoid_before_the_labels_are_joined_is_seen(joined: str) -> None:
    x = pictures(2)
    squeeze = squeezecam.attach(OneByOne(joined), x)
    assert score_kind(squeeze, "output") == "probabilities"
    found = squeeze.explain(x, target=1)
    assert prediction(squeeze, found, 0, None, None).probability == float(squeeze.model(x)[0, 1])


def test_parts_that_are_no_probabilities_make_the_whole_none() -> None:
    class Half(OneByOne):
        def forward(self, x: Tensor) -> Tensor:
            z = self.features(x).relu().mean((2, 3))
            return torch.cat([self.heads[0](z).sigmoid(), self.heads[1](z)], 1)

    assert score_kind(squeezecam.attach(Half("cat"), pictures(2)), "output") == "logits"


def test_labels_are_decided_at_a_half_where_they_are_probabilities() -> None:
    x = pictures(80)
    with torch.no_grad():
        truth = (Colours()(x) > 0).float()
    assert 0.3 < float(truth.mean()) < 0.8
    truth[:, 2] = 1 - truth[:, 2]  # so that one label in three is wrong
    batches = list(zip(x.split(8), truth.split(8), strict=True))
    first, second = (squeezecam.attach(net, x[:2]).fit(batches, progress=False) for net in (Colours(), Likely()))
    assert first.accuracy_before == pytest.approx(2 / 3)
    assert second.accuracy_before == first.accuracy_before
    assert second.settings == first.settings
    before, after = torch.tensor([[0.4, 0.6]]), torch.tensor([[0.6, 0.6]])
    assert not same_prediction(before, after, "multi-label", 0.5).any()


def test_what_ends_with_a_sigmoid_is_of_labels_without_being_told() -> None:
    x = pictures(40)
    squeeze = squeezecam.attach(Likely(), x[:2])
    absent = int(squeeze.model(x[:1])[0].argmin())
    said = prediction(squeeze, squeeze.explain(x[:1], target=absent), 0, None, None)
    assert "(the model says no)" in said.title()
    assert squeeze.fit(list(x.split(8)), progress=False).task == "multi-label"


def test_class_indices_are_classes_whatever_was_told_before(told: squeezecam.Squeeze) -> None:
    x = pictures(40)
    batches = [(a, a.mean((2, 3)).argmax(1)) for a in x.split(8)]
    assert told.fit(batches, progress=False).task == "classification"
    assert score_kind(told, "output") == "logits"


def test_probabilities_are_trained_as_such() -> None:
    logits, truth = torch.tensor([[2.0, -1.0, 0.3]]), torch.tensor([[1.0, 1.0, 0.0]])
    wanted = task_loss(logits, truth, "multi-label")
    assert torch.allclose(task_loss(logits.sigmoid(), truth, "multi-label", "sigmoid"), wanted)
    classes = torch.tensor([1])
    wanted = task_loss(logits, classes, "classification")
    assert torch.allclose(task_loss(logits.softmax(1), classes, "classification", "softmax"), wanted)


def test_labels_that_nobody_knows_are_left_out() -> None:
    values, truth = torch.tensor([[2.0, -1.0, 0.3]]), torch.tensor([[1.0, float("nan"), 0.0]])
    kept = task_loss(values[:, [0, 2]], truth[:, [0, 2]], "multi-label")
    assert torch.equal(task_loss(values, truth, "multi-label"), kept)
    assert accuracy(values, truth, "multi-label") == 0.5
    assert float(task_loss(values, truth * float("nan"), "multi-label")) == 0
    assert guess_task(values, truth) == "multi-label"


@pytest.mark.parametrize("task", [None, "multi-label"])
def test_labels_of_yes_and_no_are_1_and_0(task: str | None) -> None:
    x = pictures(40)
    squeeze = squeezecam.attach(Colours(), x[:2])
    signs = [(a, 2 * b - 1) for a, b in labelled(40)]
    with pytest.raises(FitError, match="make 0 of -1"):
        squeeze.fit(signs, task=task, progress=False)
    with pytest.raises(FitError, match=r"\(40, 2\) do not fit an output of shape \(40, 3\)"):
        squeeze.fit([(a, b[:, :2]) for a, b in labelled(40)], task=task, progress=False)


@pytest.mark.parametrize("bias", [-1.0, 30.0])
def test_a_label_that_every_picture_has_does_not_drown_the_others(bias: float) -> None:
    """Channel k is colour k, and label k is that channel: gates of colours that are there stand above the others,
    however loudly another label is said.
    """
    x = pictures(160)
    net = Colours()
    with torch.no_grad():
        net.head.bias[2] = bias
    squeeze = squeezecam.attach(net, x[:2])
    squeeze.fit(list(x.split(8)), task="multi-label", progress=False)
    one = x[((x.amax((2, 3)) > 0.5) == torch.tensor([True, False, True])).all(1)]
    other = x[((x.amax((2, 3)) > 0.5) == torch.tensor([False, True, True])).all(1)]
    assert len(one)
    assert len(other)
    with torch.no_grad():
        red, green = squeeze.explain(one, method="published").gates, squeeze.explain(other, method="published").gates
        spread = red.std(1).mean()
        assert ((red[:, 0] - red[:, 1]) > 0.8 * spread).all()
        assert ((green[:, 1] - green[:, 0]) > 0.8 * spread).all()


def test_masks_are_learned_for_the_labels_that_are_there() -> None:
    values = torch.tensor([[30.0, 2.0, -1.0], [30.0, -1.0, 2.0], [-3.0, -2.0, -9.0]]).repeat(200, 1)
    torch.manual_seed(0)
    for drawn in (True, False):
        found = masked._label(values, 0.0, drawn=drawn).view(200, 3)
        assert found[:, 2].unique().tolist() == [1]  # none is there: the likeliest
        for column, there in ((0, [0, 1]), (1, [0, 2])):
            assert found[:, column].unique().tolist() == there
            assert 70 < int((found[:, column] == 0).sum()) < 130
    likely = masked._label(torch.tensor([[0.6, 0.4]]), 0.5, drawn=True)
    assert likely.tolist() == [0]


def test_one_hot_labels_and_mixtures_are_of_classes() -> None:
    x = pictures(40)
    with torch.no_grad():
        classes = Colours()(x).argmax(1)
    hot = torch.eye(3)[classes]
    mixed = 0.8 * hot + 0.2 * hot.roll(1, 0)
    for labels in (hot, mixed):
        squeeze = squeezecam.attach(Colours(), x[:2])
        report = squeeze.fit(list(zip(x.split(8), labels.split(8), strict=True)), progress=False)
        assert report.task == "classification"
        assert report.accuracy_before == 1.0
    values = torch.tensor([[1.0, 0.5, -1.0]])
    assert torch.isclose(task_loss(values, torch.tensor([[0.0, 1.0, 0.0]]), "classification"),
                         task_loss(values, torch.tensor([1]), "classification"))  # fmt: skip
    squeeze = squeezecam.attach(Colours(), x[:2], task="multi-label")
    assert squeeze.fit(list(zip(x.split(8), hot.split(8), strict=True)), progress=False).task == "multi-label"


def test_the_output_that_was_fitted_for_is_the_one_that_is_explained() -> None:
    class Two(Colours):
        def __init__(self) -> None:
            super().__init__()
            self.side = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
            seen = self.features(x).relu().mean((2, 3))
            return {"colours": self.head(seen), "side": self.side(seen)}

    x = pictures(40)
    squeeze = squeezecam.attach(Two(), x[:2])
    assert squeeze.explain(x[:2], method="class").scores.shape == (2, 2)  # the last one
    squeeze.fit(list(x.split(8)), output="colours", task="multi-label", progress=False)
    assert squeeze.explain(x[:2], method="class").scores.shape == (2, 3)
