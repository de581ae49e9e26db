"""``squeezecam parity`` as a user meets it, and how labelled pictures become targets."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from squeezecam.cli import main
from squeezecam.commands.parity import Classes, choose_classes, read_labelled
from squeezecam.errors import InputError
from squeezecam.models.loaded import LoadedModel
from squeezecam.parity.pictures import PictureSamples

FACTORY = """
import torch
import numpy as np
from torch import nn

class Net(nn.Module):
    def __init__(self, outputs=4):
        super().__init__()
        torch.manual_seed(3)
        self.features = nn.Sequential(nn.Conv2d(3, 16, 5, 4), nn.ReLU())
        self.fc = nn.Linear(16, outputs)
    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3)))

def pixels(picture):
    return torch.from_numpy(np.array(picture.convert("RGB").resize((16, 16)))).permute(2, 0, 1).float() / 255

def net(): return Net(), pixels
"""
PIXELS = 100_000_000


def picture(bright: int, seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray((rng.integers(0, 60, (16, 16, 3)) + bright).astype(np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, dark and light, 15 pictures each."""
    for name, bright in (("dark", 20), ("light", 180)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(15):
            picture(bright, number).save(tmp_path / "data" / name / f"{number}.png")
    (tmp_path / "nets.py").write_text(FACTORY)
    return tmp_path


def loaded(labels: tuple[str, ...] | None = None) -> LoadedModel:
    def pixels(picture: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255

    return LoadedModel(torch.nn.Identity(), pixels, labels, "none", (3, 16, 16), "")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["squeezecam", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_a_folder_of_classes_becomes_tables_a_picture_and_a_verdict(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "data" / "dark" / "broken.png").write_bytes(b"no picture")
    arguments = (
        "parity", "--model", f"{folder}/nets.py:net", "--data", folder / "data", "--out", folder / "out",
        "--seeds", 2, "--epochs", 3, "--tune-epochs", 1, "--batch-size", 8, "--augment", "flip",
    )  # fmt: skip
    assert run(monkeypatch, *arguments) == 1  # for the broken picture
    said = capsys.readouterr()
    assert "broken.png" in said.err
    assert "without, other seed" in said.out
    assert "seeds are too few" in said.out or "not worse" in said.out
    found = json.loads((folder / "out" / "parity.json").read_text())
    assert {arm["start"] for arm in found["arms"]} == {"scratch", "fine-tune"}
    assert (found["trained on"], found["tested on"]) == (22, 8)
    assert found["identical at identity"] == {"scratch": True, "fine-tune": True}
    with Image.open(folder / "out" / "parity.png") as opened:
        assert opened.width > 800
    (folder / "data" / "dark" / "broken.png").unlink()
    before = (folder / "out" / "parity.csv").read_text()
    assert run(monkeypatch, *arguments) == 0
    assert (folder / "out" / "parity.csv").read_text() == before  # nothing was trained again


def test_what_is_missing_is_one_clear_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "parity", "--model", f"{folder}/nets.py:net") == 1
    assert "--data is needed" in capsys.readouterr().err
    assert run(monkeypatch, "parity", "--data", folder / "data", "--augment", "spin", "--out", folder / "o") == 1
    assert "unknown augmentation 'spin'" in capsys.readouterr().err


UNTRAINABLE = (
    FACTORY
    + """
class Auxiliary(Net):
    def forward(self, x):
        found = super().forward(x)
        return (found, found) if self.training else found

def half(): return Net(2).half(), pixels
def frozen(): return Net(2).requires_grad_(False), pixels
def auxiliary(): return Auxiliary(2), pixels
"""
)


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("half", "has weights in float16, which are too coarse to be trained"),
        ("frozen", "wants a gradient, so that there is nothing to train"),
        ("auxiliary", "auxiliary"),
    ],
)
@pytest.mark.parametrize("command", ["parity", "train"])
def test_a_model_that_cannot_be_trained_as_it_is_gets_the_reason(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    factory: str,
    said: str,
) -> None:
    (folder / "nets.py").write_text(UNTRAINABLE)
    arguments = ("--model", f"{folder}/nets.py:{factory}", "--data", folder / "data", "--out", folder / "out")
    assert run(monkeypatch, command, *arguments, "--epochs", 1) == 1
    shown = capsys.readouterr().err
    assert said in shown
    assert "unexpected" not in shown


