"""One form for labelled pictures, whatever data set they come from: file, classes, boxes, mask, points."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, overload

import numpy as np
import torch
from torch import Tensor

from squeezecam.data.pixels import display
from squeezecam.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Box: TypeAlias = tuple[float, float, float, float]
Point: TypeAlias = tuple[float, float]


class LabelledBox(NamedTuple):
    """A box ``(x0, y0, x1, y1)`` in pixels of the file, edges not centres, and the class it is of (None: not said)."""

    box: Box
    label: int | None = None


@dataclass(frozen=True)
class MaskFile:
    """A picture whose pixel values say where the object is.

    Attributes:
        path: of the same height and width as the picture it belongs to.
        low: the smallest value on the object.
        high: the largest value on the object.
        by_class: the value on an object of class ``k`` is ``k + 1``; ``low`` and ``high`` then span all classes.
    """

    path: Path
    low: int = 1
    high: int = 255
    by_class: bool = False

    def read(self, label: int | None = None) -> NDArray[np.bool_]:
        """(H, W): True on the object; with ``label``, where the file tells classes apart, on those of that class.

        Raises:
            InputError: the file is missing or damaged.
        """
        values = _values(self.path)
        if self.by_class and label is not None:
            return np.asarray(values == label + 1)
        return np.asarray((values >= self.low) & (values <= self.high))


@dataclass(frozen=True)
class Record:
    """One picture of a data set.

    Attributes:
        path: the picture file.
        labels: indices of its classes into `DataSet.classes`: one, or in a multi-label set any number.
        located: boxes of objects, or a function that finds them when they are asked for; read them as `boxes`.
        mask: where objects are, by pixel; None where the set has none for this picture.
        points: landmarks in pixels of the file; which ones, the data set says.
    """

    path: Path
    labels: tuple[int, ...] = ()
    located: Sequence[LabelledBox] | Callable[[], Sequence[LabelledBox]] = ()
    mask: MaskFile | None = None
    points: tuple[Point, ...] = ()

    @property
    def boxes(self) -> Sequence[LabelledBox]:
        """Where objects are.

        Raises:
            InputError: they are read from a file only now, and it is missing or malformed.
        """
        return self.located() if callable(self.located) else self.located

    def boxes_of(self, label: int | None = None) -> list[Box]:
        """All boxes, or those of one class; a box that does not say its class counts for each of the picture's."""
        named = label is None or label in self.labels
        return [b.box for b in self.boxes if label is None or b.label == label or (b.label is None and named)]


@dataclass(frozen=True)
class DataSet:
    """Pictures with what is known about them, a sequence of `Record`.

    Attributes:
        name: as users type it, ``"cub"``.
        root: the folder given.
        split: which part.
        classes: names by class index.
        records: one per picture.
        multilabel: a picture has any number of classes.
        placed: the classes that have a place, where boxes are regions in which a *class* shows (an attribute of a
            face): without a class they say nothing. None: boxes are objects.
    """

    name: str
    root: Path
    split: str
    classes: tuple[str, ...]
    records: Sequence[Record] = field(repr=False)
    multilabel: bool = False
    placed: frozenset[int] | None = None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        return self.records[index]

    def only(self, names: Sequence[str]) -> DataSet:
        """The same pictures with some classes of a multi-label set, in the order given; case and underscores are free.

        Masks that tell classes apart by their number are left out, as the numbers no longer hold.

        Raises:
            InputError: a set whose pictures have one class each, or a name that is none.
        """
        if not self.multilabel:
            raise InputError(
                f"pictures of '{self.name}' have one class each: leaving classes out would leave out pictures"
            )
        plain = [_plain(name) for name in self.classes]
        for name in names:
            if _plain(name) not in plain:
                raise InputError(f"'{self.name}' has no class '{name}'; it has {', '.join(self.classes)}")
        kept = [plain.index(_plain(name)) for name in names]
        placed = None if self.placed is None else frozenset(i for i, label in enumerate(kept) if label in self.placed)
        chosen = tuple(self.classes[i] for i in kept)
        return replace(self, classes=chosen, records=_Only(self.records, kept), placed=placed)

    def targets(self) -> Tensor:
        """For training: class indices ``(N,)`` int64, or in a multi-label set 0 and 1, ``(N, K)`` float32.

        Raises:
            InputError: a picture without a label, where each should have one.
        """
        if self.multilabel:
            rows = torch.zeros(len(self), len(self.classes))
            for i, record in enumerate(self.records):
                rows[i, list(record.labels)] = 1
            return rows
        for record in self.records:
            if len(record.labels) != 1:
                raise InputError(
                    f"{display(record.path)} has {len(record.labels)} labels; expected one, as the set '{self.name}' "
                    "has them: leave this picture out"
                )
        return torch.tensor([record.labels[0] for record in self.records], dtype=torch.int64)


