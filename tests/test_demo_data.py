"""The embedded default: pictures with a known mask, and a network that was measured on them."""

from __future__ import annotations

import pickle
from importlib import resources
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image

from squeezecam.data.demo import CLUTTER, SIDE, DemoImages, DemoItem, sprites
from squeezecam.errors import InputError
from squeezecam.models.demo import DEMO_LABELS, DemoNet, demo_metadata, demo_model, preprocess

ASSETS = resources.files("squeezecam") / "assets"


@pytest.fixture(scope="module")
def items() -> list[DemoItem]:
    return list(DemoImages("test", 120, seed=3))


@pytest.fixture(scope="module")
def pairs() -> list[DemoItem]:
    return list(DemoImages("train", 60, seed=3, digits=2))


@pytest.fixture(scope="module")
def model() -> DemoNet:
    network, _ = demo_model()
    assert isinstance(network, DemoNet)
    return network


def same(a: DemoItem, b: DemoItem) -> bool:
    return np.array_equal(a.image, b.image) and np.array_equal(a.masks, b.masks) and a.labels == b.labels


def test_item_depends_on_split_seed_and_index_alone() -> None:
    data = DemoImages("train", 20, seed=5)
    forward = [data[i] for i in range(5)]
    backward = [data[i] for i in reversed(range(5))][::-1]
    assert all(same(a, b) for a, b in zip(forward, backward, strict=True))
    assert same(data[4], DemoImages("train", 5, seed=5)[4]), "the number of pictures must not change a picture"
    assert same(data[-1], data[19])
    for other in (
        DemoImages("train", 20, seed=6),
        DemoImages("test", 20, seed=5),
        DemoImages("train", 20, 5, digits=2),
    ):
        assert not np.array_equal(data[4].image, other[4].image)


def test_drawing_leaves_the_global_generators_alone() -> None:
    def next_numbers(draw: bool) -> tuple[float, float]:
        np.random.seed(1)
        torch.manual_seed(1)
        if draw:
            DemoImages("test", 1)[0]
        return float(np.random.random()), float(torch.rand(()))

    assert next_numbers(draw=True) == next_numbers(draw=False)


@pytest.mark.parametrize("which", ["items", "pairs"])
def test_boxes_are_the_tight_boxes_of_the_masks(which: str, request: pytest.FixtureRequest) -> None:
    drawn: list[DemoItem] = request.getfixturevalue(which)
    for item in drawn:
        assert item.image.shape == (SIDE, SIDE, 3)
        assert item.image.dtype == np.uint8
        assert len(item.labels) == len(item.masks) == len(item.boxes) == (1 if which == "items" else 2)
        for mask, (x0, y0, x1, y1) in zip(item.masks, item.boxes, strict=True):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) == (x0, y0, x1, y1)
            assert 14 <= y1 - y0 <= 46
            assert mask.sum() > 40


def test_mask_lies_on_the_digit(items: list[DemoItem]) -> None:
    """The digit is one even colour that stands out: what is nearer to it than to the surroundings is the mask."""
    agreement = []
    for item in items:
        x0, y0, x1, y1 = item.box
        pixels = np.pad(item.image.astype(float), ((3, 3), (3, 3), (0, 0)), "edge")[y0 : y1 + 6, x0 : x1 + 6]
        mask = np.pad(item.mask, 3)[y0 : y1 + 6, x0 : x1 + 6]
        frame = np.ones_like(mask)
        frame[3:-3, 3:-3] = False
        ink, ground = np.median(pixels[mask], axis=0), np.median(pixels[frame], axis=0)
        assert np.abs(ink - ground).max() > 40
        drawn = (pixels - ground) @ (ink - ground) / np.square(ink - ground).sum() > 0.5
        agreement.append((drawn & mask).sum() / (drawn | mask).sum())
    assert np.mean(agreement) > 0.9
    assert min(agreement) > 0.6  # noise and a background that changes within the box


def test_digits_stand_anywhere_and_apart_from_clutter(items: list[DemoItem], pairs: list[DemoItem]) -> None:
    centres = np.array([((i.box[0] + i.box[2]) / 2, (i.box[1] + i.box[3]) / 2) for i in items])
    assert (centres.std(0) > 15).all()
    assert np.mean([item.mask[SIDE // 2, SIDE // 2] for item in items]) < 0.2, "the centre must not explain the digit"
    for item in items + pairs:
        assert len(item.clutter) == len(item.clutter_boxes) >= 1
        for x0, y0, x1, y1 in item.clutter_boxes:
            assert not item.masks[:, y0:y1, x0:x1].any()
    assert {kind for item in items for kind in item.clutter} == set(CLUTTER)
    assert {item.label for item in items} == set(range(10))
    for item in pairs:
        assert item.labels[0] != item.labels[1]
        assert not (item.masks[0] & item.masks[1]).any()


def test_splits_share_no_sprite_and_hold_all_classes() -> None:
    seen: dict[str, set[bytes]] = {}
    splits: tuple[Literal["train", "test"], ...] = ("train", "test")
    for split in splits:
        pictures, labels = sprites(split)
        assert pictures.shape == (len(labels), 8, 8)
        assert pictures.max() == 16
        assert (np.bincount(labels, minlength=10) > 25).all()
        assert not pictures.flags.writeable
        seen[split] = {picture.tobytes() for picture in pictures}
    assert len(seen["train"]) > 3 * len(seen["test"]) > 900
    assert not seen["train"] & seen["test"]


def test_sprites_are_the_published_digits() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    known = {(p.tobytes(), int(t)) for p, t in zip(digits.images.astype(np.uint8), digits.target, strict=True)}
    splits: tuple[Literal["train", "test"], ...] = ("train", "test")
    for split in splits:
        assert {(p.tobytes(), int(t)) for p, t in zip(*sprites(split), strict=True)} <= known


@pytest.mark.parametrize("digits", [1, 2])
def test_batch_holds_the_items(digits: int) -> None:
    data = DemoImages("test", 10, seed=1, digits=digits)
    batch = data.batch([7, 2])
    several = () if digits == 1 else (2,)
    assert batch.images.shape == (2, 3, SIDE, SIDE)
    assert batch.labels.shape == (2, *several)
    assert batch.masks.shape == (2, *several, SIDE, SIDE)
    assert batch.boxes.shape == (2, *several, 4)
    assert batch.masks.dtype == torch.bool
    item = data[7]
    assert torch.equal(batch.images[0], preprocess(Image.fromarray(item.image)))
    assert np.array_equal(batch.masks[0].numpy().reshape(item.masks.shape), item.masks)
    assert batch.labels[0].flatten().tolist() == list(item.labels)
    assert batch.boxes[0].reshape(-1, 4).tolist() == [list(box) for box in item.boxes]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("val", 3), "'val'"),
        (("test", 0), "size is 0"),
        (("test", 3, -1), "seed is -1"),
        (("test", 3, 0, 3), "digits is 3"),
    ],
)
def test_wrong_arguments_are_named(arguments: tuple[Any, ...], named: str) -> None:
    with pytest.raises(InputError, match=named):
        DemoImages(*arguments)


