"""The rectangle of a picture that a preprocessing shows: found for known geometries, refused for what is no box."""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

from squeezecam.data.geometry import Box, Geometry, seen_box

Preprocess = Callable[[Any], Tensor]
SIZES = [(500, 375), (64, 64), (31, 57), (1600, 300), (700, 1100)]
MEAN = torch.tensor([104.0, 117.0, 123.0]).view(3, 1, 1)


def tensor(image: Image.Image) -> Tensor:
    values = torch.from_numpy(np.asarray(image, np.float32).copy())
    return values[None] if values.ndim == 2 else values.permute(2, 0, 1)


def squash(width: int, height: int, mode: str = "RGB", resample: int = 2, of: Callable[[Tensor], Tensor] | None = None):
    def preprocess(image: Image.Image) -> Tensor:
        values = tensor(image.convert(mode).resize((width, height), resample))
        return of(values) if of else values

    return preprocess


def short_side_and_crop(short: int, side: int) -> tuple[Preprocess, Callable[[int, int], Box]]:
    def plan(width: int, height: int) -> tuple[int, int, int, int]:
        scale = short / min(width, height)
        w, h = int(width * scale + 1e-9), int(height * scale + 1e-9)
        return w, h, round((w - side) / 2), round((h - side) / 2)

    def preprocess(image: Image.Image) -> Tensor:
        w, h, x, y = plan(*image.size)
        return (tensor(image.resize((w, h), 2).crop((x, y, x + side, y + side))) / 255 - 0.45) / 0.225

    def truth(width: int, height: int) -> Box:
        w, h, x, y = plan(width, height)
        return x * width / w, y * height / h, (x + side) * width / w, (y + side) * height / h

    return preprocess, truth


def letterbox(side: int) -> tuple[Preprocess, Callable[[int, int], Box]]:
    def plan(width: int, height: int) -> tuple[int, int, int, int]:
        scale = side / max(width, height)
        w, h = round(width * scale), round(height * scale)
        return w, h, (side - w) // 2, (side - h) // 2

    def preprocess(image: Image.Image) -> Tensor:
        w, h, x, y = plan(*image.size)
        canvas = Image.new("RGB", (side, side), (114, 114, 114))
        canvas.paste(image.resize((w, h), 2), (x, y))
        return tensor(canvas) / 255

    def truth(width: int, height: int) -> Box:
        w, h, x, y = plan(width, height)
        return -x * width / w, -y * height / h, (side - x) * width / w, (side - y) * height / h

    return preprocess, truth


