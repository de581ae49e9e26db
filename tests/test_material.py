"""Trained models on real pictures, where the material lies beside the project."""

import csv
import importlib.util
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import squeezecam

pytestmark = pytest.mark.material

PLACES = {
    "mobilenet_v2": ("output", "features", 1280, (7, 7), "mean pooling, then linear 'classifier.weight'"),
    "squeezenet": ("output", "features", 512, (13, 13), "1x1 convolution 'classifier.0.weight' and ReLU"),
    "cifar_resnet20": ("output", "layer3", 64, (8, 8), "mean pooling, then linear 'linear.weight'"),
    "face_expression": ("output", "features_", 256, (7, 7), "mean pooling, then linear 'fc.weight'"),
    "age_gender": ("input", "gap", None, (7, 7), "mean pooling, then linear 'fc_gender.weight'"),
}


@pytest.fixture(scope="module")
def models(material):
    spec = importlib.util.spec_from_file_location("material_models", material / "models.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pictures(material, kind, count):
    """Real pictures of the kind that a model takes, and labels or boxes where they are known."""
    if kind in ("mobilenet_v2", "squeezenet"):
        boxes = {}
        with open(material / "imagenet" / "boxes250.csv", newline="") as file:
            for row in csv.DictReader(file):
                boxes.setdefault(row["file"], []).append([float(row[k]) for k in ("x0", "y0", "x1", "y1")])
        files = sorted((material / "imagenet" / "boxes250").iterdir())[:: 250 // count][:count]
        return [Image.open(file).convert("RGB") for file in files], [boxes[file.name] for file in files]
    name = {
        "cifar_resnet20": "cifar10/test5000.npz",
        "face_expression": "faces/smiles.npz",
        "age_gender": "faces/utkface400.npz",
    }[kind]
    archive = np.load(material / name)
    labels = next((archive[key] for key in ("labels", "gender", "smile") if key in archive), None)
    return [Image.fromarray(image).convert("RGB") for image in archive["images"][:count]], labels


def attached(models, material, kind, count=8):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model, preprocess = getattr(models, kind)()
        shown, known = pictures(material, kind, count)
        x = torch.stack([preprocess(picture) for picture in shown])
    return squeezecam.attach(model, x[:1]), model, x, known


@pytest.mark.parametrize("kind", PLACES)
def test_the_place_is_found_without_a_hint_and_real_pictures_are_explained(models, material, kind):
    squeeze, model, x, _ = attached(models, material, kind)
    (place,) = squeeze.places.values()
    when, module, channels, grid, head = PLACES[kind]
    assert (place.when, place.module, place.grid) == (when, module, grid)
    assert channels in (None, place.channels)
    assert head in repr(squeeze)
    with torch.no_grad():
        own = model(x)
    explained = squeeze.explain(x)
    assert explained.method == "class"
    assert explained.heatmap.shape == (len(x), *x.shape[2:])
    assert explained.heatmap.isfinite().all()
    assert all("not fitted" in line and "finite" not in line for line in explained.status)
    if isinstance(own, dict):
        assert all(torch.equal(explained.output[name], own[name]) for name in own)
    else:
        assert torch.equal(explained.output, own)
    peaks = {int(one.argmax()) for one in explained.heatmap}
    assert len(peaks) > 1  # the map follows the picture


@pytest.mark.parametrize("kind", ["mobilenet_v2", "squeezenet"])
def test_the_class_map_points_at_the_object(models, material, kind):
    squeeze, _, x, boxes = attached(models, material, kind, count=25)
    heatmaps, hits = squeeze.explain(x).heatmap, 0
    scale = 224 / x.shape[-1]  # boxes are in pixels of the 224 x 224 file
    for one, found in zip(heatmaps, boxes, strict=True):
        row, column = divmod(int(one.argmax()), one.shape[1])
        px, py = (column + 0.5) * scale, (row + 0.5) * scale
        hits += any(x0 <= px <= x1 and y0 <= py <= y1 for x0, y0, x1, y1 in found)
    assert hits >= 17  # a random map: 9 of 25


def test_each_of_two_heads_has_its_own_map(models, material):
    squeeze, _, x, _ = attached(models, material, "age_gender")
    gender, age = squeeze.explain(x, output="gender"), squeeze.explain(x, output="age")
    assert gender.scores.shape == (8, 2)
    assert age.scores.shape == (8,)
    assert not torch.allclose(gender.raw, age.raw)
    torch.testing.assert_close(age.raw.mean((1, 2)) + squeeze.model.fc_age.bias, age.scores, atol=1e-3, rtol=1e-4)


def test_a_sample_alone_is_the_sample_in_a_batch_on_a_trained_model(models, material):
    squeeze, _, x, _ = attached(models, material, "cifar_resnet20")
    together = squeeze.explain(x)
    for i in range(len(x)):
        alone = squeeze.explain(x[i : i + 1])
        peak = together.heatmap[i].max()
        assert (alone.heatmap[0] - together.heatmap[i]).abs().max() <= 1e-4 * peak
