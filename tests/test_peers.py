"""Other libraries' methods on the place of the block: right numbers wherever the place is, and nothing left behind."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch
from torch import nn

import squeezecam
from conftest import ChannelsLast, ConvHead, ConvNet, InPlaceRelu, NormHead, Planted, Structured
from squeezecam import InputError, ModelError, Site
from squeezecam.peers import GROUPS, choose, registry
from squeezecam.peers.front import Front

GRAD_CAM = importlib.util.find_spec("pytorch_grad_cam") is not None
CAPTUM = importlib.util.find_spec("captum") is not None
needs_grad_cam = pytest.mark.skipif(not GRAD_CAM, reason="grad-cam is not installed")
needs_captum = pytest.mark.skipif(not CAPTUM, reason="captum is not installed")

CAMS = [name for name, m in registry().items() if m.library == "pytorch_grad_cam"]
CONTROLS = [m.name for m in choose("controls")]


class Tokens(nn.Module):
    """A class token before a grid of tokens, as in vision transformers."""

    def __init__(self, channels: int = 12, classes: int = 4) -> None:
        super().__init__()
        self.patch = nn.Conv2d(2, channels, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, channels))
        self.block = nn.TransformerEncoderLayer(channels, 2, 16, batch_first=True)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1)
        return self.head(self.block(tokens)[:, 0])


def grad_cam_by_hand(features: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """For mean pooling and a linear layer the gradient of the logit is ``W_yc / positions`` everywhere."""
    return torch.einsum("nc,nchw->nhw", weight, features).relu()


def same_map(found: torch.Tensor, native: torch.Tensor, tolerance: float = 1e-4) -> bool:
    """Whether ``found`` is ``native`` scaled to [0, 1] and enlarged linearly, as the library does it."""
    flat = native - native.amin((1, 2), keepdim=True)
    flat = flat / (flat.amax((1, 2), keepdim=True) + 1e-7)
    large = torch.nn.functional.interpolate(flat[:, None], found.shape[-2:], mode="bilinear")[:, 0]
    large = large - large.amin((1, 2), keepdim=True)
    return bool((large / (large.amax((1, 2), keepdim=True) + 1e-7) - found).abs().max() < tolerance)


@needs_grad_cam
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(
    "model", [ConvNet(), ChannelsLast(), InPlaceRelu(), NormHead()], ids=lambda m: type(m).__name__
)
def test_grad_cam_is_that_of_the_place(model: nn.Module, frozen: bool) -> None:
    model.requires_grad_(not frozen)
    x, target = torch.randn(3, 2, 16, 12), torch.tensor([0, 3, 4])
    squeeze = squeezecam.attach(model, x[:2])
    features = squeeze.capture(x)[1]["map"].features.detach().requires_grad_()
    pooled = (features.relu() if isinstance(model, InPlaceRelu) else features).mean((2, 3))
    logits = model.fc(model.norm(pooled) if isinstance(model, NormHead) else pooled)  # type: ignore[operator, union-attr]
    gradient = torch.autograd.grad(logits.gather(1, target[:, None]).sum(), features)[0]
    native = grad_cam_by_hand(features.detach(), gradient.mean((2, 3)))
    assert bool((native.amax((1, 2)) > 0).any())
    assert same_map(registry()["grad-cam"](squeeze, x, target), native)


@needs_grad_cam
def test_a_place_at_an_input_and_tokens_work() -> None:
    x = torch.randn(2, 2, 16, 16)
    at_input = squeezecam.attach(ConvHead(), x, at=Site("classifier", "input"))
    at_output = squeezecam.attach(at_input.model, x, at="features")
    target = torch.tensor([1, 2])
    for name in ("grad-cam", "layercam", "eigen-cam"):
        assert torch.allclose(registry()[name](at_input, x, target), registry()[name](at_output, x, target))
    tokens = squeezecam.attach(Tokens().eval(), x)
    assert tokens.places["map"].grid == (4, 4)
    front = Front(tokens, x)
    assert torch.allclose(front(x), tokens(x), atol=1e-6), "the class token has to go on unchanged"
    found = registry()["grad-cam"](tokens, x, target)
    assert found.shape == (2, 16, 16)
    assert found.amax() > 0.9


@needs_grad_cam
def test_ablation_cam_of_a_linear_head_by_hand() -> None:
    """Setting channel c to 0 takes ``W_yc z_c`` from the logit: Ablation-CAM weights are these over the logit."""
    weight = torch.tensor([[2.0, 1.0, 0.5], [0.1, 0.2, 0.3]])
    x = torch.rand(2, 3, 8, 8)
    x[:, :, 0, 0] = 0  # the library zeroes a channel only where the map has a zero
    squeeze = squeezecam.attach(Planted(weight, torch.zeros(2)), x)
    z = x.mean((2, 3))
    target = torch.tensor([0, 1])
    logit = (weight[target] * z).sum(1, keepdim=True)
    expected = grad_cam_by_hand(x, weight[target] * z / logit)
    assert same_map(registry()["ablation-cam"](squeeze, x, target), expected, 1e-3)


@needs_grad_cam
@pytest.mark.parametrize("name", CAMS)
def test_every_cam_leaves_the_model_as_it_was(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    model = ConvNet(channels=6).train()
    x = torch.randn(2, 2, 12, 12)
    squeeze = squeezecam.attach(model, x)
    model.fc.weight.grad = kept = torch.ones_like(model.fc.weight)
    with torch.inference_mode():
        found = registry()[name](squeeze, x, torch.tensor([0, 1]))
    assert found.shape == (2, 12, 12)
    assert found.isfinite().all()
    assert found.amax() > 0
    assert model.fc.weight.grad is kept
    assert bool((kept == 1).all())
    assert model.features[0].weight.grad is None
    assert model.training
    assert model.fc.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in squeeze.modules())
    captured = capfd.readouterr()
    assert not captured.err, "no bars of other libraries"


@needs_grad_cam
def test_nothing_is_left_after_an_error() -> None:
    model = ConvNet().train()
    squeeze = squeezecam.attach(model, torch.randn(2, 2, 12, 12))
    for name in ("grad-cam", "ablation-cam"):
        with pytest.raises(IndexError):
            registry()[name](squeeze, torch.randn(2, 2, 12, 12), torch.tensor([0, 77]))
        assert model.training
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in squeeze.modules())
        assert "forward" not in vars(model.features)


@needs_grad_cam
@pytest.mark.parametrize("kind", ["dict", "tuple", "nested"])
def test_outputs_in_containers(kind: str) -> None:
    x = torch.randn(2, 2, 12, 12)
    squeeze = squeezecam.attach(Structured(kind), x)
    plain = squeezecam.attach(squeeze.model.inner, x)
    found = registry()["grad-cam"](squeeze, x, torch.tensor([1, 2]))
    assert torch.allclose(found, registry()["grad-cam"](plain, x, torch.tensor([1, 2])), atol=1e-5)


@needs_captum
@pytest.mark.parametrize("name", ["occlusion", "integrated-gradients"])
def test_attribution_finds_the_planted_pixels(name: str) -> None:
    x = torch.full((2, 2, 20, 20), 0.05)
    x[0, 0, 4:8, 4:8] = 1
    x[1, 0, 12:16, 8:12] = 1
    squeeze = squeezecam.attach(Planted(torch.tensor([[3.0, 0.0], [0.0, 1.0]])), x)
    found = registry()[name](squeeze, x, torch.tensor([0, 0]))
    assert found.shape == (2, 20, 20)
    assert found.amin() >= 0
    inside = torch.stack([found[0, 4:8, 4:8].mean(), found[1, 12:16, 8:12].mean()])
    outside = torch.stack([found[0, 12:16, 8:12].mean(), found[1, 4:8, 4:8].mean()])
    assert bool((inside > 5 * outside).all())


class Eighth(Planted):
    """The eighth power of each pixel stands between the map and the mean: its integral is 1, its derivative steep."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc((self.features(x) ** 8).mean((2, 3)))


