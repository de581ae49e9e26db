"""The map of where the object of a class is."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import squeezecam
from squeezecam import focus, heatmap, likeness
from squeezecam.finer import watching
from squeezecam.focus import on_finer_grid, speaking_for

WEIGHT = torch.tensor([[2.0, -1.0, 0.0], [0.0, 1.0, 0.5], [-2.0, 0.0, 1.0]])


class Net(nn.Module):
    """A convolution, a ReLU, mean pooling, a linear layer; features are never negative."""

    def __init__(self, activation: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.features = nn.Sequential(nn.Conv2d(3, 3, 4, 4), activation or nn.ReLU())
        self.head = nn.Linear(3, 3)
        with torch.no_grad():
            self.head.weight.copy_(WEIGHT)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


def coloured(weight: Tensor | None = None) -> Net:
    """Its three channels are red, green and blue."""
    net = Net()
    with torch.no_grad():
        net.features[0].weight.copy_(torch.eye(3)[:, :, None, None].expand(3, 3, 4, 4) / 16)
        net.features[0].bias.zero_()
        net.head.weight.copy_(40 * torch.eye(3) if weight is None else weight)
        net.head.bias.zero_()
    return net


def noise(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def features_of(squeeze: squeezecam.Squeeze, pictures: Tensor) -> Tensor:
    return next(iter(squeeze.capture(pictures)[1].values())).features


def test_what_speaks_for_a_class_by_hand() -> None:
    squeeze = squeezecam.attach(Net(), noise(2))
    head = squeeze.evidence()
    assert head is not None
    # Three positions, one channel each. Weights of class 0 less their mean over the classes (0, 0, .5): 2, -1, -.5.
    features = torch.tensor([[[[1.0, 0.0, 3.0]], [[1.0, 1.0, 7.0]], [[5.0, 5.0, 0.0]]]])
    found = speaking_for(head, squeeze.model, features, torch.tensor([0]))
    # Evidence is 2 - 1 = 1, -1, 6 - 7 = -1: only the first position counts, by its first channel alone.
    assert torch.allclose(found, torch.tensor([[[2.0, 0.0, 0.0]]]))


def test_for_a_sigmoid_a_class_is_not_held_against_the_mean_class() -> None:
    squeeze = squeezecam.attach(nn.Sequential(Net(), nn.Sigmoid()), noise(2))
    head = squeeze.evidence()
    assert head is not None
    assert head.link == "sigmoid"
    # Weights of class 2: -2, 0, 1. Its evidence is 3, 1 - 2 = -1, 4 - 2 = 2; what speaks for it is the third channel.
    features = torch.tensor([[[[0.0, 1.0, 1.0]], [[9.0, 0.0, 2.0]], [[3.0, 1.0, 4.0]]]])
    found = speaking_for(head, squeeze.model, features, torch.tensor([2]))
    assert torch.equal(found, torch.tensor([[[3.0, 0.0, 4.0]]]))


def test_features_that_can_be_negative_are_left_to_the_class_map() -> None:
    squeeze = squeezecam.attach(Net(nn.Tanh()), noise(2) - 0.5)
    head = squeeze.evidence()
    assert head is not None
    features, target = features_of(squeeze, noise(2, 1) - 0.5), torch.tensor([0, 1])
    assert bool((features < 0).any())
    evidence = head.class_map(squeeze.model, features, target).relu()
    assert torch.equal(speaking_for(head, squeeze.model, features, target, signed=True), evidence)
    alike = likeness.affinities(features, (8, 8), centred=True)  # the offset of such features says nothing
    maps = [likeness.spread(one, alike) for one in (evidence, heatmap.principal(features))]
    seen, outline = on_finer_grid(*maps)
    raw = squeeze.explain(noise(2, 1) - 0.5, method="focus", target=[0, 1]).raw
    assert torch.allclose(raw, focus.gathered(seen, outline, evidence), atol=1e-5)


def test_the_map_is_that_of_a_literal_computation() -> None:
    squeeze = squeezecam.attach(coloured(WEIGHT), noise(2))
    pictures = noise(3, 6)[:, :, ::4, ::4].repeat_interleave(4, 2).repeat_interleave(4, 3)  # one colour per cell
    pictures[:, 1] *= 2.5  # so that there is one principal component
    features = features_of(squeeze, pictures).double()
    target = torch.tensor([0, 1, 2])
    flat = features.flatten(2).transpose(1, 2)
    flat = flat - flat.mean(1, keepdim=True)
    component = (flat @ torch.linalg.svd(flat, full_matrices=False).Vh[:, 0, :, None])[..., 0]
    energy = features.square().sum(1).flatten(1)
    side = (component * (energy - energy.mean(1, keepdim=True))).sum(1, keepdim=True).sign()
    weight = squeeze.model.head.weight.detach().double()
    speaking = torch.zeros(3, 8, 8, dtype=torch.float64)
    for n in range(3):
        for row in range(8):
            for column in range(8):
                seen = features[n, :, row, column]
                if float(weight[target[n]] @ seen) > 0:
                    speaking[n, row, column] = ((weight[target[n]] - weight.mean(0)).clamp_min(0) * seen).sum()

    cells = features.flatten(2).transpose(1, 2)
    alike = torch.zeros(3, 64, 64, dtype=torch.float64)
    for n in range(3):
        for one in range(64):
            for other in range(64):
                a, b = cells[n, one], cells[n, other]
                alike[n, one, other] = (a @ b / (a.norm() * b.norm()).clamp_min(1e-12)).clamp_min(0)
        exponents = torch.logspace(-1, 6, 4000, base=2).double()  # the one with which a cell is like .02 of the others
        much = torch.stack([(alike[n] ** e).sum() - (alike[n] ** e).diagonal().sum() for e in exponents]) / (64 * 63)
        alike[n] = alike[n] ** exponents[(much - 0.02).abs().argmin()]
    step = alike / alike.sum(2, keepdim=True)

    def walked(maps: Tensor) -> Tensor:
        return (step @ step @ maps.flatten(1)[:, :, None]).view(3, 8, 8)

    def fine(maps: Tensor) -> Tensor:
        around = torch.nn.functional.pad(maps.relu(), (4, 4, 4, 4))  # nothing outside the picture
        large = heatmap.upsample(around, (64, 64), "spline")[:, 16:48, 16:48]
        return large / large.flatten(1).amax(1).view(-1, 1, 1)

    close = torch.zeros(3, 32, 32, dtype=torch.float64)
    for row in range(32):
        for column in range(32):
            for y in range(8):
                for x in range(8):
                    away = ((row + 0.5) / 32 - (y + 0.5) / 8) ** 2 + ((column + 0.5) / 32 - (x + 0.5) / 8) ** 2
                    close[:, row, column] += speaking[:, y, x] * math.exp(-away / (2 * 0.15**2))
    close = close / close.flatten(1).amax(1).view(-1, 1, 1)

    wanted = (fine(walked(speaking)) * (0.5 + fine(walked(component * side)))) ** 1.5 * close
    assert 0 < float((speaking[0] == 0).float().mean()) < 1  # class 0 is spoken against in places
    explanation = squeeze.explain(pictures, method="focus", target=[0, 1, 2])
    assert explanation.raw.shape == (3, 32, 32)
    assert torch.allclose(explanation.raw.double(), wanted, atol=1e-3)
    assert explanation.status == ["ok"] * 3


def test_it_stays_on_the_class_asked_for_beside_something_bolder() -> None:
    picture = torch.zeros(1, 3, 32, 32)
    picture[0, 0, 4:12, 4:12] = 0.5  # red, asked for
    picture[0, 1, 12:32, 16:32] = 1.0  # green, larger and brighter
    found = squeezecam.attach(coloured(), noise(2)).explain(picture, method="focus", target=0).heatmap[0]
    row, column = divmod(int(found.argmax()), 32)
    assert 4 <= row < 12
    assert 4 <= column < 12
    green = found[12:, 16:].sum() / found.sum()
    assert float(green) < 0.1


def test_much_that_lies_close_together_counts_for_more_than_one_cell_that_says_most() -> None:
    speaking = torch.zeros(2, 8, 8)
    speaking[:, 1, 1] = 1.0
    speaking[0, 4:7, 4:7] = 0.5
    everywhere = torch.ones(2, 32, 32)
    found = focus.gathered(everywhere, everywhere, speaking)
    places = [divmod(int(one.argmax()), 32) for one in found]
    assert all(16 <= at < 28 for at in places[0])
    assert all(4 <= at < 8 for at in places[1])


def test_it_leaves_out_what_is_bold_and_speaks_for_nothing() -> None:
    """Of two places with the same evidence, the one that stands out wins; without evidence nothing is shown."""
    picture = torch.zeros(1, 3, 32, 32)
    picture[0, 2, 20:28, 20:28] = 1.0  # blue alone
    squeeze = squeezecam.attach(coloured(), noise(2))
    assert float(squeeze.explain(picture, method="focus", target=0).heatmap.max()) == 0
    features = torch.zeros(1, 3, 8, 8)
    features[0, 0, 1:3, 1:3], features[0, 1, 5:7, 5:7] = 1.0, 3.0
    speaking = (features.sum(1) > 0).float()
    found = focus.focused(speaking, heatmap.principal(features), features)[0]
    assert float(found[20:28, 20:28].mean()) > 2 * float(found[4:12, 4:12].mean()) > 0
    assert float(found[:16, 16:].max()) < 0.1 * float(found.max())


def test_a_peak_beside_the_rim_stays_in_its_cell() -> None:
    cells = torch.zeros(1, 8, 8)
    cells[0, 6:, 2:4] = 1.0  # an object on the last two rows
    continued, empty = (
        heatmap.upsample(cells, (64, 64), "spline", empty_outside=outside)[0] for outside in (False, True)
    )
    assert int(continued.argmax()) // 64 >= 60
    assert 52 <= int(empty.argmax()) // 64 <= 57
    assert torch.equal(continued[:40], empty[:40])


def test_as_module_gives_the_same_map() -> None:
    squeeze = squeezecam.attach(Net(), noise(2))
    pictures = noise(2, 4)
    _, found, _ = squeeze.as_module(method="focus")(pictures)
    assert torch.allclose(found, squeeze.explain(pictures, method="focus").heatmap, atol=1e-5)


class Deep(nn.Module):
    """Its map has 4x4 cells; ``fine``, before it, has 8x8 and still sees where a colour ends."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.fine = nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.ReLU())
        self.coarse = nn.Sequential(nn.Conv2d(6, 5, 2, 2), nn.ReLU())
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.coarse(self.fine(x)).mean((2, 3)))