class _Only(Sequence[Record]):
    """Records with some of the classes, renumbered."""

    def __init__(self, records: Sequence[Record], kept: Sequence[int]) -> None:
        self.records, self.place = records, {label: i for i, label in enumerate(kept)}

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        record, place = self.records[index], self.place
        labels = tuple(place[label] for label in record.labels if label in place)

        def located() -> list[LabelledBox]:
            return [b._replace(label=place.get(b.label, -1)) if b.label is not None else b for b in record.boxes]

        mask = None if record.mask is not None and record.mask.by_class else record.mask
        return replace(record, labels=labels, located=located, mask=mask)


def _values(path: Path) -> NDArray[np.integer[Any]]:
    """(H, W): the numbers in a picture file: indices of a palette, or gray levels."""
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG", "BMP", "TIFF", "GIF", "JPEG")) as opened:
            kept = opened.mode in ("P", "L") or opened.mode.startswith("I")
            return np.array(opened if kept else opened.convert("L"))
    except FileNotFoundError:
        raise InputError(f"no such mask file: {display(path)}") from None
    except Exception as error:  # the readers raise anything on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"the mask file {display(path)} cannot be read: {reason}") from None


def one_of(root: Path, places: Sequence[str], what: str, *, folder: bool = False) -> Path:
    """The first of ``places`` under ``root`` that exists as a file (or folder).

    Raises:
        InputError: none does; the line names all that was looked for.
    """
    found = maybe_one_of(root, places, folder=folder)
    if found is None:
        missing = "" if root.is_dir() else f" ({display(root)} itself is no folder)"
        raise InputError(f"no {what} under {display(root)}{missing}; looked for {', '.join(places)}")
    return found


def maybe_one_of(root: Path, places: Sequence[str], *, folder: bool = False) -> Path | None:
    """As `one_of`, None where there is none."""
    for place in places:
        path = root / place
        if path.is_dir() if folder else path.is_file():
            return path
    return None


def lines_of(path: Path) -> list[str]:
    """Lines of a UTF-8 text file, without empty ones at its end.

    Raises:
        InputError: it cannot be read, is no text, or is empty.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read {display(path)}: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError:
        raise InputError(f"{display(path)} is no text file; expected the data set's list, unpacked") from None
    lines = text.splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise InputError(f"{display(path)} is empty; expected the data set's list: fetch the file again")
    return lines


def fields_of(path: Path, count: int | tuple[int, ...], form: str, *, comment: str | None = None) -> list[list[str]]:
    """Rows of whitespace-separated fields; each has to have ``count`` of them.

    Raises:
        InputError: a row with another number; the line is named, and ``form`` is what was expected.
    """
    counts = (count,) if isinstance(count, int) else count
    rows = []
    for number, line in enumerate(lines_of(path), start=1):
        if comment is not None and line.startswith(comment):
            continue
        row = line.split()
        if len(row) not in counts:
            raise malformed(path, number, f"{len(row)} fields", form)
        rows.append(row)
    return rows


def malformed(path: Path, line: int, given: str, expected: str) -> InputError:
    """The error for a line that is not in the official form."""
    return InputError(f"{display(path)}, line {line}: {given}; expected '{expected}', the official form of this file")


def names_in(folder: Path) -> set[str]:
    """Names of what lies in ``folder``.

    Raises:
        InputError: it cannot be listed.
    """
    try:
        return set(os.listdir(folder))
    except OSError as error:
        raise InputError(
            f"cannot read the folder {display(folder)}: {(error.strerror or str(error)).lower()}"
        ) from None


def _plain(name: str) -> str:
    return name.casefold().replace("_", "").replace(" ", "").replace("'", "")
