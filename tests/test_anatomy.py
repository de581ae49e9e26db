"""Where a block goes: the choice, what callers name, refusals, `inspect`, and the reader of native blocks."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import squeezecam
from squeezecam import InputError, Site, SiteError, SqueezeWarning
from squeezecam.inspection import inspect
from squeezecam.native_se import find_native, read_native
from squeezecam.tap import tapped

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import coverage_zoo as zoo


def place_of(name: str) -> str:
    """The place in one line: module, door, layout, grid."""
    model, example, _ = zoo.oddities()[name]()
    squeeze = squeezecam.attach(model.eval(), example)
    return "; ".join(f"{p.module}.{p.when} {p.layout} {'x'.join(map(str, p.grid))}" for p in squeeze.places.values())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("flatten and MLP head", "body.output n c h w 8x6"),
        ("max pooling", "body.output n c h w 8x6"),
        ("in-place activation after the map", "norm.output n c h w 8x6"),
        ("write into a view of the map", "body.output n c h w 8x6"),
        ("attention pooling", "attention.input n (h w) c 8x6"),
        ("attention pooling, mean as query", "body.output n c h w 8x6"),
        ("attention pooling, keys and values in one", "kv.input n (h w) c 8x6"),
        ("class token", "blocks.1.output n (1+ h w) c 8x6"),
        ("class and 4 registers", "blocks.1.output n (5+ h w) c 8x6"),
        ("class token after the grid", "blocks.1.output n (h w + 1) c 8x6"),
        ("encoder, sequence first", "encoder.output (h w) n c 8x6"),
        ("encoder, fused path, class token", "encoder.layers.0.output n (1+ h w) c 8x6"),
        ("frames in the batch", "body.output (n t) c h w 5x8x6"),
        ("frames in the batch, GRU", "body.output (n t) c h w 5x8x6"),
        ("map handed on by keyword", "pool.input n c h w 8x6"),
        ("two inputs", "eyes.output n c h w 8x6; ears.output n c l 32"),
        ("branches that exchange class tokens", "stages.0.output n (1+ h w) c 8x6; stages.0.output n (1+ h w) c 4x3"),
        ("two scales", "first.output n c h w 8x6"),
        ("channels last", "norm.output n h w c 8x6"),
        ("shared body", "last.output n c h w 8x6"),
    ],
)
def test_the_place_that_is_found(name: str, expected: str) -> None:
    assert place_of(name) == expected


def test_the_map_before_a_convolutional_classifier_not_the_class_maps() -> None:
    model = nn.Sequential(zoo.stem(), nn.Conv2d(16, 10, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert squeezecam.attach(model.eval(), torch.randn(2, 3, 32, 24)).places["map"].module == "0"


def test_two_averaged_heads_are_two_classification_layers() -> None:
    """Distilled transformers average two heads: neither is passed by every path, and the map is still the last one."""

    class Distilled(zoo.ClassToken):
        def __init__(self) -> None:
            super().__init__(2)
            self.second = nn.Linear(16, 10)

        def forward(self, x: Tensor) -> Tensor:
            tokens = torch.cat([self.extra.expand(len(x), -1, -1), self.patch(x).flatten(2).transpose(1, 2)], 1)
            for block in self.blocks:
                tokens = block(tokens)
            tokens = self.norm(tokens)
            return (self.head(tokens[:, 0]) + self.second(tokens[:, 1])) / 2

    place = squeezecam.attach(Distilled().eval(), torch.randn(2, 3, 32, 24)).places["map"]
    assert (place.module, str(place.layout)) == ("blocks.1", "n (2+ h w) c")


def test_a_tensor_that_was_used_before_it_left_the_module_is_no_place() -> None:
    """The module returns its map beside what it has pooled from it: a gate on the map that is returned would do
    nothing.
    """

    class Backbone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = zoo.stem()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            y = self.body(x)
            return {"map": y, "pooled": y.mean((2, 3))}

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.fc = Backbone(), nn.Linear(16, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.backbone(x)["pooled"])

    assert squeezecam.attach(Outer().eval(), torch.randn(2, 3, 32, 24)).places["map"].module == "backbone.body"


def test_the_fused_path_stays_on() -> None:
    """Hooks inside an encoder layer would switch it off and change the bits."""
    model, example, _ = zoo.oddities()["encoder, fused path, class token"]()
    model.eval()
    squeeze = squeezecam.attach(model, example)
    layer = model.encoder.layers[0]
    with torch.no_grad(), tapped(model, squeeze.places, {"map": lambda tensor: None}):
        assert not layer._forward_hooks
        assert not layer._forward_pre_hooks
    with torch.no_grad():
        plain = model(example)
    assert torch.equal(squeeze.explain(example).output, plain)


# --- what callers name ----------------------------------------------------------------------------------


@pytest.fixture
def vit() -> nn.Module:
    return zoo.ClassToken().eval()


IMAGE = torch.randn(2, 3, 32, 24, generator=torch.Generator().manual_seed(0))


def test_a_module_its_name_and_the_printed_site_are_the_same(vit: nn.Module) -> None:
    found = [squeezecam.attach(vit, IMAGE, at=at).places["map"] for at in (None, "blocks.1", vit.blocks[1])]
    assert found[0].site == found[1].site == found[2].site
    again = squeezecam.attach(vit, IMAGE, at=eval(repr(found[0].site), {"Site": Site})).places["map"]
    assert again == found[0]


def test_layout_and_grid_can_be_given(vit: nn.Module) -> None:
    place = squeezecam.attach(vit, IMAGE, at=Site("blocks.0", layout="n (1+ l) c")).places["map"]
    assert place.grid == (48,)
    place = squeezecam.attach(vit, IMAGE, at=Site("blocks.0", "input", layout="n (1+ h w) c", grid=(6, 8))).places[
        "map"
    ]
    assert place.grid == (6, 8)


def test_a_name_that_does_not_exist_brings_close_ones(vit: nn.Module) -> None:
    with pytest.raises(SiteError, match=r"no module 'block.1'; close names: .*blocks.1"):
        squeezecam.attach(vit, IMAGE, at="block.1")


def test_a_place_without_positions_says_its_shape(vit: nn.Module) -> None:
    with pytest.raises(SiteError, match=r"head.*\(2, 10\).*no spatial extent"):
        squeezecam.attach(vit, IMAGE, at="head")


def test_a_module_of_another_model(vit: nn.Module) -> None:
    with pytest.raises(SiteError, match="not a module of the ClassToken"):
        squeezecam.attach(vit, IMAGE, at=nn.Linear(2, 2))


def test_a_module_that_did_not_run(vit: nn.Module) -> None:
    vit.spare = nn.Conv2d(3, 3, 1)
    with pytest.raises(SiteError, match="did not run"):
        squeezecam.attach(vit, IMAGE, at="spare")


# --- what has no map ------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.fc = nn.LSTM(5, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.lstm(x)[0][:, -1])


class Segmenter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = zoo.stem(), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": F.interpolate(self.head(self.body(x)), x.shape[2:], mode="bilinear")}


@pytest.mark.parametrize(
    ("model", "example", "words"),
    [
        (
            nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)),
            torch.randn(2, 6),
            "plain MLP.*feature-attribution",
        ),
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 3)), torch.randn(2, 3, 8, 8), "plain MLP"),
        (Recurrent(), torch.randn(2, 7, 5), "purely recurrent"),
        (Segmenter(), torch.randn(2, 3, 16, 16), r"returns out \(2, 4, 16, 16\).*backbone"),
    ],
)
def test_what_has_no_map_is_refused_with_the_reason(model: nn.Module, example: Tensor, words: str) -> None:
    with pytest.raises(SiteError, match=words):
        squeezecam.attach(model.eval(), example)


def test_a_segmenter_is_served_through_its_backbone() -> None:
    """The way that the refusal names."""
    body = Segmenter().body
    model = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)).eval()
    assert squeezecam.attach(model, IMAGE).places["map"].grid == (8, 6)


def test_a_scripted_model_is_refused() -> None:
    scripted = torch.jit.trace(nn.Sequential(zoo.stem(), nn.Flatten()).eval(), IMAGE)
    with pytest.raises(InputError, match="scripted"):
        squeezecam.attach(scripted, IMAGE)


def test_a_compiled_model_is_unwrapped_and_said_so() -> None:
    model = zoo.SoftmaxOut().eval()
    with pytest.warns(SqueezeWarning, match="eager model"):
        squeeze = squeezecam.attach(torch.compile(model), IMAGE)
    assert squeeze.model is model


# --- inspect --------------------------------------------------------------------------------------------


def test_inspect_says_what_attach_does(vit: nn.Module) -> None:
    calls = []
    handle = vit.register_forward_pre_hook(lambda module, args: calls.append(1))
    found = inspect(vit, IMAGE)
    handle.remove()
    assert len(calls) <= 3
    assert found.places == squeezecam.attach(vit, IMAGE).places
    assert [c.place.module for c in found.candidates if c.taken] == ["blocks.1"]
    assert "single tokens" in found.candidates[0].verdict
    assert found.added["map"] == 2 * 16  # reduction 16 of 16 channels: a hidden width of 1
    assert found.exact == {"output": False}
    text = str(found)
    assert "Site('blocks.1', 'output', layout='n (1+ h w) c', grid=(8, 6))" in text
    assert "head.weight" in text
    assert json.loads(json.dumps(found.as_dict()))["places"]["map"]["grid"] == [8, 6]


@pytest.mark.parametrize("classes", [1, 2, 5, 60])
@pytest.mark.parametrize("known", [True, False])
def test_inspect_tells_the_size_of_the_block_before_and_after_the_fit(classes: int, known: bool) -> None:
    tail = [nn.Linear(8, classes)] if known else [nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, classes)]
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), *pooled, *tail).eval()
    x = torch.rand(16, 3, 16, 16)
    found = inspect(model, x)
    squeeze = squeezecam.attach(model, x)
    assert found.added["map"] == sum(p.numel() for p in squeeze.blocks.parameters())
    assert found.exact["output"] == known
    squeeze.fit([x, x.flip(0)], progress=False)
    after = sum(p.numel() for p in squeeze.blocks.parameters())
    assert found.fitted == {"map": after}
    share = after / sum(p.numel() for p in model.parameters())
    assert f"as it is attached, {after:,} parameters ({share:.2%}) once it is fitted" in str(found)
    assert found.as_dict()["places"]["map"]["fitted"] == after


def test_inspect_of_a_named_place(vit: nn.Module) -> None:
    found = inspect(vit, IMAGE, at="blocks.0")
    assert found.places["map"].module == "blocks.0"
    assert found.candidates[0].verdict == "named by the caller"


def test_picture_of_the_grid(vit: nn.Module) -> None:
    image = pytest.importorskip("PIL.Image")
    picture = image.new("RGB", (48, 64))
    drawn = inspect(vit, IMAGE).grid_on(picture)  # 8 x 6 cells of 8 pixels
    assert drawn.getpixel((8, 3)) == (255, 255, 0)
    assert drawn.getpixel((3, 56)) == (255, 255, 0)
    assert drawn.getpixel((3, 3)) == (0, 0, 0)
    assert picture.getpixel((8, 3)) == (0, 0, 0)


# --- SE blocks that networks have -----------------------------------------------------------------------


class SEModule(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def gate(self, x: Tensor) -> Tensor:
        return F.hardsigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(self.gate(x))  # in place: the input must have been copied


class Native(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.first, self.second = zoo.stem(), SEModule(16), SEModule(16)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.second(self.first(self.body(x))).mean((2, 3)))


def test_native_gates_are_those_of_the_block() -> None:
    model = Native().eval()
    assert [block.name for block in find_native(model)] == ["first", "second"]
    calls = []
    handle = model.register_forward_pre_hook(lambda module, args: calls.append(1))
    reading = read_native(model, IMAGE)
    handle.remove()
    with torch.no_grad():
        features = model.body(IMAGE)
        gates = model.first.gate(features)
        scaled = model.second(features * gates)
        plain = model(IMAGE)
    assert len(calls) == 1
    assert torch.equal(reading.output, plain)
    torch.testing.assert_close(reading.gates["first"], gates.flatten(1))
    torch.testing.assert_close(reading.features["second"], scaled)
    assert set(reading.features) == {"second"}
    assert reading.heatmap().shape == (2, 8, 6)
    kept = squeezecam.vector.zscore(reading.gates["second"]).mask
    expected = (scaled * kept[:, :, None, None]).sum(1) / kept.sum(1)[:, None, None]
    torch.testing.assert_close(reading.heatmap(), expected)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


def test_features_of_named_blocks_and_refusals() -> None:
    model = Native().eval()
    assert set(read_native(model, IMAGE, features=["first"]).features) == {"first"}
    with pytest.raises(InputError, match="'third' is no SE block"):
        read_native(model, IMAGE, features=["third"])
    with pytest.raises(InputError, match="'first' were not kept; kept: second"):
        read_native(model, IMAGE).heatmap("first")
    with pytest.raises(SiteError, match="no squeeze-and-excitation blocks"):
        read_native(zoo.SoftmaxOut(), IMAGE)


def test_a_block_that_only_looks_like_one_is_not_believed() -> None:
    class SEModule(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(16, 16, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)

    model = nn.Sequential(zoo.stem(), SEModule(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))
    assert len(find_native(model)) == 1
    with pytest.raises(SiteError, match="one gate per channel"):
        read_native(model, IMAGE)