def test_the_last_finer_map_gives_the_cells_to_spread_over(monkeypatch: pytest.MonkeyPatch) -> None:
    squeeze, pictures = squeezecam.attach(Deep(), noise(2)), noise(3, 7)
    head, target = squeeze.evidence(), [0, 1, 2]
    assert head is not None
    explanation = squeeze.explain(pictures, method="focus", target=target)
    assert explanation.raw.shape == (3, 32, 32)  # four times 8
    assert explanation.method == "focus"
    features = features_of(squeeze, pictures)
    fine = squeeze.model.fine(pictures)
    maps = [speaking_for(head, squeeze.model, features, torch.tensor(target)), heatmap.principal(features)]
    large = [nn.functional.interpolate(one[:, None], (8, 8), mode="bilinear")[:, 0] for one in maps]
    alike = likeness.affinities(features, (8, 8), fine)
    seen, outline = on_finer_grid(*(likeness.spread(one, alike) for one in large))
    assert torch.allclose(explanation.raw, focus.gathered(seen, outline, maps[0]), atol=1e-5)
    assert torch.allclose(
        squeeze.as_module(method="focus", target=1)(pictures)[1][1], explanation.heatmap[1], atol=1e-5
    )
    again = squeeze.explain(pictures, method="focus", target=target, captured=squeeze.capture(pictures))
    assert torch.equal(again.raw, explanation.raw)
    monkeypatch.setattr(focus, "FINEST", 7)  # too many cells: too dear
    assert squeeze.explain(pictures, method="focus", target=target).raw.shape == (3, 16, 16)