def test_index_out_of_range_and_empty_batch() -> None:
    data = DemoImages("test", 3)
    with pytest.raises(IndexError, match="3 pictures"):
        data[3]
    with pytest.raises(InputError, match="at least one"):
        data.batch([])


def test_network_has_the_documented_shape(model: DemoNet) -> None:
    assert not model.training
    features = model.features(torch.rand(2, 3, SIDE, SIDE))
    assert features.shape == (2, 192, 12, 12)
    assert features.min() >= 0
    assert model(torch.rand(2, 3, SIDE, SIDE)).shape == (2, len(DEMO_LABELS))
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_shipped_network_reaches_its_recorded_accuracy(model: DemoNet) -> None:
    recorded = float(demo_metadata()["test_accuracy"])
    assert recorded >= 0.95
    batch = DemoImages("test", 200, seed=11).batch(range(200))
    with torch.inference_mode():
        measured = (model(batch.images).argmax(1) == batch.labels).float().mean().item()
    tolerance = 3 * (recorded * (1 - recorded) / 200) ** 0.5  # three standard errors of a sample of 200
    assert measured >= recorded - tolerance


def test_class_map_beats_the_centre_and_the_mean_of_all_channels(model: DemoNet) -> None:
    """What makes it a demo: the evidence lies on the digit, while other things in the picture are seen as well."""
    batch = DemoImages("test", 100, seed=12).batch(range(100))
    with torch.inference_mode():
        features = model.features((batch.images - 0.5) / 0.25)
        evidence = torch.einsum("nc,nchw->nhw", model.head.weight[batch.labels], features)

    def pointing(maps: torch.Tensor) -> float:
        full = torch.nn.functional.interpolate(maps[:, None], SIDE, mode="bicubic").flatten(1)
        top = full.argmax(1)
        x, y = top % SIDE, top // SIDE
        b = batch.boxes
        return ((x >= b[:, 0]) & (x < b[:, 2]) & (y >= b[:, 1]) & (y < b[:, 3])).float().mean().item()

    y, x = torch.meshgrid(torch.linspace(-1, 1, 12), torch.linspace(-1, 1, 12), indexing="ij")
    centred = torch.exp(-2 * (x**2 + y**2)).expand(len(evidence), 12, 12)
    assert pointing(evidence) > 0.9
    assert pointing(features.mean(1)) < pointing(evidence) - 0.2
    assert pointing(centred) < 0.3


def test_untrained_network_knows_nothing() -> None:
    torch.manual_seed(0)
    untrained, _ = demo_model(random=True)
    batch = DemoImages("test", 60, seed=11).batch(range(60))
    with torch.inference_mode():
        assert (untrained(batch.images).argmax(1) == batch.labels).float().mean() < 0.4


@pytest.mark.parametrize(("mode", "size"), [("RGB", (96, 96)), ("L", (30, 50)), ("RGBA", (300, 96)), ("P", (96, 20))])
def test_preprocess_takes_pictures_of_any_mode_and_size(mode: str, size: tuple[int, int]) -> None:
    tensor = preprocess(Image.new(mode, size))
    assert tensor.shape == (3, 96, 96)
    assert tensor.dtype == torch.float32


def test_preprocess_keeps_positions_and_values() -> None:
    picture = Image.new("RGB", (192, 48))
    picture.paste((255, 0, 0), (96, 0, 192, 24))  # upper right quarter
    tensor = preprocess(picture)
    assert tensor[0, :46, 50:].min() > 0.98
    assert tensor[0, 50:].max() < 0.02
    assert tensor[0, :, :46].max() < 0.02
    assert tensor[1:].max() < 0.02


def test_assets_are_small() -> None:
    assert len((ASSETS / "digits.npz").read_bytes()) < 120_000
    assert len((ASSETS / "demo.safetensors").read_bytes()) <= 2_000_000


def test_loading_unpickles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a file was unpickled")

    sprites.cache_clear()
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    demo_model()
    DemoImages("test", 1)[0]
