"""Clips, volumes and maps over time alone are measured and compared as pictures are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import squeezecam
from squeezecam import InputError, Squeeze
from squeezecam.evaluation import choose_columns, randomise
from squeezecam.metrics import centred_gaussian, insertion, pointing_game
from squeezecam.render.mosaic import chosen_frames, frame_words, mosaic

WEIGHT = torch.tensor([[9.0, 0.1, 0.0], [0.0, 1.0, 0.3]])


class Counting(nn.Module):
    """Class 0 counts what is in channel 0, wherever and whenever; the clips are the features."""

    def __init__(self, axes: int, frames_first: bool = False) -> None:
        super().__init__()
        self.frames_first = frames_first
        self.features = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1](3, 3, 1, bias=False)
        self.features.weight = nn.Parameter(torch.eye(3).view(3, 3, *[1] * axes))
        self.fc = nn.Linear(3, 2, bias=False)
        self.fc.weight = nn.Parameter(WEIGHT.clone())

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2) if self.frames_first else x
        u = self.features(x)
        return self.fc(u.flatten(2).mean(2))


def clips(*size: int, count: int = 5) -> tuple[Tensor, Tensor]:
    """Clips with one bright block in channel 0, and its mask."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(count, 3, *size, generator=generator) * 0.1
    masks = torch.zeros(count, *size)
    for i in range(count):
        block = tuple(slice(at, at + side // 3) for side in size for at in [int(i * (side - side // 3) / (count - 1))])
        x[(i, 0, *block)] += 2
        masks[(i, *block)] = 1
    return x, masks


def counting(x: Tensor, **options: bool) -> Squeeze:
    return squeezecam.attach(Counting(x.ndim - 2, **options).eval(), x[:2])


@pytest.mark.parametrize("size", [(6, 12, 15), (24,)])
def test_figures_of_clips_are_those_of_the_metrics(size: tuple[int, ...]) -> None:
    x, masks = clips(*size)
    squeeze = counting(x)
    found = squeezecam.evaluate(squeeze, x, "class,focus", masks=masks, batch_size=2, progress=False)
    figures = found.figures()
    maps = squeeze.explain(x, method="class").heatmap
    assert maps.shape == masks.shape
    target = squeeze(x).argmax(1)
    curve = insertion(squeeze, x, maps, target, steps=8).score
    assert figures["class"]["insertion"].value.mean == pytest.approx(float(curve.mean()), abs=1e-5)
    for method in ("class", "focus"):
        assert figures[method]["pointing_game"].value.mean == 1.0
    assert float(pointing_game(maps, masks).mean()) == 1.0
    assert figures["centred-gaussian"]["pointing_game"].value.mean < 0.5
    for control in ("all-channel-mean", "random-channels", "random-map", "centred-gaussian"):
        assert figures[control]["adcc"].value.mean == figures[control]["adcc"].value.mean  # no NaN


def test_frames_before_channels_are_turned_round() -> None:
    x, masks = clips(6, 12, 15)
    squeeze = counting(x.transpose(1, 2), frames_first=True)
    with pytest.raises(InputError, match=r"transpose\(1, 2\)"):  # of a list nothing is known beforehand
        squeezecam.evaluate(squeeze, list(x.transpose(1, 2)), "class", metrics="insertion", progress=False)
    turned = squeezecam.evaluate(
        squeeze, x, "class", metrics="insertion,deletion", make_inputs=lambda c: c.transpose(1, 2), progress=False
    )
    found_out = squeezecam.evaluate(
        squeeze, x.transpose(1, 2), "class", metrics="insertion,deletion", masks=masks, progress=False
    )
    plain = squeezecam.evaluate(counting(x), x, "class", metrics="insertion,deletion", progress=False)
    for column in ("insertion", "deletion"):
        one, two, other = (found.figures()["class"][column].value.mean for found in (turned, found_out, plain))
        assert one == pytest.approx(other, abs=1e-5)
        assert two == one


def test_what_only_pictures_have_is_left_out_or_told() -> None:
    x, masks = clips(6, 12, 15)
    squeeze = counting(x)
    names = {column.name for column in choose_columns("all", truth=True, rank=3)}
    assert {"insertion", "pointing_game", "sensitivity_max"} <= names
    assert not names & {"road", "max_box_acc", "max_box_acc_v2", "channel_faithfulness"}
    with pytest.raises(InputError, match="'road' is for pictures; the maps of this model have 3 axes"):
        squeezecam.evaluate(squeeze, x, "class", metrics="road", progress=False)
    with pytest.raises(InputError, match=r"give masks \(N, 6, 12, 15\)"):
        squeezecam.evaluate(squeeze, x, "class", boxes=[torch.zeros(1, 4)] * 5, progress=False)
    with pytest.raises(InputError, match=r"expected \(C, T, H, W\)"):
        squeezecam.evaluate(squeeze, x[:, :, 0], "class", progress=False)
    found = squeezecam.evaluate(squeeze, x, "class", metrics="all", masks=masks, sample=2, progress=False)
    assert found.figures()["class"]["sensitivity_max"].value.mean < 1


def test_the_gaussian_of_a_clip_by_hand() -> None:
    bump = centred_gaussian(2, 2, 3, 1, sigma=0.5)
    frame, row = -(0.25**2) / 0.5, -((1 / 3) ** 2) / 0.5
    expected = torch.tensor([[frame + row, frame, frame + row]] * 2).exp()[..., None]
    assert torch.allclose(bump, expected.expand(2, 2, 3, 1))


def test_randomisation_of_clips() -> None:
    x, _ = clips(6, 12, 15)
    found = randomise(counting(x), x, "class", progress=False)
    gaussian, of_class = (found.records[0]["values"][name]["ssim"][-1] for name in ("centred-gaussian", "class"))
    assert gaussian == pytest.approx(1)
    assert of_class < 0.99


def test_peers_know_clips_or_say_that_they_do_not() -> None:
    pytest.importorskip("cv2")
    x, masks = clips(6, 12, 15)
    squeeze = counting(x)
    found = squeezecam.evaluate(
        squeeze, x, "class,grad-cam,layercam", metrics="pointing", masks=masks, progress=False
    ).figures()
    for peer in ("grad-cam", "layercam"):
        assert found[peer]["pointing_game"].value.mean == 1.0
    with pytest.raises(InputError, match=r"ScoreCAM of pytorch-grad-cam takes pictures \(N, C, H, W\)"):
        squeezecam.compare(squeeze, x, "score-cam")


class OneByOne(nn.Module):
    """Clips (N, T, C, h, w) through a network of pictures, frame by frame; scores of the clip."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.map, self.fc = nn.Conv2d(3, 5, 3, padding=1), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.map(x.flatten(0, 1)).relu().unflatten(0, x.shape[:2])
        return self.fc(seen.mean((1, 3, 4)))


def test_grad_cam_of_frames_that_run_as_pictures_is_that_of_the_clip() -> None:
    pytest.importorskip("cv2")
    x = torch.rand(3, 4, 3, 8, 6, generator=torch.Generator().manual_seed(1))
    squeeze = squeezecam.attach(OneByOne().eval(), x[:2])
    kept: dict[str, Tensor] = {}
    handle = squeeze.model.get_submodule("map").register_forward_hook(lambda module, args, out: kept.update(out=out))
    values = squeeze.model(x)
    handle.remove()
    (gradient,) = torch.autograd.grad(values.amax(1).sum(), kept["out"])
    features, gradient = (one.unflatten(0, (3, 4)).transpose(1, 2) for one in (kept["out"], gradient))
    expected = (gradient.mean((2, 3, 4), keepdim=True) * features).sum(1).relu().detach()
    low, high = (side(expected, (1, 2, 3), keepdim=True) for side in (torch.amin, torch.amax))
    found = squeezecam.compare(squeeze, x, "grad-cam", repeats=1).maps["grad-cam"]
    torch.testing.assert_close(found, (expected - low) / (high - low), atol=2e-3, rtol=2e-3)
    assert len(squeezecam.evaluate(squeeze, x, "grad-cam", "insertion", batch_size=2, progress=False).records) == 3


def test_occlusion_and_integrated_gradients_of_clips() -> None:
    pytest.importorskip("captum")
    x, masks = clips(6, 12, 15, count=3)
    found = squeezecam.evaluate(
        counting(x), x, "occlusion,integrated-gradients", metrics="pointing", masks=masks, progress=False
    ).figures()
    for peer in ("occlusion", "integrated-gradients"):
        assert found[peer]["pointing_game"].value.mean == 1.0


def test_compare_draws_frames_of_clips(tmp_path: Path) -> None:
    x, _ = clips(6, 12, 15, count=2)
    found = squeezecam.compare(counting(x), x, "class,centred-gaussian", repeats=1)
    assert found.maps["class"].shape == (2, 6, 12, 15)
    assert Image.open(found.save(tmp_path / "clips.png")).width > 300
    turned = squeezecam.compare(counting(x.transpose(1, 2), frames_first=True), x.transpose(1, 2), "class", repeats=1)
    assert torch.equal(turned._drawn(), found._drawn())
    with pytest.raises(InputError, match="leave pictures out"):
        found.plot(pictures=[Image.new("RGB", (4, 4))] * 2)
    line, _ = clips(24, count=2)
    with pytest.raises(InputError, match="height and width"):
        squeezecam.compare(counting(line), line, "class", repeats=1).plot()


def test_a_mosaic_by_hand() -> None:
    clip = torch.arange(9.0)[:, None, None].expand(9, 2, 2)
    assert chosen_frames(9) == [1, 3, 5, 7]
    expected = torch.tensor([[1, 1, 9, 3, 3], [1, 1, 9, 3, 3], [9, 9, 9, 9, 9], [5, 5, 9, 7, 7], [5, 5, 9, 7, 7]])
    assert torch.equal(mosaic(clip, between=9), expected.float())
    assert torch.equal(mosaic(clip[:3], between=9)[3:, 3:], torch.full((2, 2), 9.0))
    assert mosaic(clip[:1]).shape == (2, 2)
    assert frame_words(9) == "frames 2, 4, 6, 8 of 9"
    assert frame_words(1) == "frame 1 of 1"
