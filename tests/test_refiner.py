"""The refiner: where it starts, what it learns, what it leaves alone."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import squeezecam
from patches import TwoStages, patches
from squeezecam.errors import AdapterError, FitError, InputError, SqueezeWarning
from squeezecam.fit import masked, refining
from squeezecam.fit.pictures import Pictures
from squeezecam.refiner import Evidence, Refiner, evidence_of, refined_map


class Net(nn.Module):
    """Colours to classes: a 4x4 patch embedding, a ReLU, mean pooling, a linear layer."""

    def __init__(self, classes: int = 3, channels: int = 6) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, channels, 4, 4)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).relu().mean((2, 3)))


def coloured() -> Net:
    """A model that counts red, green and blue patches."""
    net = Net(3, 3)
    with torch.no_grad():
        net.features.weight.zero_()
        for colour in range(3):
            net.features.weight[colour, colour] = 1 / 16
        net.features.bias.fill_(-0.1)
        net.head.weight.copy_(40 * torch.eye(3))
        net.head.bias.zero_()
    return net


@pytest.fixture(scope="module")
def refined() -> squeezecam.Squeeze:
    squeeze = squeezecam.attach(coloured(), patches(2))
    squeeze.refine(list(patches(48).split(8)), epochs=6, lr=5e-3, seed=1)
    return squeeze


def test_the_contrast_is_the_class_map_less_the_likely_others() -> None:
    torch.manual_seed(0)
    net = Net().double()
    squeeze = squeezecam.attach(net, torch.rand(2, 3, 16, 16).double())
    head = squeeze.head()
    assert head is not None
    features = torch.rand(4, 6, 3, 5).double()
    target = torch.tensor([0, 1, 2, 0])
    found = evidence_of(head, net, features, target)
    logits = net.head(features.mean((2, 3)))
    assert torch.allclose(found.probability, logits.softmax(1).gather(1, target[:, None])[:, 0])
    for n in range(4):
        y = int(target[n])
        others = [k for k in range(3) if k != y]
        share = logits[n, others].softmax(0)
        weight = net.head.weight[y] - sum(p * net.head.weight[k] for p, k in zip(share, others, strict=True))
        assert torch.allclose(found.full[n], torch.einsum("chw,c->hw", features[n], net.head.weight[y]), atol=1e-9)
        assert torch.allclose(found.contrast[n], torch.einsum("chw,c->hw", features[n], weight), atol=1e-9)


def test_it_starts_as_the_evidence() -> None:
    refiner = Refiner("output", 2, factor=1).eval()
    evidence = torch.tensor([[[0.0, 1.0], [-1.0, 2.0]]])
    contrast = torch.tensor([[[0.0, 4.0], [1.0, -1.0]]])
    known = Evidence(evidence, contrast, torch.tensor([0.5]))
    wanted = torch.tensor([[[0.0, 0.75], [0.125, 0.5]]]) * 0.97 + 0.015
    assert torch.allclose(refiner.train()(torch.rand(1, 2, 2, 2), known), wanted, atol=1e-5)
    leaning = 0.8 + 0.2 * torch.tensor([[[0.0, 0.5], [0.0, 1.0]]])  # on the class map
    assert torch.allclose(refiner.eval()(torch.rand(1, 2, 2, 2), known), wanted * leaning, atol=1e-5)


def test_where_the_mask_is_open_the_class_map_says_which_part_counts_most() -> None:
    torch.manual_seed(0)
    refiner = Refiner("output", 2, factor=1).eval()
    with torch.no_grad():
        refiner.correct.last.bias.fill_(20.0)
    evidence = 0.5 + 0.1 * torch.rand(1, 8, 8)
    evidence[0, 5, 2] = 1.0
    mask = refiner(torch.rand(1, 2, 8, 8), Evidence(evidence, evidence, torch.tensor([0.5])))[0]
    assert int(mask.argmax()) == 5 * 8 + 2
    assert float(mask.min()) > 0.8


def test_a_place_without_evidence_stays_dark_whatever_was_learned() -> None:
    torch.manual_seed(0)
    refiner = Refiner("output", 2, factor=1).eval()
    with torch.no_grad():
        refiner.correct.last.bias.fill_(20.0)
    evidence = torch.zeros(1, 8, 8)
    evidence[0, 3, 3] = 1.0
    mask = refiner(torch.rand(1, 2, 8, 8), Evidence(evidence, evidence, torch.tensor([0.5])))[0]
    assert float(mask[3, 3]) > 0.99
    assert float(mask[evidence[0] == 0].max()) < 0.25


def test_no_evidence_gives_a_blank_map_that_is_said_to_be_blank(refined: squeezecam.Squeeze) -> None:
    dark = torch.zeros(1, 3, 32, 32)
    explanation = refined.explain(dark, method="refined", target=0)
    assert float(explanation.heatmap.max()) == 0
    assert "blank" in explanation.status[0]


def test_the_probability_is_read_from_what_the_model_returns() -> None:
    class Chances(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).softmax(1)

    torch.manual_seed(0)
    pictures = torch.rand(3, 3, 16, 16)
    squeeze = squeezecam.attach(Chances(), pictures)
    head = squeeze.head()
    assert head is not None
    values, seen = squeeze.capture(pictures)
    target = torch.tensor([0, 1, 2])
    features = next(iter(seen.values())).features
    given = evidence_of(head, squeeze.model, features, target, values)
    computed = evidence_of(head, squeeze.model, features, target)
    assert torch.allclose(given.probability, values.gather(1, target[:, None])[:, 0], atol=1e-6)
    assert torch.allclose(computed.probability, given.probability, atol=1e-5)
    assert torch.allclose(computed.contrast, given.contrast, atol=1e-4)


def test_now_and_then_a_runner_up_is_explained_and_never_while_judging() -> None:
    values = torch.tensor([[0.0, 5.0, 3.0, 1.0], [9.0, 0.0, 1.0, 2.0]])
    ranks = [{1: 0, 2: 1, 3: 2}, {0: 0, 3: 1, 2: 2}]
    assert masked._target(values, aside=False).tolist() == [1, 0]
    torch.manual_seed(0)
    drawn = [masked._target(values, aside=True).tolist() for _ in range(300)]
    assert any((ranks[0][one] > 0) != (ranks[1][other] > 0) for one, other in drawn)  # each by itself
    found = [[ranks[n][classes[n]] for n in range(2)] for classes in drawn]
    share = sum(first > 0 for first, _ in found) / 300
    assert 0.2 < share < 0.4
    assert {first for first, _ in found} == {0, 1, 2}
    assert masked._target(torch.tensor([[1.0, 2.0]]), aside=True).shape == (1,)  # two classes: one runner-up


def test_the_report_says_how_alike_the_map_of_the_masked_picture_is() -> None:
    squeeze = squeezecam.attach(coloured(), patches(2))
    report = squeeze.refine(list(patches(24).split(8)), epochs=1)
    pictures = patches(8)  # the batch that was held out
    first = squeeze.explain(pictures, method="refined")
    low, high = (f(first.heatmap.flatten(1), 1).view(-1, 1, 1) for f in (torch.amin, torch.amax))
    masked = pictures * ((first.heatmap - low) / (high - low))[:, None]
    again = squeeze.explain(masked, method="refined", target=first.target)
    pairs = zip(first.raw, again.raw, strict=True)
    alike = [(float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) + 1) / 2 for a, b in pairs]
    assert report.after["coherency"] == pytest.approx(sum(alike) / 8, abs=0.02)


def test_it_learns_what_the_model_confirms_and_leaves_the_model_alone() -> None:
    net = coloured().train()
    net.head.bias.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    squeeze = squeezecam.attach(net, patches(2))
    report = squeeze.refine(list(patches(48).split(8)), epochs=6, lr=5e-3)
    assert report.after["loss"] < report.before["loss"] - 0.02
    assert report.kept > 0
    assert (report.samples, report.held_out) == (40, 8)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert net.training
    assert net.features.training
    assert net.features.weight.requires_grad
    assert not net.head.bias.requires_grad
    assert all(p.grad is None for p in squeeze.parameters())


def test_the_map_lies_on_the_patch_of_the_class_asked_for(refined: squeezecam.Squeeze) -> None:
    pictures = patches(1, seed=5)
    pictures[0, 1, 20:28, 20:28] = 1.0
    pictures[0, :, :, :16] = 0.0
    pictures[0, 0, 4:12, 4:12] = 1.0
    maps = refined.explain(pictures, method="refined", target=[[0, 1]]).heatmap[0]
    assert float(maps[0, 4:12, 4:12].mean()) > 3 * float(maps[0, 20:28, 20:28].mean())
    assert float(maps[1, 20:28, 20:28].mean()) > 3 * float(maps[1, 4:12, 4:12].mean())


def test_the_same_seed_gives_the_same_refiner() -> None:
    def fitted() -> dict[str, Tensor]:
        squeeze = squeezecam.attach(coloured(), patches(2))
        squeeze.refine(list(patches(24).split(8)), epochs=2, seed=3)
        refiner = squeeze.refiner()
        assert refiner is not None
        return refiner.state_dict()

    first, second = fitted(), fitted()
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_one_pass_without_gradients_and_a_map_per_sample(refined: squeezecam.Squeeze) -> None:
    pictures = patches(3, seed=9)
    calls: list[int] = []
    handle = refined.model.register_forward_hook(lambda *_: calls.append(1))
    with torch.inference_mode():
        together = refined.explain(pictures, method="refined")
    handle.remove()
    assert len(calls) == 1
    assert together.heatmap.shape == (3, 32, 32)
    assert together.method.startswith("refined")
    for n in range(3):
        alone = refined.explain(pictures[n : n + 1], method="refined").heatmap[0]
        assert torch.allclose(alone, together.heatmap[n], atol=1e-5)


@pytest.mark.parametrize("method", ["refined", "focus"])
def test_as_module_gives_the_same_map(refined: squeezecam.Squeeze, method: str) -> None:
    pictures = patches(2, seed=4)
    _, found, _ = refined.as_module(method=method)(pictures)
    assert torch.allclose(found, refined.explain(pictures, method=method).heatmap, atol=1e-6)


def test_an_adapter_keeps_it(refined: squeezecam.Squeeze, tmp_path: Path) -> None:
    file = tmp_path / "a.squeeze.safetensors"
    refined.save(file)
    again = squeezecam.load(file, coloured(), patches(2))
    pictures = patches(2, seed=8)
    wanted = refined.explain(pictures, method="refined").heatmap
    assert torch.equal(again.explain(pictures, method="refined").heatmap, wanted)


def test_a_damaged_refiner_in_an_adapter_is_named(refined: squeezecam.Squeeze, tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    file = tmp_path / "a.squeeze.safetensors"
    refined.save(file)
    with safe_open(file, "pt") as opened:
        about = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in opened.keys() if "mix.weight" not in name}  # noqa: SIM118
    save_file(tensors, file, about)
    with pytest.raises(AdapterError, match="refiner is damaged"):
        squeezecam.load(file, coloured(), patches(2))


def test_it_looks_at_the_finer_map_where_there_is_one(tmp_path: Path) -> None:
    squeeze = squeezecam.attach(TwoStages(), patches(2))
    report = squeeze.refine(list(patches(48).split(8)), epochs=8, lr=1e-2)
    assert report.kept == 8
    refiner, head = squeeze.refiner(), squeeze.head()
    assert refiner is not None
    assert head is not None
    assert refiner.finer == 3
    assert "looks at" in repr(squeeze)
    pictures = patches(3, seed=4)
    found = squeeze.explain(pictures, method="refined")
    with torch.no_grad():
        fine = squeeze.model.fine(pictures)
        coarse = squeeze.model.coarse(fine)
    wanted = refined_map(refiner, head, squeeze.model, coarse, found.target, None, fine)
    assert torch.allclose(found.raw, wanted, atol=1e-5)
    other = refined_map(refiner, head, squeeze.model, coarse, found.target, None, fine.flip(3))
    assert float((other - wanted).abs().max()) > 1e-4
    assert torch.allclose(squeeze.as_module(method="refined")(pictures)[1], found.heatmap, atol=1e-6)
    file = tmp_path / "a.squeeze.safetensors"
    squeeze.save(file)
    again = squeezecam.load(file, TwoStages(), patches(2))
    assert torch.equal(again.explain(pictures, method="refined").heatmap, found.heatmap)


@pytest.mark.parametrize(("losses", "kept"), [((1.0, 0.2, 0.5), 2), ((1.0, 0.2, 1.5), 0)])
def test_the_last_epoch_is_kept_unless_it_is_worse_than_the_start(
    losses: tuple[float, ...], kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = iter(losses)
    monkeypatch.setattr(refining._Fitting, "validate", lambda *_: {"loss": next(given)})
    squeeze = squeezecam.attach(coloured(), patches(2))
    report = squeeze.refine(list(patches(24).split(8)), epochs=2, lr=5e-3)
    refiner = squeeze.refiner()
    assert refiner is not None
    assert report.kept == kept
    assert report.after["loss"] == (losses[-1] if kept else losses[0])
    assert (float(refiner.correct.last.weight.abs().max()) > 0) == (kept > 0)


def test_the_loss_asks_masks_to_follow_the_evidence_and_leaves_those_alone_that_do() -> None:
    squeeze, batch = squeezecam.attach(coloured(), patches(2)), patches(6)
    refiner = Refiner("output", 3).eval()
    fitting = refining._Fitting(Pictures(squeeze, None, None), refiner)
    for slope in (1.0, -3.0):
        nn.init.constant_(refiner.slope, slope)
        with torch.no_grad():
            found, loss = fitting.loss(batch)
            head, features = squeeze.evidence(), squeeze.model.features(batch).relu()
            assert head is not None
            target = squeeze(batch).argmax(1)
            masks = refined_map(refiner, head, squeeze.model, features, target)
            evidence = head.class_map(squeeze.model, features, target).relu()
            large = nn.functional.interpolate(evidence[:, None], masks.shape[1:], mode="bilinear")[:, 0]
        pairs = zip(masks, large, strict=True)
        alike = [float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) for a, b in pairs]
        asked = max(0.0, 0.5 - sum(alike) / 6)
        assert (asked > 0.5) == (slope < 0)
        assert float(loss) == pytest.approx(float(4 * asked - 4 * found.adcc - 0.5 * found.kept), abs=1e-4)


def test_masks_that_do_not_follow_the_evidence_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def corner(self: refining._Fitting, *_: object) -> Tensor:
        masks = torch.zeros(8, 16, 16)
        masks[:, 0, 0] = 1.0
        return masks + 0 * self.refiner.slope

    squeeze = squeezecam.attach(coloured(), patches(2))
    monkeypatch.setattr(refining._Fitting, "_masks", corner)
    losses = iter((1.0, 0.2))
    monkeypatch.setattr(refining._Fitting, "validate", lambda *_: {"loss": next(losses)})
    with pytest.warns(SqueezeWarning, match="does not follow the evidence"):
        report = squeeze.refine(list(patches(24).split(8)), epochs=1)
    assert report.kept == 0


def test_it_works_with_the_block_in_the_path() -> None:
    squeeze = squeezecam.attach(coloured(), patches(2), apply="gate")
    squeeze.refine(list(patches(24).split(8)), epochs=1)
    refiner, head = squeeze.refiner(), squeeze.head()
    assert refiner is not None
    assert head is not None
    explanation = squeeze.explain(patches(2), method="refined")
    features = next(iter(squeeze.capture(patches(2))[1].values())).features  # of an identity start: as they are
    wanted = refined_map(refiner, head, squeeze.model, features, explanation.target)
    assert torch.allclose(explanation.raw, wanted, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_in_half_precision_is_refined_too(dtype: torch.dtype) -> None:
    squeeze = squeezecam.attach(coloured().to(dtype), patches(2).to(dtype))
    report = squeeze.refine([batch.to(dtype) for batch in patches(48).split(8)], epochs=6, lr=5e-3, seed=1)
    assert report.after["loss"] < report.before["loss"] - 0.05
    found = squeeze.explain(patches(2).to(dtype), method="refined").heatmap
    assert bool(found.isfinite().all())
    assert float(found.max()) > 0.3


def test_chosen_channels_are_those_of_a_map_that_is_made_of_them(refined: squeezecam.Squeeze) -> None:
    pictures = patches(3)
    for given in ({"keep": "topk:1"}, {"score": "class"}, {"aggregate": "energy"}):
        with pytest.raises(InputError, match=r"the refined map is made of no chosen channels, so .*=.* has no meaning"):
            refined.explain(pictures, method="refined", **given)
    assert refined.explain(pictures).method == "refined"
    part = refined.explain(pictures, keep="topk:1")
    assert part.method == "class, keep=topk:1"  # the block of this one is not fitted
    assert part.kept.sum(1).tolist() == [1, 1, 1]
    assert torch.equal(part.heatmap, refined.explain(pictures, method="class", keep="topk:1").heatmap)


@pytest.mark.parametrize("what", ["tune", "refine", "locate"])
def test_a_share_to_hold_out_that_is_none_is_refused(what: str) -> None:
    squeeze = squeezecam.attach(TwoStages(), patches(2))
    squeeze.fit([patches(24)])
    for share in (1.0, 2, -1):
        with pytest.raises(InputError, match=r"hold_out is the share of the batches .* got"):
            getattr(squeeze, what)(list(patches(12).split(4)), epochs=1, hold_out=share)
    report = getattr(squeeze, what)(list(patches(12).split(4)), epochs=1, hold_out=0.9)  # one batch is left to fit on
    assert report.held_out == 8


def test_what_cannot_be_refined_is_refused() -> None:
    squeeze = squeezecam.attach(coloured(), patches(2))
    with pytest.raises(InputError, match=r"squeeze\.refine"):
        squeeze.explain(patches(2), method="refined")
    with pytest.raises(FitError, match="iterator"):
        squeeze.refine(iter(patches(8).split(4)))
    with pytest.raises(FitError, match="two batches"):
        squeeze.refine([patches(8)])
    with pytest.raises(InputError, match="classes"):
        squeezecam.attach(Net(1), patches(2)).refine(list(patches(8).split(4)))
    signal = nn.Sequential(
        nn.Conv1d(2, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    with pytest.raises(InputError, match="height and width"):
        squeezecam.attach(signal, torch.rand(2, 2, 16)).refine([torch.rand(4, 2, 16)] * 2)