def test_a_folder_with_train_and_val_is_no_set_of_two_classes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for part, count in (("train", 12), ("val", 3)):
        (folder / "cut" / part).mkdir(parents=True)
        for name in ("dark", "light"):
            shutil.copytree(folder / "data" / name, folder / "cut" / part / name)
            for number in range(count, 15):
                (folder / "cut" / part / name / f"{number}.png").unlink()
    arguments = (
        "parity", "--model", f"{folder}/nets.py:net", "--data", folder / "cut", "--out", folder / "out",
        "--seeds", 2, "--epochs", 1, "--start", "scratch", "--batch-size", 8,
    )  # fmt: skip
    assert run(monkeypatch, *arguments) == 0
    assert re.search("trained on .*train, tested on .*val", capsys.readouterr().err)
    found = json.loads((folder / "out" / "parity.json").read_text())
    assert (found["trained on"], found["tested on"]) == (24, 6)


@pytest.mark.parametrize("out", ["data", "data/out"])
def test_nothing_is_written_into_the_data(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    arguments = ("parity", "--model", f"{folder}/nets.py:net", "--data", folder / "data", "--out", folder / out)
    assert run(monkeypatch, *arguments) == 1
    assert re.search("output folder .* lies in the data .*: give another --out", capsys.readouterr().err)
    assert not [path for path in (folder / "data").rglob("*") if path.is_file() and path.suffix != ".png"]
    assert not (folder / "data" / "out").exists()


def test_labels_come_from_folders_from_an_archive_or_from_a_csv(folder: Path) -> None:
    found = read_labelled(folder / "data", None, PIXELS)
    assert found.labels == ["dark"] * 15 + ["light"] * 15
    np.savez(folder / "data.npz", images=np.zeros((3, 8, 8), np.uint8), labels=np.array([2, 0, 1]))
    assert read_labelled(folder / "data.npz", None, PIXELS).labels == [2, 0, 1]
    (folder / "truth.csv").write_text("file,label\nlight/3.png,31.5\ndark/0.png,20\n")
    figures = read_labelled(folder / "data", folder / "truth.csv", PIXELS)
    assert figures.labels == [20.0, 31.5]
    assert [source.path.name for source in figures.sources] == ["0.png", "3.png"]


def test_pictures_without_a_label_are_told(folder: Path) -> None:
    picture(0, 0).save(folder / "data" / "loose.png")
    with pytest.raises(InputError, match=r"loose\.png lies in no sub-folder"):
        read_labelled(folder / "data", None, PIXELS)
    (folder / "truth.csv").write_text("file,label\nelsewhere.png,1\n")
    with pytest.raises(InputError, match="names none of the 31 pictures"):
        read_labelled(folder / "data", folder / "truth.csv", PIXELS)
    (folder / "other.csv").write_text("name,age\na,1\n")
    with pytest.raises(InputError, match="lacks the columns 'file' and 'label'; it has name, age"):
        read_labelled(folder / "data", folder / "other.csv", PIXELS)
    np.savez(folder / "bare.npz", images=np.zeros((3, 8, 8), np.uint8))
    with pytest.raises(InputError, match="no array 'labels'"):
        read_labelled(folder / "bare.npz", None, PIXELS)


def test_names_that_the_model_knows_are_its_own_classes_and_others_get_a_new_layer() -> None:
    known = choose_classes(["cat", "dog"], loaded(("dog", "bird", "cat")), None, False)
    assert known.outputs is None
    assert known.targets(["cat", "dog"], "x").tolist() == [2, 0]
    new = choose_classes(["cow", "ant", "cow"], loaded(("dog", "cat")), None, False)
    assert (new.names, new.outputs) == (("ant", "cow"), 2)
    with pytest.raises(InputError, match="'bee', which the training data lack"):
        new.targets(["bee"], "the test data")
    assert choose_classes([0, 4], loaded(), None, False).outputs == 5
    assert choose_classes([0, 4], loaded(), None, True).outputs is None
    assert choose_classes([1.5, 4.0], loaded(), None, False) == Classes((), 1, True)
    for labels, task, words in (
        (["a"], None, "one class only"), (["a", "b"], "regression", "needs numbers"), ([-1, 0], None, "count from 0"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            choose_classes(labels, loaded(), task, False)


def test_pictures_are_read_once_and_again_only_where_memory_ends(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = read_labelled(folder / "data", None, PIXELS)
    targets = torch.tensor([0] * 15 + [1] * 15)
    whole = PictureSamples(loaded(), found.sources, targets, lambda name, why: None)
    monkeypatch.setattr(sys.modules[PictureSamples.__module__], "KEPT_BYTES", 5 * 3 * 16 * 16 * 4)
    part = PictureSamples(loaded(), found.sources, targets, lambda name, why: None)
    assert (len(whole.kept), len(part.kept)) == (30, 5)
    index = torch.tensor([29, 2, 7])
    assert torch.equal(whole.inputs(index), part.inputs(index))
    assert whole.identity() == part.identity()