@needs_captum
def test_integrated_gradients_add_up_to_the_change_of_the_score() -> None:
    model = Eighth(torch.tensor([[3.0, 1.0], [0.5, 2.0]]), torch.tensor([7.0, -7.0]))
    x, target = 0.5 + torch.rand(2, 2, 4, 4), torch.tensor([0, 1])
    found = registry()["integrated-gradients"](squeezecam.attach(model, x, at="features"), x, target)
    score, black = (model(given).gather(1, target[:, None])[:, 0] for given in (x, torch.zeros_like(x)))
    torch.testing.assert_close(found.sum((1, 2)), (score - black).detach(), atol=0, rtol=1e-3)
    expected = torch.stack([3 * x[0, 0] ** 8 + x[0, 1] ** 8, 0.5 * x[1, 0] ** 8 + 2 * x[1, 1] ** 8]) / 16
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


@needs_captum
def test_a_pixel_that_speaks_against_the_class_is_0() -> None:
    x = torch.tensor([[[[1.0, 0.2], [0.0, 0.5]], [[0.5, 1.0], [1.0, 0.0]]]])
    squeeze = squeezecam.attach(Planted(torch.tensor([[3.0, -1.0], [0.0, 1.0]])), x)
    found = registry()["integrated-gradients"](squeeze, x, torch.tensor([0]))
    # 3 - .5, .6 - 1, -1 and 1.5, a quarter of each: the mean is over four pixels.
    torch.testing.assert_close(found, torch.tensor([[[2.5, 0.0], [0.0, 1.5]]]) / 4)


