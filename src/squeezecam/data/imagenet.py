"""ILSVRC-2012, "ImageNet" (Russakovsky et al., IJCV 2015): 1,000 classes, boxes of the labelled objects.

Pictures lie in ``val/`` or ``train/``, in one folder per synset or (val) all in one, under the root, under
``ILSVRC/Data/CLS-LOC/`` or in the root itself. The class of a picture is that of its folder, else comes from
``LOC_val_solution.csv``, from the development kit (``data/ILSVRC2012_validation_ground_truth.txt`` and ``meta.mat``,
which needs SciPy) or from its XML. Boxes come from the official XML files (``Annotations/CLS-LOC/val/`` and the like),
else from ``LOC_val_solution.csv``. A class index is the place of the synset among all of ``LOC_synset_mapping.txt``,
sorted: the order that published models have.
"""

from __future__ import annotations

import csv
import re
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, overload

from squeezecam.data.images import natural_key
from squeezecam.data.pixels import SUFFIXES, display
from squeezecam.data.record import (
    Box,
    DataSet,
    LabelledBox,
    Record,
    fields_of,
    lines_of,
    malformed,
    maybe_one_of,
    names_in,
)
from squeezecam.data.voc_xml import read_xml
from squeezecam.errors import InputError, SqueezeWarning

SPLITS = ("val", "train")
SYNSETS = 1000
_SYNSET = re.compile(r"n\d{8}")
_TOPS = ("", "ILSVRC/", "ILSVRC2012/", "devkit/", "ILSVRC2012_devkit_t12/", "data/", "ILSVRC2012_devkit_t12/data/")
_MAPPINGS = ("LOC_synset_mapping.txt", "synset_words.txt")
_FORM = "n01440764 tench, Tinca tinca"
Solution = dict[str, tuple[str, list[Box]]]


def read_imagenet(root: str | Path, split: str = "val") -> DataSet:
    """Read one part of ILSVRC-2012; XML files are read when their record is asked for.

    Raises:
        InputError: files that are missing, or not in the official form; the line says what was looked for.
    """
    if split not in SPLITS:
        raise InputError(f"split '{split}' of imagenet; expected one of {', '.join(SPLITS)}")
    given = Path(root).expanduser()
    folder = _pictures(given, split)
    notes = maybe_one_of(given, [top + place.format(split=split) for top in _TOPS[:3] for place in (
        "Annotations/CLS-LOC/{split}", "Annotations/{split}", "bbox/{split}", "ILSVRC2012_bbox_{split}",
        "ILSVRC2012_bbox_val_v3/{split}", "ILSVRC2012_bbox_val_v3", "ILSVRC2012_bbox_train_v2",
    )], folder=True)  # fmt: skip
    solution = _solution(given, split)
    mapping = maybe_one_of(given, [top + name for top in _TOPS for name in _MAPPINGS])
    folders = sorted(name for name in names_in(folder) if _SYNSET.fullmatch(name) and (folder / name).is_dir())
    if folders:
        files = [(path, name) for name in folders for path in _in(folder / name)]
    else:
        synset_of = _labels(given, split, folder, notes, solution)
        files = [(path, synset_of(path)) for path in _in(folder)]
    if not files:
        raise InputError(f"no pictures in {display(folder)}; looked for files that end in {' '.join(SUFFIXES)}")
    names = _names(mapping) if mapping is not None else {name: name for _, name in files}
    if mapping is None and len(names) < SYNSETS:
        warnings.warn(
            f"{display(given)} has pictures of {len(names)} synsets and no LOC_synset_mapping.txt: class indices count "
            f"among these {len(names)}, not among the 1,000 that published models have",
            SqueezeWarning,
            stacklevel=2,
        )
    order = {name: place for place, name in enumerate(sorted(names))}
    unknown = {name for _, name in files} - set(order)
    if unknown:
        raise InputError(f"{display(mapping or given)} lacks the synset {min(unknown)}, of which there are pictures")
    classes = tuple(names[name] for name in order)
    records = _Records(files, order, notes, solution)
    return DataSet("imagenet", given, split, classes, records)


class _Records(Sequence[Record]):
    """Records whose XML is read when boxes are asked for: there may be half a million."""

    def __init__(
        self, files: list[tuple[Path, str]], order: dict[str, int], notes: Path | None, solution: Solution
    ) -> None:
        self.files, self.order, self.notes, self.solution = files, order, notes, solution

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        path, synset = self.files[index]
        return Record(path, (self.order[synset],), partial(self._boxes, path, synset))

    def _boxes(self, path: Path, synset: str) -> list[LabelledBox]:
        note = _xml(path, synset, self.notes)
        if note is not None:
            return [LabelledBox(found.box, self.order.get(found.name)) for found in read_xml(note)]
        return [LabelledBox(box, self.order[synset]) for box in self.solution.get(path.stem, ("", []))[1]]