@pytest.mark.parametrize(("cells", "taken"), [(20, True), (24, False)])
def test_a_finer_map_is_looked_at_up_to_20_cells_a_side(cells: int, taken: bool) -> None:
    pictures = torch.rand(1, 3, 4 * cells, 4 * cells)
    squeeze = squeezecam.attach(Deep(), pictures)
    assert squeeze.finer is not None
    assert squeeze.finer.grid == (cells, cells)
    raw = squeeze.explain(pictures, method="focus", target=0).raw
    own = focus.focus_map(squeeze.evidence(), squeeze.model, features_of(squeeze, pictures), torch.tensor([0]))
    assert own.shape == (1, 2 * cells, 2 * cells)  # four times the cells of the block's map
    assert raw.shape == ((1, 4 * cells, 4 * cells) if taken else own.shape)
    assert taken or torch.allclose(raw, own, atol=1e-6)


@pytest.mark.parametrize(("fine", "coarse", "taken"), [(8, 4, True), (9, 5, True), (6, 4, False)])
def test_a_finer_map_is_about_twice_as_fine_or_none(fine: int, coarse: int, taken: bool) -> None:
    net = Deep()
    net.coarse[0] = nn.Conv2d(6, 5, fine - coarse + 1)
    squeeze = squeezecam.attach(net, torch.rand(2, 3, 4 * fine, 4 * fine))
    assert squeeze.places["map"].grid == (coarse, coarse)
    assert (squeeze.finer is not None) == taken


def test_other_methods_do_not_pay_for_the_finer_map() -> None:
    squeeze = squeezecam.attach(Deep(), noise(2))
    assert squeeze.finer is not None
    assert next(iter(squeeze.capture(noise(1), finer=False)[1].values())).finer is None
    assert next(iter(squeeze.capture(noise(1))[1].values())).finer.shape == (1, 6, 8, 8)


def test_a_fused_encoder_layer_is_not_watched() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, batch_first=True)
    net = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU())
    both = nn.ModuleDict({"net": net, "layer": layer})
    with watching(both, 2) as maps:
        net(noise(2))
        layer(torch.rand(2, 5, 8))
        assert not any(module._forward_hooks for module in layer.modules())
    assert maps.seen == [("net.0", (2, 8, 8, 8)), ("net.1", (2, 8, 8, 8)), ("net", (2, 8, 8, 8))]
    assert not any(module._forward_hooks for module in both.modules())


def test_the_scale_of_the_features_does_not_matter() -> None:
    features = noise(2, 8)
    small, large = (heatmap.principal(features * scale) for scale in (1e-6, 1e12))
    assert torch.allclose(small, large, atol=1e-5)
    assert torch.allclose(
        likeness.affinities(features * 1e-6, (32, 32)), likeness.affinities(features * 1e12, (32, 32)), atol=1e-5
    )
