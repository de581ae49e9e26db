"""From a data set in its official layout to trained models, tables and pictures."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import miniatures
from squeezecam.adapter import read
from squeezecam.cli import main
from squeezecam.data.face_regions import PLACES, REGIONS, region_box, region_mask
from squeezecam.data.sets import open_set
from squeezecam.errors import InputError, ModelError
from squeezecam.evaluation.labelled import LabelledSource
from squeezecam.evaluation.truth import mask_in_frame
from squeezecam.models.loaded import LoadedModel
from squeezecam.models.resolve import load_model
from squeezecam.recipes.models import with_classes
from squeezecam.recipes.pictures import Pictures
from squeezecam.recipes.scores import average_precision, correct, majority, per_class

FACTORIES = """
import numpy as np
import torch
from torch import nn

class Tiny(nn.Module):
    def __init__(self, classes):
        super().__init__()
        torch.manual_seed(1)
        def conv(i, o):
            return nn.Sequential(nn.Conv2d(i, o, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
        self.features = nn.Sequential(conv(3, 32), nn.AvgPool2d(2), conv(32, 48))
        self.fc = nn.Linear(48, classes)
    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3)))

class Colours(nn.Module):
    '''Sees red, green and blue, one channel each, and sixteen channels of gray; a class is a colour.'''
    def __init__(self, classes, places):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 19, 1), nn.ReLU(), nn.AvgPool2d(4))
        self.fc = nn.Linear(19, classes)
        with torch.no_grad():
            self.features[0].weight.fill_(.1)
            self.features[0].bias.fill_(0)
            self.features[0].weight[:3] = (2 * torch.eye(3) - 1)[:, :, None, None]
            self.features[0].bias[:3] = -.1
            self.fc.weight.zero_()
            self.fc.bias.fill_(-.3)
            for colour, place in enumerate(places):
                self.fc.weight[place, colour] = 20
    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3)))

def face(picture):
    a = np.asarray(picture.convert("RGB").resize((44, 54), 2), np.float32) / 255
    return torch.from_numpy(a).permute(2, 0, 1) - .5

def middle(picture):
    '''The middle square, as many networks see a picture.'''
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.convert("RGB").crop((left, top, left + side, top + side)).resize((48, 48), 2)
    return torch.from_numpy(np.asarray(square, np.float32) / 255).permute(2, 0, 1)

def whole(picture):
    a = np.asarray(picture.convert("RGB").resize((64, 48), 2), np.float32) / 255
    return torch.from_numpy(a).permute(2, 0, 1)

class Likely(Tiny):
    def forward(self, x):
        return super().forward(x).sigmoid()