@pytest.mark.parametrize("name", CONTROLS)
def test_controls_do_not_depend_on_the_batch(name: str) -> None:
    x = torch.randn(3, 2, 16, 12)
    squeeze = squeezecam.attach(ConvNet(), x[:2])
    whole = registry()[name](squeeze, x, None, seeds=[5, 6, 7])
    assert whole.shape == (3, 16, 12)
    assert whole.amin() >= 0
    alone = registry()[name](squeeze, x[1:2], None, seeds=[6])
    assert torch.allclose(whole[1:2], alone, atol=1e-5)
    other = registry()[name](squeeze, x[1:2], None, seeds=[9])
    assert torch.equal(alone, other) == (not name.startswith("random"))


def test_the_all_channel_mean_is_that() -> None:
    x = torch.rand(2, 3, 6, 6)
    squeeze = squeezecam.attach(Planted(torch.randn(2, 3)), x)
    assert torch.allclose(registry()["all-channel-mean"](squeeze, x), x.mean(1), atol=1e-6)
    few = registry()["random-channels"](squeeze, x, seeds=[0, 1])
    assert all(any(torch.allclose(few[i], x[i, c], atol=1e-6) for c in range(3)) for i in range(2))


def test_of_features_that_can_be_negative_the_controls_take_the_positive_part() -> None:
    x = torch.tensor([[[[2.0, -2.0], [-4.0, 1.0]], [[-1.0, 3.0], [-2.0, 0.0]]]])
    squeeze = squeezecam.attach(Planted(torch.tensor([[1.0, 2.0], [2.0, 1.0]])), x)
    assert squeeze.signed["map"]
    found = registry()["all-channel-mean"](squeeze, x)
    torch.testing.assert_close(found, torch.tensor([[[1.0, 1.5], [0.0, 0.5]]]))


def test_names_and_groups() -> None:
    assert [m.name for m in choose("GradCAM, layer_cam,Grad-CAM")] == ["grad-cam", "layercam"]
    assert [m.kind for m in choose("controls")] == ["control"] * 4
    assert not any(m.slow for m in choose(["own", "peers", "controls"]))
    assert {m.name for m in choose("slow")} == {"score-cam", "ablation-cam", "occlusion", "integrated-gradients"}
    assert {m.name for m in choose("all")} == set(registry())
    assert set(GROUPS) == {"own", "peers", "controls", "slow", "all"}
    with pytest.raises(InputError, match=r"no method 'grad-cm'; try .*grad-cam"):
        choose("grad-cm")


def test_a_missing_library_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 2, 12, 12)
    squeeze = squeezecam.attach(ConvNet(), x)
    real = importlib.util.find_spec
    hidden = ("pytorch_grad_cam", "captum")
    for module in [m for m in sys.modules if m.split(".")[0] in hidden]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name.split(".")[0] in hidden else real(name, *a)
    )
    with pytest.raises(ModelError, match=r"grad-cam is not installed: pip install 'squeezecam\[peers\]'"):
        registry()["grad-cam"](squeeze, x)
    with pytest.raises(ModelError, match=r"captum is not installed"):
        registry()["occlusion"](squeeze, x)


def test_perturbed_pictures_reach_the_model_as_the_callers_lie_in_memory() -> None:
    seen: list[bool] = []
    net = ConvNet()
    pictures = torch.rand(2, 2, 24, 24)
    last = pictures.contiguous(memory_format=torch.channels_last)
    squeeze = squeezecam.attach(net, pictures)
    net.register_forward_pre_hook(lambda module, args: seen.append(args[0].is_contiguous()))
    assert torch.allclose(Front(squeeze, last)(pictures), Front(squeeze, pictures)(pictures), atol=1e-5)
    assert seen == [False, True]


def test_few_pictures_at_a_time_on_a_processor_as_many_as_wanted_elsewhere() -> None:
    from squeezecam.pacing import AT_ONCE, at_once

    assert at_once(torch.empty(1, 3, 224, 224), 32) == 4
    assert at_once(torch.empty(1, 3, 32, 32), 32) == 32
    assert at_once(torch.empty(1, 3, 1000, 1000), 32) == 4
    assert at_once(torch.empty(1, AT_ONCE // 8, 1, 1), 32) == 8
    assert at_once(torch.empty(1, 3, 224, 224, device="meta"), 32) == 32


@needs_grad_cam
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["grad-cam", "layercam", "fem", "score-cam", "ablation-cam"])
def test_a_model_in_half_precision_has_the_same_maps(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net, pictures = ConvNet().eval(), torch.rand(2, 2, 24, 24)
    target = torch.tensor([0, 1])
    wanted = registry()[name](squeezecam.attach(net.float(), pictures), pictures, target)
    low = pictures.to(dtype)
    found = registry()[name](squeezecam.attach(net.to(dtype), low), low, target)
    assert found.dtype == torch.float32
    assert float((found - wanted).abs().mean()) < 0.05