def middle_third(image: Image.Image) -> Tensor:
    width = image.width
    return tensor(image.crop((width // 3, 0, 2 * width // 3, image.height)).resize((96, 96), 2))


def whole(width: int, height: int) -> Box:
    return 0.0, 0.0, float(width), float(height)


def mirrored_padding(image: Image.Image) -> Tensor:
    return torch.nn.functional.pad(tensor(image.resize((96, 96), 2)), (16, 16, 0, 0), mode="reflect")


def repeated_padding(image: Image.Image) -> Tensor:
    return torch.nn.functional.pad(tensor(image.resize((96, 60), 2)), (0, 0, 18, 18), mode="replicate")


def assert_close(found: Box | None, expected: Box, result: tuple[int, int]) -> None:
    """Within half a pixel of the original, or of the network's input where that is coarser."""
    assert found is not None
    for axis in (0, 1):
        pixel = max(1.0, (expected[axis + 2] - expected[axis]) / result[axis])
        for edge in (axis, axis + 2):
            assert abs(found[edge] - expected[edge]) < 0.5 * pixel, (found, expected)


CASES: dict[str, tuple[Preprocess, Callable[[int, int], Box]]] = {
    "squash": (squash(224, 224), whole),
    "squash, normalised": (squash(120, 96, of=lambda x: (x / 255 - 0.5) / 0.2), whole),
    "squash, BGR minus mean": (squash(227, 227, of=lambda x: x.flip(0) - MEAN), whole),
    "squash, gray": (squash(112, 112, "L"), whole),
    "squash, negative": (squash(96, 96, of=lambda x: 255 - x), whole),
    "squash, nearest": (squash(96, 96, resample=0), whole),
    "squash, Lanczos": (squash(96, 96, resample=1), whole),
    "squash, to few": (squash(32, 24), whole),
    "as it is": (tensor, whole),
    "short side and crop": short_side_and_crop(256, 224),
    "letterbox": letterbox(160),
    "middle third": (middle_third, lambda w, h: (float(w // 3), 0.0, float(2 * w // 3), float(h))),
    "mirrored padding": (mirrored_padding, lambda w, h: (-16 * w / 96, 0.0, 112 * w / 96, float(h))),
    "repeated padding": (repeated_padding, lambda w, h: (0.0, -18 * h / 60, float(w), 78 * h / 60)),
    "frames of a clip": (squash(96, 96, of=lambda x: x[:, None].repeat(1, 4, 1, 1)), whole),
}


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_known_geometry_is_found(name: str, size: tuple[int, int]) -> None:
    preprocess, truth = CASES[name]
    result = preprocess(Image.new("RGB", size)).shape
    found = seen_box(preprocess, size)
    assert found.reason == ""
    assert_close(found.box, truth(*size), (result[-1], result[-2]))


def test_squash_is_the_whole_picture_exactly() -> None:
    assert seen_box(squash(224, 224), (500, 375)).box == (0.0, 0.0, 500.0, 375.0)


def test_largest_side_probed_at_true_size() -> None:
    preprocess, truth = short_side_and_crop(256, 224)
    assert_close(seen_box(preprocess, (2048, 1365)).box, truth(2048, 1365), (224, 224))


def test_small_crop_of_a_large_picture_is_found_finely() -> None:
    found = seen_box(lambda image: tensor(image.crop((1000, 490, 1030, 520)).resize((224, 224), 2)), (2000, 900)).box
    assert found == pytest.approx((1000, 490, 1030, 520), abs=0.5)


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (40, 9)], ids=str)
def test_tiny_pictures(size: tuple[int, int]) -> None:
    assert seen_box(squash(64, 64), size).box == pytest.approx((0, 0, *size), abs=0.05)
    preprocess, truth = short_side_and_crop(64, 56)
    assert seen_box(preprocess, size).box == pytest.approx(truth(*size), abs=0.05)


def test_large_pictures_are_probed_smaller_when_only_the_aspect_matters() -> None:
    sides: list[int] = []
    preprocess, truth = short_side_and_crop(64, 56)

    def watched(image: Image.Image) -> Tensor:
        sides.append(max(image.size))
        return preprocess(image)

    found = seen_box(watched, (6000, 4000))
    assert max(sides) <= 2048
    assert_close(found.box, truth(6000, 4000), (56, 56))


def test_large_pictures_are_probed_as_they_are_when_their_size_matters() -> None:
    found = seen_box(lambda image: tensor(image.crop((2900, 100, 3012, 212))), (3100, 500)).box
    assert found == pytest.approx((2900, 100, 3012, 212), abs=0.5)


def _standardised(values: Tensor) -> Tensor:
    return (values - values.mean()) / (values.std() + 1e-6)


def _rotated(image: Image.Image) -> Tensor:
    return tensor(image.rotate(10).resize((96, 96)))


def _two_crops(image: Image.Image) -> Tensor:
    small = image.resize((128, 128))
    return torch.cat([tensor(small.crop((0, 0, 96, 96))), tensor(small.crop((32, 0, 128, 96)))])


def _bulged(image: Image.Image) -> Tensor:
    columns = (torch.linspace(0, 1, 96) ** 1.5 * 95).long()
    return tensor(image.resize((96, 96)))[:, :, columns]


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "both ways": (squash(96, 96, of=lambda x: torch.cat([x, x.flip(2)])), "crops"),
    "transposed": (squash(96, 96, of=lambda x: x.transpose(1, 2)), "rotated"),
    "rotated": (_rotated, "rotated"),
    "bulged": (_bulged, "warped"),
    "two crops": (_two_crops, "crops"),
    "standardised": (squash(96, 96, of=_standardised), "normalise each picture"),
    "min to max": (squash(96, 96, of=lambda x: (x - x.min()) / (x.max() - x.min())), "normalise each picture"),
    "stretched": (lambda image: squash(96, 96)(ImageOps.autocontrast(image)), "normalise each picture"),
    "equalised": (lambda image: squash(96, 96)(ImageOps.equalize(image)), "normalise each picture"),
    "threshold": (squash(96, 96, of=lambda x: (x > 128).float()), "brightness"),
    "gamma": (squash(96, 96, of=lambda x: (x / 255) ** 2.2), "linearly"),
    "noise": (squash(96, 96, of=lambda x: x + torch.rand_like(x)), "random augmentation"),
    "constant": (lambda image: torch.zeros(3, 96, 96), "brightness"),
    "not finite": (squash(96, 96, of=lambda x: x * float("nan")), "brightness"),
    "no picture": (lambda image: torch.zeros(10), "shape"),
    "failing": (lambda image: 1 / 0, "division by zero"),
    "few values": (squash(3, 3), "only 3"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_box_is_refused_with_its_reason(name: str) -> None:
    preprocess, reason = REFUSED[name]
    found = seen_box(preprocess, (300, 200))
    assert found.box is None
    assert reason in found.reason


@pytest.mark.parametrize("mirrored", [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("name", ["squash", "crop", "large"])
def test_a_mirrored_picture_is_found_with_its_box(name: str, mirrored: tuple[bool, bool]) -> None:
    size = (3000, 1500) if name == "large" else (300, 200)
    box = (40, 20, 240, 180) if name == "crop" else (0, 0, *size)
    axes = [axis for axis, turned in zip((2, 1), mirrored, strict=True) if turned]
    found = seen_box(lambda image: tensor(image.crop(box).resize((96, 80))).flip(axes), size)
    assert found.mirrored == mirrored
    assert_close(found.box, box, (96, 80))
    there = np.zeros((80, 96))
    there[5, 7] = 1  # up and left in what the network sees
    row, column = np.argwhere(found.upright(there))[0]
    assert (row, column) == (74 if mirrored[1] else 5, 88 if mirrored[0] else 7)
    np.testing.assert_array_equal(found.upright(torch.from_numpy(there)), found.upright(there))
    assert ("left to right" in found.mirrored_words()) == (mirrored == (True, False))


def test_random_flip_is_refused() -> None:
    generator = torch.Generator().manual_seed(0)

    def preprocess(image: Image.Image) -> Tensor:
        values = squash(96, 96)(image)
        return values.flip(2) if torch.rand((), generator=generator) < 0.5 else values

    assert "random augmentation" in seen_box(preprocess, (300, 200)).reason


def test_sizes_are_remembered() -> None:
    calls = 0

    def preprocess(image: Image.Image) -> Tensor:
        nonlocal calls
        calls += 1
        return squash(32, 32)(image)

    geometry = Geometry(preprocess)
    first = geometry.seen((100, 80))
    once = calls
    assert geometry.seen((100, 80)) is first
    assert calls == once
    assert geometry.seen((80, 100)).box == (0, 0, 80, 100)
    assert once < calls <= 2 * once <= 40


def test_a_picture_without_area_is_refused() -> None:
    assert "no area" in seen_box(tensor, (0, 10)).reason


def test_geometry_can_be_pickled() -> None:
    copy = pickle.loads(pickle.dumps(Geometry(tensor)))
    assert copy.seen((50, 40)).box == (0, 0, 50, 40)


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed")
@pytest.mark.parametrize("size", [(500, 375), (375, 500), (1200, 300)], ids=str)
def test_torchvision_classification_transform(size: tuple[int, int]) -> None:
    from squeezecam.models.torchvision_guard import require

    transform = require("torchvision.transforms._presets", "vision").ImageClassification(crop_size=224, resize_size=232)
    _, truth = short_side_and_crop(232, 224)
    assert_close(seen_box(transform, size).box, truth(*size), (224, 224))