def tiny(): return Tiny(5), face
def likely(): return Likely(5), face
def small(): return Tiny(3), whole
def two(): return Colours(2, (0, 1)), whole
def three(): return Colours(3, (0, 1, 2)), whole
def twenty(): return Colours(20, (7, 11)), whole
"""
Run = Callable[..., tuple[int, str, str]]
FACE = np.array([[69, 111], [108, 111], [88, 135], [72, 152], [106, 152]], float)


@pytest.fixture(scope="module")
def factories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("factories") / "nets.py"
    path.write_text(FACTORIES)
    return path


@pytest.fixture(scope="module")
def nets(factories: Path) -> Any:
    from squeezecam.models.factory import load_file

    return load_file(factories)


@pytest.fixture
def squeezecam(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["squeezecam", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


# --- parts of a face --------------------------------------------------------------------------------------


def test_every_region_is_where_its_name_says() -> None:
    masks = {name: region_mask(FACE, name, 218, 178) for name in REGIONS}

    def has(name: str, x: float, y: float) -> bool:
        return bool(masks[name][int(y), int(x)])

    for x, y in FACE[:2]:
        assert has("eyes", x, y)
        assert not has("mouth", x, y)
    assert has("nose", *FACE[2])
    for x, y in FACE[3:]:
        assert has("mouth", x, y)
        assert has("lower face", x, y)
        assert not has("eyes", x, y)
    assert has("forehead", 88, 80)
    assert not has("forehead", 88, 115)
    assert has("above the eyes", 5, 5)
    assert has("below the chin", 88, 210)
    assert not has("below the chin", 88, 160)
    assert set(PLACES.values()) <= set(REGIONS)
    assert set(PLACES) <= set(miniatures.ATTRIBUTES)


@pytest.mark.parametrize("degrees", [30, -50])
def test_a_region_turns_with_the_face(degrees: float) -> None:
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.array([89.0, 125.0])
    turned = (FACE - centre) @ turn.T + centre
    upright, tilted = (np.argwhere(region_mask(points, "mouth", 250, 250))[:, ::-1] + 0.5 for points in (FACE, turned))
    assert abs(len(upright) - len(tilted)) < 0.02 * len(upright)
    assert np.abs((upright.mean(0) - centre) @ turn.T + centre - tilted.mean(0)).max() < 0.5
    x0, _, _, y1 = region_box(turned, "mouth")
    assert x0 <= tilted[:, 0].min() < x0 + 1.5
    assert y1 - 1.5 < tilted[:, 1].max() <= y1


def test_landmarks_that_make_no_face_are_refused() -> None:
    with pytest.raises(InputError, match="mouth above the eyes"):
        region_mask(FACE[[3, 4, 2, 0, 1]], "eyes", 10, 10)
    with pytest.raises(InputError, match="same point"):
        region_mask(FACE[[0, 0, 2, 3, 4]], "eyes", 10, 10)
    with pytest.raises(InputError, match="no region 'ear'"):
        region_box(FACE, "ear")
    with pytest.raises(InputError, match="shape"):
        region_box(FACE[:3], "eyes")


def test_the_marked_faces_of_the_benchmark_are_faces() -> None:
    rows = (Path(__file__).parents[1] / "benchmarks/faces_landmarks.csv").read_text().splitlines()[1:]
    assert len(rows) > 700
    for row in rows[::7]:
        name, index, *values = row.split(",")
        side = {"smiles": 64, "utkface400": 112}[name]
        points = np.array(values, float).reshape(5, 2)
        assert int(index) % 2 == 1  # even ones are for fitting
        assert points[0, 0] < points[2, 0] < points[1, 0] or abs(points[1, 0] - points[0, 0]) < 0.5 * side
        assert 0.03 < region_mask(points, "mouth", side, side).mean() < 0.5


# --- a set as something to measure on ---------------------------------------------------------------------


def test_a_mask_in_the_networks_frame() -> None:
    mask = torch.zeros(4, 6)
    mask[1:3, 2:4] = 1
    assert torch.equal(mask_in_frame(mask, (0, 0, 6, 4), 6, 4), mask != 0)
    twice = mask_in_frame(mask, (2, 1, 4, 3), 4, 4)  # exactly the object fills the frame
    assert twice.all()
    padded = mask_in_frame(mask, (-2, 1, 4, 3), 3, 1)
    assert padded.tolist() == [[False, False, True]]


@pytest.mark.parametrize("where", ["masks", "boxes"])
def test_truth_lies_on_what_the_network_sees_of_the_class(tmp_path: Path, nets: Any, where: Any) -> None:
    """The network sees the middle square: in it, masks and boxes of cats are on red, those of dogs on green."""
    data = open_set(f"voc@segmentation/val:{miniatures.voc(tmp_path)}")
    source = LabelledSource(data, nets.middle, where=where)
    assert len(source.items) == int(data.targets().sum())
    cats = 0
    for i in range(len(source.items)):
        item = source.load(i)
        red, green = item.picture[0] > 0.7, item.picture[1] > 0.7
        if where == "masks":
            assert item.mask is not None
            truth = item.mask
        else:
            assert item.boxes is not None
            truth = torch.zeros(48, 48, dtype=torch.bool)
            for x0, y0, x1, y1 in item.boxes.round().int().tolist():
                truth[y0:y1, x0:x1] = True
        own, other = (red, green) if item.target == 7 else (green, red)
        cats += item.target == 7
        assert (own & truth).sum() > (0.75 if where == "masks" else 0.97) * own.sum() > 20  # masks leave the rim out
        assert (own & truth).sum() > (0.97 if where == "masks" else 0.6) * truth.sum()
        assert (other & truth).sum() < 0.03 * own.sum()
    assert 0 < cats < len(source.items)


def test_items_per_class_are_drawn_alike_whatever_else_is_asked_for(tmp_path: Path, nets: Any) -> None:
    data = open_set(f"celeba:{miniatures.celeba(tmp_path, 30, split=(0, 0))}")
    everything = LabelledSource(data, nets.face, per_class=3, seed=4)
    label = data.classes.index("Smiling")
    alone = LabelledSource(data, nets.face, per_class=3, seed=4, classes=[label])
    assert len(alone.items) == 3
    assert alone.items == [item for item in everything.items if item[1] == label]
    assert {data.classes[k] for _, k in everything.items if k is not None} == set(
        PLACES
    )  # Young and Male have no place
    assert LabelledSource(data, nets.face, per_class=3, seed=5, classes=[label]).items != alone.items


def test_predicted_classes_need_objects_not_regions(tmp_path: Path, nets: Any) -> None:
    faces = open_set(f"celeba:{miniatures.celeba(tmp_path / 'a', 4, split=(0, 0))}")
    source = LabelledSource(faces, nets.face, target="predicted")
    assert not source.truth
    assert source.load(0).boxes is None
    birds = LabelledSource(
        open_set(f"cub:{miniatures.cub(tmp_path / 'b')}"), nets.whole, target="predicted", where="boxes"
    )
    assert birds.truth
    assert not birds.targets
    found = birds.load(0).boxes
    assert found is not None
    assert found.shape == (1, 4)


# --- scores -----------------------------------------------------------------------------------------------


def test_average_precision_is_scikit_learns_also_with_ties() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(0)
    for levels in (3, 1000):
        scores = torch.randint(levels, (60,), generator=generator).double()
        truth = torch.rand(60, generator=generator) < 0.3
        expected = metrics.average_precision_score(truth.numpy(), scores.numpy())
        assert average_precision(scores, truth).item() == pytest.approx(expected, abs=1e-12)
    assert average_precision(torch.tensor([3.0, 2, 1]), torch.tensor([0, 1, 1])).item() == pytest.approx(
        (1 / 2 + 2 / 3) / 2
    )
    assert average_precision(scores, torch.zeros(60)).isnan()


def test_accuracies_of_classes_and_of_attributes() -> None:
    outputs = torch.tensor([[2.0, 1, 0], [0, 1, 2], [0, 3, 1], [5, 0, 0]])
    targets = torch.tensor([0, 2, 0, 0])
    assert correct(outputs, targets).tolist() == [1, 1, 0, 1]
    one = per_class(outputs, targets)
    assert one[[0, 2]].tolist() == pytest.approx([2 / 3, 1])
    assert one[1].isnan()
    assert majority(targets, 3).tolist() == [0.75, 0, 0.25]
    several, truth = (
        torch.tensor([[1.0, -1], [1, 1], [-1, 1], [-2, 3]]),
        torch.tensor([[1.0, 0], [0, 1], [0, 1], [0, 1]]),
    )
    assert correct(several, truth).tolist() == [1, 0.5, 1, 1]
    assert per_class(several, truth).tolist() == [0.75, 1]
    assert majority(truth, 2).tolist() == [0.75, 0.75]


# --- models and pictures ----------------------------------------------------------------------------------


def test_a_model_gets_a_classification_layer_of_its_own(nets: Any) -> None:
    model, preprocess = nets.small()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    loaded = LoadedModel(model.eval(), preprocess, None, "small", (3, 48, 64), "")
    changed = with_classes(loaded, ("a", "b", "c", "d"), seed=5)
    x = torch.rand(2, 3, 48, 64)
    assert changed.model(x).shape == (2, 4)
    assert changed.labels == ("a", "b", "c", "d")
    for name, tensor in changed.model.state_dict().items():
        assert name.startswith("fc") or torch.equal(tensor, before[name])
    again = with_classes(
        LoadedModel(nets.small()[0].eval(), preprocess, None, "", (), ""), ("a", "b", "c", "d"), seed=5
    )
    assert torch.equal(again.model.fc.weight, changed.model.fc.weight)
    layer = changed.model.fc
    assert with_classes(changed, ("e", "f", "g", "h")).model.fc is layer

    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.fc = torch.nn.Conv2d(3, 8, 3, 2), torch.nn.Linear(8, 6)

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.fc(self.features(x).relu().mean((2, 3))).chunk(2, 1)
            return a * b.exp()

    with pytest.raises(ModelError, match="no known form"):
        with_classes(LoadedModel(Odd().eval(), preprocess, None, "odd", (), ""), ("a", "b"))


def test_training_pictures_are_mirrored_half_of_the_time_with_their_own_targets(tmp_path: Path, nets: Any) -> None:
    data = open_set(f"cub@train:{miniatures.cub(tmp_path)}")
    plain, mirrored = (Pictures(data, nets.whole, indices=[1, 3, 4], flip=flip) for flip in (False, True))
    torch.manual_seed(0)
    flips = 0
    for _ in range(20):
        for one, (picture, target) in zip(plain, (mirrored[i] for i in range(3)), strict=False):
            assert target == one[1]
            turned = torch.equal(picture, one[0].flip(-1))
            assert turned or torch.equal(picture, one[0])
            flips += turned
    assert 15 < flips < 45


# --- whole commands ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "make", "net", "split"),
    [
        ("imagenet", miniatures.imagenet, "three", "val"),
        ("cub", miniatures.cub, "two", "test"),
        ("pet", miniatures.pet, "two", "test"),
        ("voc", miniatures.voc, "twenty", "val"),
    ],
)
def test_fit_explain_and_evaluate_on_a_set_by_name(
    tmp_path: Path, factories: Path, squeezecam: Any, name: str, make: Any, net: str, split: str
) -> None:
    root, model = make(tmp_path / "set"), f"{factories}:{net}"
    block = tmp_path / "block.squeeze.safetensors"
    code, _, err = squeezecam("fit", "--model", model, "--images", f"{name}:{root}", "--out", block)
    assert code == 0, err
    words = ["--target", "label", "--methods", "class", "--metrics", "pointing,energy", "--out", tmp_path / "e"]
    code, _, err = squeezecam("evaluate", "--model", model, "--adapter", block, "--data", f"{name}:{root}", *words)
    assert code == 0, err
    found = json.loads((tmp_path / "e/evaluation.json").read_text())
    data = open_set(f"{name}:{root}")
    assert found["images"] == sum(len(record.labels) for record in data.records)
    table = found["tables"]["all"]
    assert table["class"]["pointing_game"]["mean"] == 1  # the network sees nothing but the colour of the class
    assert table["random-map"]["pointing_game"]["mean"] < 0.7
    energy = {method: cells["energy_pointing_game"]["mean"] for method, cells in table.items()}
    assert energy["class"] > 0.6 > energy["centred-gaussian"]

    code, _, err = squeezecam("explain", f"{name}@{split}:{root}", "--model", model, "--adapter", block, "--method",
                              "class", "--out", tmp_path / "x")  # fmt: skip
    assert code == 0, err
    record = data[0]
    rows = json.loads((tmp_path / "x/results.json").read_text())["results"]
    assert [Path(row["file"]).name for row in rows] == [one.path.name for one in data.records]
    with Image.open(record.path) as opened, Image.open(tmp_path / "x" / rows[0]["files"]["overlay"]) as drawn:
        assert drawn.size == opened.size
        width, height = opened.size
    with np.load(tmp_path / "x" / rows[0]["files"]["maps"]) as maps:
        heat = maps["heatmap"].reshape(48, 64)
    y, x = (np.array(np.unravel_index(heat.argmax(), heat.shape)) + 0.5) / (48, 64) * (height, width)
    if record.mask is not None:
        assert record.mask.read()[int(y), int(x)]
    else:
        assert any(x0 <= x <= x1 and y0 <= y <= y1 for x0, y0, x1, y1 in record.boxes_of())


def test_celeba_from_the_lists_to_the_picture(tmp_path: Path, factories: Path, squeezecam: Any) -> None:
    """Drawn attributes are learned, with the block as well as without, and their maps land where they were drawn."""
    root, out = miniatures.celeba(tmp_path / "set", 150, split=(110, 110)), tmp_path / "out"
    words = [
        "--classes",
        "eyeglasses,smiling,wearing_hat",
        "--epochs",
        5,
        "--batch-size",
        10,
        "--rate",
        0.03,
        "--maps",
        12,
    ]
    code, _, err = squeezecam("train", "--data", f"celeba:{root}", "--model", f"{factories}:tiny", *words, "--methods",
                              "class,published", "--out", out)  # fmt: skip
    assert code == 0, err
    found = json.loads((out / "report.json").read_text())
    for row in found["classes"]:
        for how in ("with", "without"):
            assert row[f"AP {how}"] > 0.9, row
    assert set(found["overall"]) == {"with", "without"}
    assert abs(found["difference"]["mean"]) < 0.1
    tables = found["maps"]["tables"]
    controls = ("all-channel-mean", "random-channels", "random-map", "centred-gaussian")
    for attribute in ("Eyeglasses", "Smiling", "Wearing_Hat"):
        cells = {method: {m: v["mean"] for m, v in found.items()} for method, found in tables[attribute].items()}
        assert cells["class"]["pointing_game"] >= 0.9, (attribute, cells["class"])
        for control in controls:
            assert cells["class"]["energy_pointing_game"] > cells[control]["energy_pointing_game"], (attribute, control)
    with Image.open(out / "maps.png") as figure:
        assert figure.width > 600
    assert (out / "labels.txt").read_text().split() == ["Eyeglasses", "Smiling", "Wearing_Hat"]
    assert read(out / "model.squeeze.safetensors")[0]["labels"] == ["output"]  # so captions are no softmax over them


def test_a_model_that_ends_with_a_sigmoid_is_trained_as_one_that_does_not(
    tmp_path: Path, factories: Path, squeezecam: Any
) -> None:
    root, overall = miniatures.celeba(tmp_path / "set", 140, split=(110, 110)), {}
    words = ["--classes", "eyeglasses,wearing_hat", "--epochs", 5, "--batch-size", 10, "--rate", 0.03, "--maps", 0]
    for name in ("tiny", "likely"):
        out = tmp_path / name
        code, _, err = squeezecam("train", "--data", f"celeba:{root}", "--model", f"{factories}:{name}", *words,
                                  "--no-baseline", "--out", out)  # fmt: skip
        assert code == 0, err
        overall[name] = json.loads((out / "report.json").read_text())["overall"]["with"]
    assert overall["tiny"] > 0.8
    assert overall["likely"] == pytest.approx(overall["tiny"], abs=0.03)


def test_the_commands_that_measure_are_told_of_labels(tmp_path: Path, factories: Path, squeezecam: Any) -> None:
    root = miniatures.celeba(tmp_path / "set", 4, split=(0, 0)) / "img_align_celeba"
    words = ["--model", f"{factories}:three", "--methods", "class"]
    found = {}
    for task in ("classification", "multi-label"):
        out = tmp_path / task
        told = [*words, "--task", task, "--out", out]
        code, _, err = squeezecam("evaluate", "--data", root, *told)
        assert code == 0, err
        code, _, err = squeezecam("compare", root, *told)
        assert code == 0, err
        record = json.loads((out / "evaluation.json").read_text())
        shown = json.loads((out / "comparison.json").read_text())["pictures"]
        found[task] = record["settings"]["scores"], [one["confidence"] for one in shown]
    assert [kind for kind, _ in found.values()] == ["logits", "sigmoid"]
    assert all(a != b for a, b in zip(*(values for _, values in found.values()), strict=True))


def test_train_on_pictures_of_one_class_each(tmp_path: Path, factories: Path, squeezecam: Any) -> None:
    root, out = miniatures.imagenet(tmp_path / "set", 30), tmp_path / "out"
    words = ["train", "--data", f"imagenet:{root}", "--model", f"{factories}:small", "--epochs", 6, "--batch-size", 6,
             "--rate", 0.03, "--maps", 4, "--methods", "class", "--no-baseline", "--out", out]  # fmt: skip
    code, shown, err = squeezecam(*words)
    assert code == 0, err
    found = json.loads((out / "report.json").read_text())
    assert found["overall"]["with"] > 0.9
    assert "without" not in found["overall"]
    assert "goldfish" in shown
    code, _, err = squeezecam("explain", root / "ILSVRC/Data/CLS-LOC/val/n01443537", "--model", f"{factories}:small",
                              "--weights", out / "model.safetensors", "--adapter", out / "model.squeeze.safetensors",
                              "--labels", out / "labels.txt", "--strict", "--out", tmp_path / "x")  # fmt: skip
    assert code == 0, err
    rows = json.loads((tmp_path / "x/results.json").read_text())["results"]
    assert [row["label"] for row in rows].count(miniatures.WORDS[1]) >= 9


def test_train_on_a_folder_of_ones_own_classes(tmp_path: Path, factories: Path, squeezecam: Any) -> None:
    rng = np.random.default_rng(0)
    for name, channel in (("red", 0), ("blue", 2)):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(0, 60, (16, 16, 3))
            pixels[..., channel] += 150
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "mine" / name / f"{number}.png")
    words = ["train", "--data", tmp_path / "mine", "--model", f"{factories}:small", "--epochs", 6, "--batch-size", 7,
             "--rate", 0.03, "--out", tmp_path / "out"]  # fmt: skip
    code, shown, err = squeezecam(*words)
    assert code == 0, err
    assert "no boxes or masks: where the maps land is not measured" in err
    assert "mine: 28 pictures to train on, 12 to test on" in err
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (found["overall"]["with"], found["maps"]) == (1.0, None)
    assert (tmp_path / "out" / "labels.txt").read_text().split() == ["blue", "red"]
    assert "labels.txt" in shown


def test_pictures_that_cannot_be_read_are_told_before_the_training_and_left_out(
    tmp_path: Path, factories: Path, squeezecam: Any
) -> None:
    for name, colour in (("red", (220, 40, 30)), ("blue", (30, 40, 220))):
        for part, count in (("train", 6), ("val", 3)):
            folder = tmp_path / "mine" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (32, 32), (*colour[:2], colour[2] + i)).save(folder / f"{i}.png")
    for broken in ("train/red/2.png", "val/blue/0.png"):
        whole = (tmp_path / "mine" / broken).read_bytes()
        (tmp_path / "mine" / broken).write_bytes(whole[: len(whole) // 2])
    words = ["train", "--data", tmp_path / "mine", "--model", f"{factories}:small", "--epochs", 1, "--maps", 3]
    code, _, err = squeezecam(*words, "--out", tmp_path / "out")
    assert code == 0, err
    said, _, trained = err.partition("training with the block")
    assert trained
    assert "1 of 12 pictures of 'train' left out" in said
    assert "train/red/2.png" in said
    assert "1 of 6 pictures of 'val' left out" in said
    assert "11 pictures to train on, 5 to test on" in said
    for path in (tmp_path / "mine" / "train").glob("*/*.png"):
        path.write_bytes(b"gone")
    code, _, err = squeezecam(*words, "--out", tmp_path / "none")
    assert code != 0
    assert "0 of 12 pictures of" in err


def test_what_was_trained_goes_back_into_the_model_of_a_factory_of_other_classes(
    tmp_path: Path, factories: Path, squeezecam: Any
) -> None:
    for name, bright in (("dark", 20), ("light", 220)):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (16, 16), (bright + number,) * 3).save(tmp_path / "mine" / name / f"{number}.png")
    spec, out = f"{factories}:twenty", tmp_path / "out"
    code, _, err = squeezecam("train", "--data", tmp_path / "mine", "--model", spec, "--epochs", 1, "--out", out)
    assert code == 0, err
    code, _, err = squeezecam(
        "explain", tmp_path / "mine" / "dark" / "0.png", "--model", spec, "--weights", out / "model.safetensors",
        "--adapter", out / "model.squeeze.safetensors", "--labels", out / "labels.txt", "--out", tmp_path / "maps",
    )  # fmt: skip
    assert code == 0, err
    loaded = load_model(spec, weights=out / "model.safetensors")
    assert loaded.model(torch.rand(1, *loaded.input_size)).shape == (1, 2)
    assert loaded.labels is None
    assert "2 classes" in loaded.source


def test_a_single_attribute_is_trained_and_explained_as_a_decision(
    tmp_path: Path, factories: Path, squeezecam: Any
) -> None:
    root = miniatures.celeba(tmp_path / "set", 24, split=(16, 16))
    spec, out = f"{factories}:twenty", tmp_path / "out"
    code, _, err = squeezecam(
        "train", "--data", f"celeba:{root}", "--classes", "Smiling", "--model", spec, "--epochs", 1, "--maps", 2,
        "--methods", "class", "--no-baseline", "--out", out,
    )  # fmt: skip
    assert code == 0, err
    assert (out / "labels.txt").read_text().splitlines() == ["not Smiling", "Smiling"]
    code, _, err = squeezecam(
        "explain", root / "img_align_celeba" / "000001.jpg", "--model", spec, "--weights", out / "model.safetensors",
        "--adapter", out / "model.squeeze.safetensors", "--labels", out / "labels.txt", "--out", tmp_path / "maps",
    )  # fmt: skip
    assert code == 0, err
    (found,) = json.loads((tmp_path / "maps" / "results.json").read_text())["results"]
    assert found["label"] in ("not Smiling", "Smiling")
    assert found["probability"] >= 0.5


def test_a_training_picture_left_over_alone_is_no_batch(tmp_path: Path, squeezecam: Any) -> None:
    for name in "ab":
        (tmp_path / "mine" / name).mkdir(parents=True)
        for number in range(7):  # of which 5 are trained on
            Image.new("RGB", (16, 16), (20 * number,) * 3).save(tmp_path / "mine" / name / f"{number}.png")
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),\n"
        "                         nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))\n"
    )
    words = ["train", "--data", tmp_path / "mine", "--model", f"{tmp_path / 'net.py'}:net", "--out", tmp_path / "out"]
    code, _, err = squeezecam(*words, "--batch-size", 9, "--epochs", 1)
    assert code == 0, err


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("nowhere", "--data is 'nowhere', which is no folder; expected a data set, such as cub:FOLDER"),
        ("cub", "or a folder with one sub-folder per class"),
        ("cub@train:here", "both parts are used: leave the part out, cub:here"),
        ("MINE", "the output folder .* holds a picture that is to be trained or tested on"),
    ],
)
def test_data_that_cannot_be_trained_on_are_refused_before_a_model_is_loaded(
    tmp_path: Path, squeezecam: Any, data: str, said: str
) -> None:
    for name in "ab":
        (tmp_path / "mine" / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (8, 8)).save(tmp_path / "mine" / name / f"{number}.png")
    given = str(tmp_path / "mine") if data == "MINE" else data
    code, _, err = squeezecam("train", "--data", given, "--model", "none", "--out", tmp_path / "mine")
    assert code == 1
    assert re.search(said, err)
    assert sorted(path.name for path in (tmp_path / "mine").rglob("*.*")) == ["0.png", "0.png", "1.png", "1.png"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--target", "label"], "the model has 20 classes and 'cub' has 2"),
        (["--target", "bird"], "--target is 'bird'; expected a class index"),
        (["--target", "7"], "class 7 of 'cub', which has 2 classes"),
        (["--boxes", "b.csv"], "brings its own boxes or masks"),
        (["--subset", "hard"], "brings its own boxes or masks"),
    ],
)
def test_what_does_not_fit_a_set_is_said(
    tmp_path: Path, factories: Path, squeezecam: Any, words: list[str], said: str
) -> None:
    (tmp_path / "b.csv").write_text("file,x0,y0,x1,y1\na.jpg,0,0,1,1\n")
    words = [str(tmp_path / word) if word.endswith("csv") else word for word in words]
    spec = f"cub:{miniatures.cub(tmp_path, 6)}"
    code, _, err = squeezecam(
        "evaluate", "--model", f"{factories}:twenty", "--data", spec, *words, "--out", tmp_path / "e"
    )
    assert code == 1
    assert said in err


def test_a_multi_label_set_is_measured_and_fitted_label_by_label(
    tmp_path: Path, factories: Path, squeezecam: Any
) -> None:
    root = miniatures.celeba(tmp_path / "set", 30, split=(20, 20))
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        torch.manual_seed(0)\n"
        "        self.f = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.ReLU())\n        self.fc = nn.Linear(8, 40)\n"
        "    def forward(self, x):\n        return self.fc(self.f(x).mean((2, 3)))\n"
        "def net():\n    return Net()\n"
    )
    words = ["--model", f"{tmp_path / 'net.py'}:net"]
    code, shown, err = squeezecam("evaluate", "--data", f"celeba:{root}", *words, "--methods", "class", "--sample", 3,
                                  "--metrics", "average_drop", "--out", tmp_path / "out")  # fmt: skip
    assert code == 0, err
    assert "independent labels" in err
    assert "confidence: sigmoid of each label by itself" in shown
    words += ["--task", "classification"]
    code, shown, err = squeezecam("evaluate", "--data", f"celeba:{root}", *words, "--methods", "class", "--sample", 3,
                                  "--metrics", "average_drop", "--out", tmp_path / "o2")  # fmt: skip
    assert "confidence: softmax over the classes" in shown
    adapter = tmp_path / "a.squeeze.safetensors"
    code, shown, err = squeezecam("fit", "--images", f"celeba:{root}", *words[:2], "--out", adapter)
    assert code == 0, err
    assert "multi-label" in shown
    assert read(adapter)[0]["labels"] == ["output"]
