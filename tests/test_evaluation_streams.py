"""One stream of several is measured with the others held, sample by sample; so is a picture with figures beside it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import squeezecam
from squeezecam import InputError, Site, Squeeze
from squeezecam.canvas import canvas, input_under
from squeezecam.evaluation import randomise
from squeezecam.metrics import adcc, average_drop, coherency, deletion, insertion, map_area
from squeezecam.peers import MapMethod, registry

needs_grad_cam = pytest.mark.skipif(importlib.util.find_spec("pytorch_grad_cam") is None, reason="no pytorch-grad-cam")
needs_captum = pytest.mark.skipif(importlib.util.find_spec("captum") is None, reason="no captum")


class Talk(nn.Module):
    """Scores per frame from a face (N, T, h, w) and a sound (N, 2 T, F); both have to be there for class 1."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.see, self.hear = nn.Conv3d(1, 4, 3, padding=1), nn.Conv2d(1, 6, 1)
        self.pool = nn.AvgPool2d((1, 2))
        self.recurrent = nn.GRU(10, 8, batch_first=True)
        self.fc = nn.Linear(8, 2)

    def forward(self, faces: Tensor, sound: Tensor) -> Tensor:
        seen = self.see(faces[:, None]).relu().amax((3, 4))
        heard = self.pool(self.hear(sound.transpose(1, 2)[:, None]).relu()).amax(2)
        return 6 * self.fc(self.recurrent(torch.cat([seen, heard], 1).transpose(1, 2))[0])


