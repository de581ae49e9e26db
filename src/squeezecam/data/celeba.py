"""CelebA (Liu et al., ICCV 2015): 40 attributes of 202,599 faces, with five landmarks each.

The official layout; lists lie in the root, in ``Anno/`` or ``Eval/`` (also below ``CelebA/``), pictures in the root or
``Img/``::

    img_align_celeba/000001.jpg        178 x 218, eyes and mouth in place; or img_celeba/, as found
    list_attr_celeba.txt               the count; the 40 names; "000001.jpg -1 1 ... 1"
    list_eval_partition.txt            "000001.jpg 0": 0 train, 1 validation, 2 test
    list_landmarks_align_celeba.txt    the count; 10 names; "000001.jpg 69 109 106 113 77 142 73 152 108 154"
    list_landmarks_celeba.txt          the same for img_celeba/
    list_bbox_celeba.txt               the count; names; "000001.jpg 95 71 226 313": x, y, width, height in img_celeba/

The widespread mirror with ``.csv`` files of the same names, with a head line in place of count and names, is read too.

Read here rather than through ``torchvision.datasets.CelebA``, which refuses a folder whose files are not the very
archives (checksums of all lists must match, also of those not needed), knows no ``img_celeba`` and no part of the set.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from squeezecam.data.pixels import display
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
    one_of,
)
from squeezecam.errors import InputError, SqueezeWarning

SPLITS = {"train": 0, "valid": 1, "test": 2, "all": None}
POINTS = ("left eye", "right eye", "nose", "left corner of the mouth", "right corner of the mouth")
"""The five landmarks, in the official order; left and right as the picture shows them."""
Place = Callable[[NDArray[np.float64], str], Box]
_TOPS = ("", "Anno/", "Eval/", "CelebA/Anno/", "CelebA/Eval/", "celeba/")
_ALIGNED = ("img_align_celeba/img_align_celeba", "img_align_celeba", "img_align_celeba_png")
_WILD = ("img_celeba", "img_celeba/img_celeba")


@dataclass(frozen=True)
class CelebA:
    """One part of CelebA, in the order of the attribute list.

    Attributes:
        root: the folder given.
        split: ``train``, ``valid``, ``test`` or ``all``.
        aligned: the pictures are those of ``img_align_celeba``.
        folder: where the pictures are.
        files: N names of files.
        names: of the K attributes.
        attributes: (N, K) bool.
        landmarks: (N, 5, 2), x and y in pixels of the file, in the order of `POINTS`; None where the list is missing.
        boxes: (N, 4), x0, y0, x1, y1 of the face in pixels of the file; None for aligned pictures, to which the
            official list does not refer, and where it is missing.
    """

    root: Path
    split: str
    aligned: bool
    folder: Path
    files: tuple[str, ...]
    names: tuple[str, ...]
    attributes: NDArray[np.bool_] = field(repr=False)
    landmarks: NDArray[np.float64] | None = field(default=None, repr=False)
    boxes: NDArray[np.float64] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.files)

    def dataset(self, places: Mapping[str, str] | None = None, box: Place | None = None) -> DataSet:
        """The common form: labels are the attributes a face has, points its landmarks, boxes what ``box`` makes.

        Args:
            places: the region of each attribute that has one.
            box: from the five landmarks (5, 2) and a region to a box.
        """
        regions = {i: places[name] for i, name in enumerate(self.names) if name in places} if places else {}
        records = _Records(self, regions, box)
        placed = frozenset(regions if self.landmarks is not None else ())
        return DataSet("celeba", self.root, self.split, self.names, records, multilabel=True, placed=placed)


class _Records(Sequence[Record]):
    """Records made when they are asked for: there may be 200,000."""

    def __init__(self, faces: CelebA, regions: Mapping[int, str], box: Place | None) -> None:
        self.faces, self.regions, self.box = faces, regions, box

    def __len__(self) -> int:
        return len(self.faces)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        faces = self.faces
        labels = tuple(np.flatnonzero(faces.attributes[index]).tolist())
        points = () if faces.landmarks is None else tuple((float(x), float(y)) for x, y in faces.landmarks[index])
        return Record(faces.folder / faces.files[index], labels, partial(self._boxes, index, labels), None, points)

    def _boxes(self, index: int, labels: tuple[int, ...]) -> list[LabelledBox]:
        if self.box is None or self.faces.landmarks is None:
            return []
        points, regions = self.faces.landmarks[index], self.regions
        return [LabelledBox(self.box(points, regions[label]), label) for label in labels if label in regions]


def read_celeba(root: str | Path, split: str = "test", *, aligned: bool | None = None) -> CelebA:
    """Read one part of CelebA.

    Args:
        root: the folder with pictures and lists.
        split: ``train``, ``valid``, ``test`` or ``all`` (which needs no ``list_eval_partition``).
        aligned: pictures of ``img_align_celeba`` or of ``img_celeba``; None: the first of the two that is there.

    Raises:
        InputError: a list or the pictures are missing or not in the official form; file and line are named.
    """
    if split not in SPLITS:
        raise InputError(f"split '{split}' of celeba; expected one of {', '.join(SPLITS)}")
    given = Path(root).expanduser()
    names, rows = _table(_list(given, "list_attr_celeba"), None)
    files, values = tuple(rows), np.array(list(rows.values()), dtype=np.float64)
    bad = np.argwhere(~np.isin(values, (-1, 1)))
    if len(bad):
        row, column = bad[0]
        raise InputError(
            f"{display(_list(given, 'list_attr_celeba'))}: {names[column]} of {files[row]} is {values[row, column]:g}; "
            "expected -1 or 1"
        )
    folder, is_aligned = _pictures(given, aligned)
    wanted = _members(given, files, split)
    there = names_in(folder)
    stored = [_stored(name, there) for name in files]
    missing = sum(stored[i] is None for i in wanted)
    if missing == len(wanted):
        raise InputError(
            f"none of the {len(wanted)} pictures of the split '{split}' is in {display(folder)}; expected files "
            f"such as {files[wanted[0]] if wanted else '000001.jpg'}"
        )
    if missing:
        warnings.warn(
            f"{missing} of {len(wanted)} pictures of the split '{split}' are not in {display(folder)}: left out",
            SqueezeWarning,
            stacklevel=2,
        )
    kept = [i for i in wanted if stored[i] is not None]
    chosen = [files[i] for i in kept]
    points = _optional(given, "list_landmarks_align_celeba" if is_aligned else "list_landmarks_celeba", 10, chosen)
    faces = None if is_aligned else _optional(given, "list_bbox_celeba", 4, chosen)
    if faces is not None:
        faces = np.concatenate([faces[:, :2], faces[:, :2] + faces[:, 2:]], 1)
    return CelebA(
        given, split, is_aligned, folder, tuple(name for i in kept if (name := stored[i]) is not None), tuple(names),
        values[kept] == 1, None if points is None else points.reshape(-1, 5, 2), faces,
    )  # fmt: skip


def _list(root: Path, name: str) -> Path:
    return one_of(root, [f"{top}{name}{end}" for end in (".txt", ".csv") for top in _TOPS], f"{name}.txt of CelebA")


def _optional(root: Path, name: str, columns: int, files: Sequence[str]) -> NDArray[np.float64] | None:
    path = maybe_one_of(root, [f"{top}{name}{end}" for end in (".txt", ".csv") for top in _TOPS])
    if path is None:
        return None
    _, rows = _table(path, columns)
    absent = next((file for file in files if file not in rows), None)
    if absent is not None:
        raise InputError(f"{display(path)} has no row for {absent}, which the attribute list has; fetch the file again")
    return np.array([rows[file] for file in files], dtype=np.float64)


def _members(root: Path, files: Sequence[str], split: str) -> list[int]:
    part = SPLITS[split]
    if part is None:
        return list(range(len(files)))
    path = _list(root, "list_eval_partition")
    if path.suffix == ".csv":
        parts = {name: str(int(value)) for name, (value,) in _table(path, 1)[1].items()}
    else:
        parts = dict(fields_of(path, 2, "000001.jpg 0"))
    odd = next(((name, value) for name, value in parts.items() if value not in ("0", "1", "2")), None)
    if odd is not None:
        raise InputError(f"{display(path)} puts {odd[0]} into part '{odd[1]}'; expected 0, 1 or 2")
    found = [i for i, name in enumerate(files) if parts.get(name) == str(part)]
    if not found:
        raise InputError(f"{display(path)} puts no picture into the split '{split}' ({part})")
    return found


def _table(path: Path, columns: int | None) -> tuple[list[str], dict[str, list[float]]]:
    """Names of the columns, and numbers by file name."""
    lines = lines_of(path)
    if path.suffix == ".csv":
        names, first = next(csv.reader(lines[:1]))[1:], 1
        split: Callable[[str], list[str]] = lambda line: line.split(",")  # noqa: E731
        count = len(lines) - 1
    else:
        if not lines[0].strip().isdigit() or len(lines) < 3:
            raise malformed(path, 1, repr(lines[0][:40]), "202599")
        names, first, split, count = lines[1].split(), 2, str.split, int(lines[0])
        names = names[1:] if names[:1] == ["image_id"] else names
    if columns is not None and len(names) != columns:
        raise malformed(path, first, f"{len(names)} names of columns", f"{columns} of them")
    rows: dict[str, list[float]] = {}
    known: dict[str, float] = {}  # one number object for each text: there are eight million cells
    for number, line in enumerate(lines[first:], start=first + 1):
        name, *cells = split(line) or [""]
        try:
            rows[name] = [known[cell] if cell in known else known.setdefault(cell, float(cell)) for cell in cells]
        except ValueError:
            raise malformed(path, number, repr(line[:60]), f"a file name and {len(names)} numbers") from None
        if len(cells) != len(names):
            raise malformed(path, number, f"{len(cells)} values", f"a file name and {len(names)} numbers")
    if len(rows) != count:
        raise InputError(
            f"{display(path)} announces {count} faces and has {len(rows)}: cut short, or names twice; fetch it again, "
            "or correct its first line if this is a part of the set on purpose"
        )
    return names, rows


def _pictures(root: Path, aligned: bool | None) -> tuple[Path, bool]:
    places = [(name, True) for name in _ALIGNED if aligned is not False]
    places += [(name, False) for name in _WILD if aligned is not True]
    for top in ("", "Img/", "CelebA/Img/", "celeba/"):
        for name, is_aligned in places:
            if (root / top / name).is_dir():
                return root / top / name, is_aligned
    raise InputError(
        f"no pictures under {display(root)}; looked for the folders {', '.join(name for name, _ in places)} in it and "
        "in Img/: unpack img_align_celeba.zip there"
    )


def _stored(name: str, there: set[str]) -> str | None:
    """The name under which the picture lies there: the archive without losses has .png where the lists say .jpg."""
    other = Path(name).with_suffix(".png").name
    return name if name in there else other if other in there else None
