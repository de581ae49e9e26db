"""The refiner: where it starts, what it learns, what it leaves alone."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import squeezecam
from squeezecam.errors import AdapterError, FitError, InputError
from squeezecam.fit.refining import _cut, _varied
from squeezecam.refiner import Refiner, evidence_maps, refined_map


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


def patches(count: int, seed: int = 0) -> Tensor:
    """Grey noise with one square of 8 pixels in red, green or blue."""
    generator = torch.Generator().manual_seed(seed)
    pictures = 0.05 * torch.rand(count, 3, 32, 32, generator=generator)
    for n in range(count):
        x, y = (4 * torch.randint(0, 7, (2,), generator=generator)).tolist()
        pictures[n, n % 3, y : y + 8, x : x + 8] = 1.0
    return pictures


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
    evidence, contrast = evidence_maps(head, net, features, target)
    logits = net.head(features.mean((2, 3)))
    for n in range(4):
        y = int(target[n])
        others = [k for k in range(3) if k != y]
        share = logits[n, others].softmax(0)
        weight = net.head.weight[y] - sum(p * net.head.weight[k] for p, k in zip(share, others, strict=True))
        assert torch.allclose(evidence[n], torch.einsum("chw,c->hw", features[n], net.head.weight[y]), atol=1e-9)
        assert torch.allclose(contrast[n], torch.einsum("chw,c->hw", features[n], weight), atol=1e-9)


def test_it_starts_as_the_evidence() -> None:
    refiner = Refiner("output", 2, factor=1).eval()
    evidence = torch.tensor([[[0.0, 1.0], [-1.0, 2.0]]])
    contrast = torch.tensor([[[0.0, 4.0], [1.0, -1.0]]])
    mask = refiner(torch.rand(1, 2, 2, 2), evidence, contrast)
    wanted = torch.tensor([[[0.0, 0.75], [0.125, 0.5]]]) * 0.97 + 0.015
    assert torch.allclose(mask, wanted, atol=1e-5)


def test_no_evidence_gives_a_blank_map_that_is_said_to_be_blank(refined: squeezecam.Squeeze) -> None:
    dark = torch.zeros(1, 3, 32, 32)
    explanation = refined.explain(dark, method="refined", target=0)
    assert float(explanation.heatmap.max()) == 0
    assert "blank" in explanation.status[0]


def test_a_cut_has_the_share_asked_for_whatever_the_level() -> None:
    masks = torch.rand(3, 40, 40)
    shares = torch.tensor([0.1, 0.5, 0.8])
    assert torch.allclose(_cut(masks, shares).mean((1, 2)), shares, atol=0.04)
    assert torch.allclose(_cut(masks + 3, shares), _cut(masks, shares), atol=1e-5)


def test_varied_pictures_are_windows_of_the_same_picture_at_the_same_size() -> None:
    columns = torch.arange(32.0).expand(1, 3, 32, 32)
    torch.manual_seed(0)
    spans = []
    for _ in range(40):
        row = _varied(columns)[0, 0, 16]
        assert row.shape == (32,)
        steps = row.diff()
        assert bool((steps >= -1e-5).all()) or bool((steps <= 1e-5).all())  # in order, or mirrored
        spans.append(float(row.amax() - row.amin()))
    assert max(spans) == 31  # some are whole
    assert 31 * 0.5 < min(spans) < 31 * 0.75  # some are cut, none to under .6 of the side


def test_the_report_says_how_alike_the_map_of_the_masked_picture_is() -> None:
    squeeze = squeezecam.attach(coloured(), patches(2))
    report = squeeze.refine(list(patches(24).split(8)), epochs=1)
    pictures = patches(8)  # the batch that was held out
    first = squeeze.explain(pictures, method="refined", upsample="linear")
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
    assert report.best > 0
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
    assert float(maps[0, 4:12, 4:12].mean()) > 2 * float(maps[0, 20:28, 20:28].mean())
    assert float(maps[1, 20:28, 20:28].mean()) > 2 * float(maps[1, 4:12, 4:12].mean())


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
