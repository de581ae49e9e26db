"""A folder with one sub-folder per class, whole or divided: what is trained on, what is tested on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from squeezecam.data.folders import class_of, parts_of, read_folders
from squeezecam.data.record import DataSet
from squeezecam.errors import InputError


def pictures(root: Path, counts: dict[str, int]) -> Path:
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(root / name / f"{number}.png")
    return root


def files(data: DataSet) -> list[tuple[str, str]]:
    return [(data.classes[record.labels[0]], record.path.name) for record in data.records]


def test_three_tenths_of_each_class_are_tested_on_and_the_seed_decides_which(tmp_path: Path) -> None:
    root = pictures(tmp_path / "mine", {"zebra": 10, "ant": 20})
    training, testing = read_folders(root, seed=1)
    assert training.classes == testing.classes == ("ant", "zebra")
    assert Counter(name for name, _ in files(testing)) == {"ant": 6, "zebra": 3}
    assert Counter(name for name, _ in files(training)) == {"ant": 14, "zebra": 7}
    assert not set(files(training)) & set(files(testing))
    assert all(record.path.parent.name == data.classes[record.labels[0]] for data in (training, testing)
               for record in data.records)  # fmt: skip
    before = torch.get_rng_state()
    assert files(read_folders(root, seed=1)[1]) == files(testing)
    assert files(read_folders(root, seed=2)[1]) != files(testing)
    assert torch.equal(torch.get_rng_state(), before)
    assert (training.name, training.split, testing.split, testing.placed) == ("mine", "train", "test", frozenset())


def test_a_class_of_two_pictures_has_one_in_each_part(tmp_path: Path) -> None:
    training, testing = read_folders(pictures(tmp_path, {"a": 2, "b": 3}))
    assert Counter(name for name, _ in files(training)) == {"a": 1, "b": 2}
    assert Counter(name for name, _ in files(testing)) == {"a": 1, "b": 1}


@pytest.mark.parametrize(
    ("there", "training", "testing"),
    [
        (["train", "val"], "train", "val"),
        (["Training", "VALIDATION"], "Training", "VALIDATION"),
        (["train", "val", "test"], "train", "test"),  # results are reported on what nothing was chosen by
    ],
)
def test_a_divided_folder_is_taken_as_it_is(tmp_path: Path, there: list[str], training: str, testing: str) -> None:
    for number, part in enumerate(there):
        pictures(tmp_path / part, {"a": 3 + number, "b": 1})
    pictures(tmp_path / ".hidden", {"c": 1})
    assert parts_of(tmp_path) == (tmp_path / training, tmp_path / testing)
    found = read_folders(tmp_path)
    assert [data.split for data in found] == [training, testing]
    assert files(found[0]) == [("a", "0.png"), ("a", "1.png"), ("a", "2.png"), ("b", "0.png")]
    assert len(found[1]) == 4 + there.index(testing)
    assert all(record.path.parent.parent.name == testing for record in found[1].records)


@pytest.mark.parametrize("there", [["train", "bus"], ["train"], ["test", "val"], ["train", "val", "bus"]])
def test_these_names_may_be_those_of_classes(tmp_path: Path, there: list[str]) -> None:
    pictures(tmp_path, dict.fromkeys(there, 2))
    assert parts_of(tmp_path) is None


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"a": 4}, "one class only, 'a'"),
        ({"a": 4, "b": 1}, "class 'b' has one picture"),
        ({".": 1, "a": 2, "b": 2}, "0.png lies in no sub-folder of"),
        (
            {"train/a": 2, "train/b": 2, "val/a": 1, "val/c": 1},
            "val has a class 'c', which .*train lacks; that has a, b",
        ),
        ({"train/a": 2, "val/a": 1}, "train has one class only"),
    ],
)
def test_what_cannot_be_trained_on_is_said(tmp_path: Path, counts: dict[str, int], said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_folders(pictures(tmp_path, counts))


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no folder .*one sub-folder per class"):
        read_folders(tmp_path / "none")
    assert parts_of(tmp_path / "none") is None


def test_the_class_is_the_first_folder_below_the_root() -> None:
    assert class_of(Path("data/cat/black/1.png"), Path("data")) == "cat"
