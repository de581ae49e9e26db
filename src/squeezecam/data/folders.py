"""Pictures of one's own: a folder with one sub-folder per class, whole or already divided into two parts."""

from __future__ import annotations

from pathlib import Path

import torch

from squeezecam.data.images import find_images
from squeezecam.data.pixels import display
from squeezecam.data.record import DataSet, Record
from squeezecam.errors import InputError

TRAINING = ("train", "training")
TESTING = ("test", "val", "valid", "validation")
"""Names of the parts, the one that is preferred in front."""
SHARE = 0.3
"""Of the pictures of each class, to test on, where the folder is not divided."""


def parts_of(root: Path) -> tuple[Path, Path] | None:
    """The parts to train and to test on of a folder that is divided into ``train`` and ``test`` or ``val``.

    None where it is not, or where it has other sub-folders too, so that these names are those of classes.
    """
    if not root.is_dir():
        return None
    there = {place.name.casefold(): place for place in root.iterdir() if place.is_dir() and place.name[0] != "."}
    training = next((there[name] for name in TRAINING if name in there), None)
    testing = next((there[name] for name in TESTING if name in there), None)
    if training is None or testing is None or not set(there) <= {*TRAINING, *TESTING}:
        return None
    return training, testing


def class_of(path: Path, root: Path) -> str:
    """The sub-folder of ``root`` that a picture lies in.

    Raises:
        InputError: it lies in none.
    """
    inside = path.relative_to(root).parts
    if len(inside) < 2:
        raise InputError(
            f"{display(path)} lies in no sub-folder of {display(root)}: expected is one sub-folder a class"
        )
    return inside[0]


def read_folders(root: str | Path, seed: int = 0) -> tuple[DataSet, DataSet]:
    """Pictures to train and to test on, by sub-folder; classes in alphabetical order, nothing known about places.

    Args:
        root: a folder with one sub-folder per class, of which `SHARE` of each class are drawn to test on; or with
            ``train`` and ``test`` (or ``val``), each of that form.
        seed: of the draw.

    Raises:
        InputError: no such folder, no pictures, fewer than two classes, a class with a single picture, or a class to
            test on that there is none of to train on.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise InputError(f"there is no folder {display(folder)}; expected one with one sub-folder per class")
    parts = parts_of(folder)
    training = _by_class(parts[0] if parts else folder)
    if len(training) < 2:
        raise InputError(
            f"{display(parts[0] if parts else folder)} has one class only, '{next(iter(training))}': a classification "
            "needs at least two sub-folders with pictures"
        )
    if parts:
        testing = _by_class(parts[1])
        if strange := sorted(set(testing) - set(training)):
            raise InputError(
                f"{display(parts[1])} has a class '{strange[0]}', which {display(parts[0])} lacks; that has "
                + ", ".join(sorted(training)[:12])
            )
    else:
        training, testing = _divided(training, seed)
    classes = tuple(sorted(training))
    names = (parts[0].name, parts[1].name) if parts else ("train", "test")
    return _set(folder, names[0], classes, training), _set(folder, names[1], classes, testing)


def _by_class(root: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for source in find_images([root]):
        found.setdefault(class_of(source.path, root), []).append(source.path)
    return found


def _divided(files: dict[str, list[Path]], seed: int) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """To train and to test on: at least one of each class for either."""
    generator = torch.Generator().manual_seed(seed)
    training, testing = {}, {}
    for name in sorted(files):
        paths = files[name]
        if len(paths) < 2:
            raise InputError(f"class '{name}' has one picture: at least two are needed, one of them to test on")
        count = min(len(paths) - 1, max(1, round(SHARE * len(paths))))
        drawn = set(torch.randperm(len(paths), generator=generator)[:count].tolist())
        testing[name] = [path for i, path in enumerate(paths) if i in drawn]
        training[name] = [path for i, path in enumerate(paths) if i not in drawn]
    return training, testing


def _set(root: Path, split: str, classes: tuple[str, ...], files: dict[str, list[Path]]) -> DataSet:
    records = [Record(path, (k,)) for k, name in enumerate(classes) for path in files.get(name, [])]
    return DataSet(root.resolve().name, root, split, classes, records, placed=frozenset())