def _pictures(root: Path, split: str) -> Path:
    places = [
        f"{top}{place}" for top in _TOPS[:3] for place in (f"Data/CLS-LOC/{split}", split, f"ILSVRC2012_img_{split}")
    ]
    found = maybe_one_of(root, places, folder=True)
    if found is None and root.is_dir() and (_in(root) or any(_SYNSET.fullmatch(name) for name in names_in(root))):
        return root
    if found is None:
        raise InputError(
            f"no pictures of the split '{split}' under {display(root)}; looked for {', '.join(places[:3])} (also in "
            "ILSVRC/ and ILSVRC2012/), and for synset folders or pictures in the folder itself"
        )
    return found


def _in(folder: Path) -> list[Path]:
    found = [name for name in names_in(folder) if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    return [folder / name for name in sorted(found, key=natural_key)]


def _xml(path: Path, synset: str, notes: Path | None) -> Path | None:
    name = f"{path.stem}.xml"
    places = [path.with_suffix(".xml")] if notes is None else [notes / name, notes / synset / name]
    return next((place for place in places if place.is_file()), None)


def _labels(
    root: Path, split: str, folder: Path, notes: Path | None, solution: Solution
) -> Callable[[Path], str]:  # fmt: skip
    """How the synset of a picture is found that lies in no folder of its synset."""
    truth = maybe_one_of(root, [top + "ILSVRC2012_validation_ground_truth.txt" for top in _TOPS])
    meta = truth.with_name("meta.mat") if truth is not None else None
    listed: dict[str, str] = {}
    if solution:
        listed = {name: synset for name, (synset, _) in solution.items()}
    elif split == "val" and truth is not None and meta is not None and meta.is_file():
        synsets = _meta(meta)
        for place, (number,) in enumerate(fields_of(truth, 1, "490"), start=1):
            if not number.isdigit() or int(number) not in synsets:
                raise malformed(truth, place, f"'{number}' is no class of meta.mat", "490")
            listed[f"ILSVRC2012_val_{place:08d}"] = synsets[int(number)]

    def of(path: Path) -> str:
        if path.stem in listed:
            return listed[path.stem]
        if _SYNSET.match(path.stem):
            return path.stem.partition("_")[0]
        note = _xml(path, "", notes)
        found = read_xml(note) if note is not None else []
        if not found:
            raise InputError(
                f"the class of {display(path)} is not known: it lies in no folder of its synset, and neither "
                "LOC_val_solution.csv, nor the development kit's ILSVRC2012_validation_ground_truth.txt with meta.mat, "
                f"nor an XML file says it; one of them is needed under {display(root)}"
            )
        return found[0].name

    return of


def _names(mapping: Path) -> dict[str, str]:
    names = {}
    for number, line in enumerate(lines_of(mapping), start=1):
        synset, _, words = line.strip().partition(" ")
        if not _SYNSET.fullmatch(synset) or not words:
            raise malformed(mapping, number, repr(line[:60]), _FORM)
        names[synset] = words.strip()
    return names


def _solution(root: Path, split: str) -> Solution:
    path = maybe_one_of(root, [f"{top}LOC_{split}_solution.csv" for top in _TOPS])
    if path is None:
        return {}
    found: Solution = {}
    for number, row in enumerate(csv.reader(lines_of(path)), start=1):
        if row[:1] == ["ImageId"]:
            continue
        words = row[1].split() if len(row) == 2 else []
        try:
            boxes = [_corners(words[i + 1 : i + 5]) for i in range(0, len(words), 5)]
        except ValueError:
            boxes = []
        if not boxes or not _SYNSET.fullmatch(words[0]):
            raise malformed(path, number, repr(",".join(row)[:60]), "ILSVRC2012_val_00048981,n03995372 85 1 499 272")
        found[row[0]] = (words[0], boxes)
    return found


def _corners(words: list[str]) -> Box:
    x0, y0, x1, y1 = map(float, words)
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)


def _meta(path: Path) -> dict[int, str]:
    """Synsets by the development kit's own numbers, which are not the order of the classes."""
    try:
        from scipy.io import loadmat  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        raise InputError(
            f"{display(path)} is a MATLAB file, and SciPy, which reads it, is not installed: pip install scipy, or put "
            "the pictures into a folder per synset"
        ) from None
    try:
        rows: Any = loadmat(path, squeeze_me=True)["synsets"]
        leaves = [row for row in rows.tolist() if int(row[4]) == 0]
        return {int(row[0]): str(row[1]) for row in leaves}
    except Exception as error:  # the reader raises anything on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{display(path)} is not the development kit's meta.mat: {reason}") from None