def talk_inputs(count: int, frames: int = 9, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return 3 * torch.rand(count, frames, 7, 6, generator=draw), 3 * torch.rand(count, 2 * frames, 5, generator=draw)


def talking() -> Squeeze:
    return squeezecam.attach(Talk().eval(), talk_inputs(2), at={"face": "see", "audio": Site("hear", layout="n c f t")})


class WithFigures(nn.Module):
    """A picture and two figures beside it, which turn the decision round."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.map, self.head = nn.Conv2d(3, 6, 2, 2), nn.Linear(8, 3)
        self.head.weight.data *= 20

    def forward(self, x: Tensor, figures: Tensor) -> Tensor:
        return self.head(torch.cat([self.map(x).relu().mean((2, 3)), figures], 1))


# --- how inputs are read ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "size", "frames_first", "picture"),
    [
        ((2, 3, 8, 6), (8, 6), None, (2, 3, 8, 6)),
        ((2, 8, 6, 3), (8, 6), None, (2, 3, 8, 6)),
        ((2, 9, 8, 6), (9, 8, 6), None, (2, 1, 9, 8, 6)),
        ((2, 9, 3, 8, 6), (9, 8, 6), True, (2, 3, 9, 8, 6)),
        ((2, 3, 3, 8, 6), (3, 8, 6), True, (2, 3, 3, 8, 6)),
        ((2, 18, 5), (5, 18), None, (2, 1, 5, 18)),
        ((2, 5, 18), (5, 18), None, (2, 1, 5, 18)),
        ((2, 7, 7), (7, 7), True, (2, 1, 7, 7)),
        ((2, 4, 24), (24,), None, (2, 4, 24)),
    ],
)
def test_inputs_are_read_as_pictures_and_back(
    shape: tuple[int, ...], size: tuple[int, ...], frames_first: bool | None, picture: tuple[int, ...]
) -> None:
    read = canvas(shape, size, frames_first=frames_first)
    assert read is not None
    given = torch.rand(shape)
    pictures = read.pictures(given)
    assert tuple(pictures.shape) == picture
    assert torch.equal(read.input(pictures), given)
    assert read.input(pictures).is_contiguous()


def test_of_two_readings_frames_come_first_where_the_model_has_them_first() -> None:
    clip = torch.rand(2, 3, 3, 8, 6)
    for first in (True, False):
        read = canvas(tuple(clip.shape), (3, 8, 6), frames_first=first)
        assert read is not None
        assert torch.equal(read.pictures(clip), clip.transpose(1, 2) if first else clip)


@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize(("size", "stride"), [((12, 12), 1), ((12, 12), 2), ((6, 12), 2), ((12, 6), 2)])
def test_a_spectrogram_is_turned_as_the_model_turns_it(size: tuple[int, int], stride: int, turned: bool) -> None:
    class Loud(WithFigures):
        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Conv2d(1, 6, stride, stride)
            self.map.weight.data.abs_()

        def forward(self, sound: Tensor, figures: Tensor) -> Tensor:
            return super().forward((sound.transpose(1, 2) if turned else sound)[:, None], figures)

    sound = torch.zeros(2, *size)
    sound[:, 4:6, :2] = 9
    squeeze = squeezecam.attach(Loud().eval(), (sound, torch.rand(2, 2)))
    maps = squeeze.explain((sound, torch.rand(2, 2)), method="published").heatmap
    upright = maps.transpose(1, 2) if turned else maps
    assert upright.shape == sound.shape
    assert upright[:, 4:6, :2].flatten(1).amax(1).tolist() == maps.flatten(1).amax(1).tolist()
    _, given, read = input_under(squeeze, (sound, torch.rand(2, 2)), next(iter(squeeze.places)))
    assert torch.equal(read.pictures(given)[:, 0], sound.transpose(1, 2) if turned else sound)


@pytest.mark.parametrize("shape", [(7, 9, 2), (7, 9, 12), (5, 7, 9, 2), (6, 6, 6), (9, 8, 3)])
@pytest.mark.parametrize("last", [True, False])
def test_channels_stand_where_the_model_takes_them_however_many(shape: tuple[int, ...], last: bool) -> None:
    class Taken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            kind = (nn.Conv2d, nn.Conv3d)[len(shape) - 3]
            self.map, self.head = kind(shape[-1 if last else 0], 4, 3, padding=1), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.map(x.movedim(-1, 1) if last else x).relu().flatten(2).mean(2))

    x = torch.rand(2, *shape)
    squeeze = squeezecam.attach(Taken().eval(), x)
    pictures = x.movedim(-1, 1) if last else x
    assert squeeze.explain(x, method="published").heatmap.shape[1:] == pictures.shape[2:]
    _, given, read = input_under(squeeze, x, "map")
    assert torch.equal(read.pictures(given), pictures)
    assert squeezecam.evaluate(squeeze, x, "published", "insertion", progress=False).records


def test_a_map_of_another_form_lies_on_no_input() -> None:
    assert canvas((2, 16000), (13, 40)) is None
    assert canvas((2, 3, 8, 6), (8, 5)) is None


# --- figures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", ["face", "audio"])
def test_figures_of_a_stream_are_those_of_the_metrics_with_the_other_held(stream: str, tmp_path: Path) -> None:
    squeeze, inputs = talking(), talk_inputs(4)
    found = squeezecam.evaluate(
        squeeze, inputs, "published,change", stream=stream, batch_size=3, out=tmp_path, progress=False
    )
    values = squeeze(*inputs).mean(1)
    target, full = values.argmax(1), values.softmax(1).amax(1).detach()
    assert [record["target"] for record in found.records] == target.tolist()
    torch.testing.assert_close(torch.tensor([record["confidence"] for record in found.records]), full)
    for i, record in enumerate(found.records):
        faces, sound = (one[i : i + 1] for one in inputs)

        def model(pictures: Tensor, faces: Tensor = faces, sound: Tensor = sound) -> Tensor:
            if stream == "face":
                return squeeze(pictures[:, 0], sound.expand(len(pictures), -1, -1)).mean(1)
            return squeeze(faces.expand(len(pictures), -1, -1, -1), pictures[:, 0].transpose(1, 2)).mean(1)

        picture = faces[:, None] if stream == "face" else sound.transpose(1, 2)[:, None]
        for name, options in (("published", {}), ("change", {"aggregate": "change"})):
            maps = squeeze.explain((faces, sound), method="published", **options).heatmap[stream]
            goal = target[i : i + 1]
            got = record["values"][name]
            assert got["insertion"] == pytest.approx(
                float(insertion(model, picture, maps, goal, steps=8).score), abs=1e-5
            )
            assert got["deletion"] == pytest.approx(
                float(deletion(model, picture, maps, goal, steps=8, base="mean").score), abs=1e-5
            )
            scaled = (maps - maps.amin()) / (maps.amax() - maps.amin())
            kept = model(picture * scaled[:, None]).softmax(1)[:, int(goal)].detach()
            drop = average_drop(full[i : i + 1], kept)
            assert got["average_drop"] == pytest.approx(float(drop), abs=1e-5)
            masked = (picture * scaled[:, None])[:, 0]
            again = squeeze.explain(
                (masked, sound) if stream == "face" else (faces, masked.transpose(1, 2)), method="published", **options
            ).heatmap[stream]
            assert got["adcc"] == pytest.approx(float(adcc(drop, coherency(maps, again), map_area(maps))), abs=1e-5)
    assert {"all-channel-mean", "random-channels", "random-map", "centred-gaussian"} <= set(found.methods)
    settings = (tmp_path / "evaluation.json").read_text()
    assert f'"stream": "{stream}"' in settings


def test_a_picture_is_measured_with_its_own_figures_beside_it() -> None:
    x, figures = torch.rand(5, 3, 16, 16), torch.tensor([[2.0, -2], [-2, 2], [0, 3], [3, 0], [-1, -1]])
    squeeze = squeezecam.attach(WithFigures().eval(), (x, figures))
    found = squeezecam.evaluate(squeeze, (x, figures), "class", "insertion", progress=False)
    target = squeeze(x, figures).argmax(1)
    assert len(set(target.tolist())) > 1
    maps = squeeze.explain((x, figures), method="class").heatmap
    for i, record in enumerate(found.records):
        curve = insertion(
            lambda some, i=i: squeeze(some, figures[i].expand(len(some), -1)),  # type: ignore[misc]
            x[i : i + 1], maps[i : i + 1], target[i : i + 1], steps=8,
        )  # fmt: skip
        assert record["values"]["class"]["insertion"] == pytest.approx(float(curve.score), abs=1e-5)
    by_name = squeezecam.evaluate(squeeze, {"x": x, "figures": figures}, "class", "insertion", progress=False)
    assert by_name.figures()["class"] == found.figures()["class"]


def test_inputs_come_by_name_in_any_order_and_what_the_model_can_do_without_may_be_left_out() -> None:
    class Optional(WithFigures):
        def forward(self, x: Tensor, figures: Tensor | None = None) -> Tensor:
            return super().forward(x, x.new_zeros(len(x), 2) if figures is None else figures)

    x, figures = torch.rand(3, 3, 16, 16), torch.rand(3, 2)

    def insertions(squeeze: Squeeze, inputs: object) -> list[float]:
        found = squeezecam.evaluate(squeeze, inputs, "published", "insertion", progress=False)
        return [record["values"]["published"]["insertion"] for record in found.records]

    squeeze = squeezecam.attach(Optional().eval(), (x, figures))
    turned = squeezecam.attach(squeeze.model, {"figures": figures, "x": x})
    expected = insertions(squeeze, (x, figures))
    for given in ({"x": x, "figures": figures}, {"figures": figures, "x": x}, [{"figures": figures, "x": x}]):
        assert insertions(squeeze, given) == insertions(turned, given) == expected
    assert insertions(turned, (x, figures)) == expected
    without = insertions(squeeze, (x, torch.zeros(3, 2)))
    assert insertions(squeeze, {"x": x}) == insertions(squeeze, (x, None)) == without != expected
    alone = nn.Sequential(nn.Conv2d(3, 4, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    one = squeezecam.attach(alone, {"input": x})
    assert insertions(one, {"input": x}) == pytest.approx(insertions(one, x), abs=1e-6)


@needs_grad_cam
@needs_captum
@pytest.mark.parametrize("length", [4, 1])
def test_what_all_samples_share_is_left_whole_though_there_are_as_many_of_them(length: int) -> None:
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.map, self.head = nn.Conv2d(3, 4, 2, 2), nn.Linear(4, 3)
            self.head.weight.data *= 20

        def forward(self, x: Tensor, weights: Tensor) -> Tensor:
            return self.head(self.map(x).relu().mean((2, 3)) * weights)

    x, weights = torch.rand(4, 3, 12, 12), torch.rand(length) + 0.5
    squeeze = squeezecam.attach(Weighted().eval(), (x[:2], weights))
    maps = squeeze.explain((x, weights), method="published").heatmap
    target = squeeze(x, weights).argmax(1)
    curve = insertion(lambda some: squeeze(some, weights), x, maps, target, steps=8).score
    found = squeezecam.evaluate(squeeze, (x, weights), "published", "insertion", progress=False)
    got = [record["values"]["published"]["insertion"] for record in found.records]
    assert got == pytest.approx(curve.tolist(), abs=1e-5)
    compared = squeezecam.compare(squeeze, (x, weights), "published,grad-cam,occlusion,ablation-cam", repeats=1)
    torch.testing.assert_close(compared.maps["published"], maps)
    for name in ("grad-cam", "occlusion", "ablation-cam"):
        alone = torch.cat([registry()[name](squeeze, (one[None], weights), target[:1]) for one in x[:1]])
        torch.testing.assert_close(compared.maps[name][:1], alone)
        torch.testing.assert_close(registry()[name](squeeze, (x, weights), target)[:1], alone)


def test_what_does_not_run_one_by_one_is_told() -> None:
    class Squeezed(WithFigures):
        def forward(self, x: Tensor, figures: Tensor) -> Tensor:
            return super().forward(x, figures)[..., None].squeeze()

    x, figures = torch.rand(3, 3, 16, 16), torch.rand(3, 2)
    squeeze = squeezecam.attach(Squeezed().eval(), (x, figures))
    for measured in (squeezecam.evaluate, randomise):
        with pytest.raises(InputError, match=r"3 rows for 1 of the pictures.*squeeze\(\) without an axis"):
            measured(squeeze, (x, figures), "published", progress=False)
    with pytest.raises(InputError, match="3 rows for 1 of the pictures"):
        squeezecam.compare(squeeze, (x, figures), "published")
    squeeze = squeezecam.attach(WithFigures().eval(), (x, figures))
    with pytest.raises(
        InputError, match=r"failed on one picture by itself, inputs of shape \(1, 3, 16, 16\), \(2, 2\)"
    ):
        squeezecam.compare(squeeze, (x, figures[:2]), "published")


def test_a_map_of_ones_own_method_that_fits_no_picture_is_told_by_compare() -> None:
    x, figures = torch.rand(3, 3, 16, 16), torch.rand(3, 2)
    squeeze = squeezecam.attach(WithFigures().eval(), (x, figures))
    own = MapMethod(
        "mine", "mine", "peer", lambda squeeze, inputs, target, **rest: inputs[0][:, 0, ::2], lambda *_: 1.0
    )
    with pytest.raises(
        InputError, match=r"a map of mine for one picture has shape \(1, 8, 16\), expected \(1, 16, 16\)"
    ):
        squeezecam.compare(squeeze, (x, figures), [own])


def test_a_loader_is_told() -> None:
    squeeze, inputs = talking(), talk_inputs(2)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*inputs))
    with pytest.raises(InputError, match=r"images is an object of type DataLoader; expected a tensor"):
        squeezecam.evaluate(squeeze, loader, stream="face", progress=False)


def test_of_pictures_that_come_by_name_each_has_its_own_size() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.head = nn.Conv2d(3, 4, 2, 2), nn.Conv2d(1, 4, 2, 2), nn.Linear(8, 2)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.head(torch.cat([self.left(a).relu().mean((2, 3)), self.right(b).relu().mean((2, 3))], 1))

    a, b = torch.rand(2, 3, 16, 12), torch.rand(2, 1, 8, 10)
    squeeze = squeezecam.attach(Pair().eval(), (a, b), at={"a": "left", "b": "right"})
    by_place, by_name = squeeze.explain((a, b)).heatmap, squeeze.explain({"a": a, "b": b}).heatmap
    assert by_name["b"].shape == (2, 8, 10)
    assert torch.equal(by_name["b"], by_place["b"])
    assert registry()["random-map"](squeeze, {"a": a, "b": b}, stream="b").shape == (2, 8, 10)


def test_clips_of_different_lengths_come_as_a_list_of_batches() -> None:
    squeeze = talking()
    batches = [talk_inputs(2, 9), talk_inputs(1, 12, seed=1)]
    found = squeezecam.evaluate(squeeze, batches, "published", "insertion", stream="face", progress=False)
    assert len(found.records) == 3
    alone = squeezecam.evaluate(squeeze, batches[1], "published", "insertion", stream="face", progress=False)
    assert found.records[2]["values"]["published"] == alone.records[0]["values"]["published"]


def test_a_run_is_not_gone_on_with_once_what_is_beside_the_picture_has_changed(tmp_path: Path) -> None:
    squeeze, (faces, sound) = talking(), talk_inputs(2)
    first = squeezecam.evaluate(
        squeeze, (faces, sound), "published", "insertion", stream="face", out=tmp_path, progress=False
    )
    other = squeezecam.evaluate(
        squeeze, (faces, sound.flip(0)), "published", "insertion", stream="face", out=tmp_path, progress=False
    )
    assert first.records != other.records


def test_a_run_is_not_gone_on_with_once_a_number_beside_the_tensors_has_changed(tmp_path: Path) -> None:
    class Turned(WithFigures):
        def forward(self, x: Tensor, figures: Tensor, turn: bool = False) -> Tensor:
            return super().forward(x, -figures if turn else figures)

    x, figures = torch.rand(2, 3, 16, 16), torch.rand(2, 2)
    squeeze = squeezecam.attach(Turned().eval(), (x, figures))
    plain, turned = (
        squeezecam.evaluate(
            squeeze, {"x": x, "figures": figures, "turn": turn}, "published", "insertion", out=tmp_path, progress=False
        )
        for turn in (False, True)
    )
    assert plain.records != turned.records


def test_masks_say_where_in_a_stream_the_object_is() -> None:
    squeeze, inputs = talking(), talk_inputs(3)
    maps = squeeze.explain(inputs, method="published").heatmap["face"]
    masks = (maps == maps.flatten(1).amax(1).view(-1, 1, 1, 1)).float()
    found = squeezecam.evaluate(
        squeeze, inputs, "published", "pointing_game", stream="face", masks=masks, progress=False
    )
    assert found.figures()["published"]["pointing_game"].value.mean == 1.0


def test_what_cannot_be_measured_is_told() -> None:
    squeeze, inputs = talking(), talk_inputs(2)
    with pytest.raises(InputError, match=r"one map at a time; the model has face, audio: name one, stream='face'"):
        squeezecam.evaluate(squeeze, inputs, progress=False)
    with pytest.raises(InputError, match=r"no stream 'lips'; the model has face, audio"):
        squeezecam.compare(squeeze, inputs, stream="lips")
    with pytest.raises(InputError, match="'channel_faithfulness' is for models with one map"):
        squeezecam.evaluate(squeeze, inputs, metrics="channel_faithfulness", stream="audio", progress=False)
    with pytest.raises(InputError, match="got neither: the model was attached with 2 inputs of 4, 3 axes"):
        squeezecam.evaluate(squeeze, inputs[0], stream="face", progress=False)


def test_whole_numbers_are_told() -> None:
    squeeze, (faces, sound) = talking(), talk_inputs(2)
    with pytest.raises(InputError, match=r"pictures are torch.uint8; expected floating point numbers"):
        squeezecam.evaluate(squeeze, (faces.byte(), sound), stream="face", progress=False)


def test_a_map_that_does_not_lie_on_the_points_of_its_input_is_told() -> None:
    class Wave(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map, self.head = nn.Conv2d(1, 4, 3), nn.Linear(6, 2)

        def forward(self, wave: Tensor, figures: Tensor) -> Tensor:
            spectrum = wave.view(len(wave), 1, 10, 32)
            return self.head(torch.cat([self.map(spectrum).relu().mean((2, 3)), figures], 1))

    inputs = torch.rand(2, 320), torch.rand(2, 2)
    squeeze = squeezecam.attach(Wave().eval(), inputs)
    with pytest.raises(InputError, match=r"does not lie on the points of its input of shape \(2, 320\)"):
        squeezecam.evaluate(squeeze, inputs, progress=False)


# --- peers, randomisation, pictures -------------------------------------------------------------------------


@needs_grad_cam
@pytest.mark.parametrize("stream", ["face", "audio"])
def test_grad_cam_of_a_stream_is_that_of_the_paper(stream: str) -> None:
    squeeze, inputs = talking(), talk_inputs(3)
    target = torch.tensor([0, 1, 1])
    kept: dict[str, Tensor] = {}
    layer = squeeze.model.see if stream == "face" else squeeze.model.hear
    handle = layer.register_forward_hook(lambda module, args, out: kept.update(out=out))
    score = squeeze.model(*inputs).mean(1).gather(1, target[:, None]).sum()
    handle.remove()
    (gradient,) = torch.autograd.grad(score, kept["out"])
    axes = tuple(range(2, gradient.ndim))
    expected = (gradient.mean(axes, keepdim=True) * kept["out"]).sum(1).relu().detach()
    expected = expected / expected.flatten(1).amax(1).clamp_min(1e-7).view(-1, *[1] * (expected.ndim - 1))
    found = registry()["grad-cam"](squeeze, inputs, target, stream=stream)
    low = expected.flatten(1).amin(1).view(-1, *[1] * (expected.ndim - 1))
    torch.testing.assert_close(found, (expected - low) / (1 - low + 1e-7), atol=2e-3, rtol=2e-3)


@needs_captum
@needs_grad_cam
def test_other_methods_run_on_a_stream_and_beside_figures() -> None:
    squeeze, inputs = talking(), talk_inputs(2)
    for method in ("occlusion", "integrated-gradients", "layercam"):
        assert registry()[method](squeeze, inputs, stream="face").shape == (2, 9, 7, 6)
    assert registry()["score-cam"](squeeze, inputs, stream="audio").shape == (2, 5, 18)
    x, figures = torch.rand(3, 3, 16, 16), torch.rand(3, 2)
    beside = squeezecam.attach(WithFigures().eval(), (x, figures))
    target = beside(x, figures).argmax(1)
    maps = registry()["ablation-cam"](beside, (x, figures), target)
    for i in range(3):
        alone = registry()["ablation-cam"](beside, (x[i : i + 1], figures[i : i + 1]), target[i : i + 1])
        torch.testing.assert_close(maps[i : i + 1], alone)


def test_randomised_weights_change_the_map_of_a_stream() -> None:
    squeeze, inputs = talking(), talk_inputs(2, 12)
    found = randomise(squeeze, inputs, "published", stream="face", stage_count=3, progress=False)
    values = found.records[0]["values"]
    assert values["random-map"]["spearman"] == [1.0] * len(found.stages)
    assert values["published"]["spearman"][-1] < 0.999


def test_methods_are_compared_on_a_stream() -> None:
    squeeze, inputs = talking(), talk_inputs(2)
    found = squeezecam.compare(squeeze, inputs, "change,published,all-channel-mean", stream="audio", repeats=1)
    assert found.stream == "audio"
    default = squeeze.explain(inputs)
    assert default.method.endswith("aggregate=change")
    torch.testing.assert_close(found.maps["change"], default.heatmap["audio"])
    assert found.pictures.shape == (2, 1, 5, 18)
    assert found.of_sound
    assert found.plot().size[1] > 200
    columns = found._upright(found.maps["change"])
    assert torch.equal(columns[:, 0], found.maps["change"][:, -1])
    assert torch.equal(columns[:, -1], found.maps["change"][:, 0])
    assert columns.shape[1:] == (10, 18)
    assert found._drawn().shape == (2, 1, 10, 18)
    own = squeezecam.compare(squeeze, inputs, stream="face", repeats=1)
    assert own.methods[0].name == "change"
    assert own.plot().size[0] > 300
