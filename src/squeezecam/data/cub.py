"""CUB-200-2011 (Wah et al., Caltech technical report CNS-TR-2011-001): 200 kinds of birds, a box and a mask each.

The official layout, under one root (``CUB_200_2011``, or the folder it lies in)::

    images.txt                  "1 001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg"
    image_class_labels.txt      "1 1"; classes.txt: "1 001.Black_footed_Albatross"
    train_test_split.txt        "1 0": 1 is training
    bounding_boxes.txt          "1 60.0 27.0 325.0 304.0": x, y, width, height
    images/...
    segmentations/...png        in an archive of its own; also looked for beside the root
"""

from __future__ import annotations

import math
from pathlib import Path

from squeezecam.data.pixels import display
from squeezecam.data.record import (
    Box,
    DataSet,
    LabelledBox,
    MaskFile,
    Record,
    fields_of,
    malformed,
    maybe_one_of,
    one_of,
)
from squeezecam.errors import InputError

SPLITS = ("train", "test", "all")
# Five people marked each bird: the gray level is how many said "bird". More than half of it is a majority.
_MAJORITY = 128


def read_cub(root: str | Path, split: str = "test") -> DataSet:
    """Read one part of CUB-200-2011; ``split`` is ``train``, ``test`` or ``all``.

    Returns:
        Classes in the official order, without their numbers; a mask is what most of the annotators marked, and is there
        only where ``segmentations/`` is.

    Raises:
        InputError: files that are missing, not in the official form, or that do not fit together.
    """
    if split not in SPLITS:
        raise InputError(f"split '{split}' of cub; expected one of {', '.join(SPLITS)}")
    given = Path(root).expanduser()
    base = one_of(given, ["images.txt", "CUB_200_2011/images.txt"], "images.txt of CUB-200-2011").parent
    files = _by_number(base / "images.txt", 1, "1 001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg")
    names = _by_number(base / "classes.txt", 1, "1 001.Black_footed_Albatross")
    labels = _by_number(base / "image_class_labels.txt", 1, "1 1")
    parts = _by_number(base / "train_test_split.txt", 1, "1 0")
    boxes = _by_number(base / "bounding_boxes.txt", 4, "1 60.0 27.0 325.0 304.0")
    order = {number: place for place, number in enumerate(sorted(names, key=int))}
    masks = maybe_one_of(base, ["segmentations", "../segmentations"], folder=True)
    wanted = {"train": "1", "test": "0"}.get(split)
    records = []
    for number, (file,) in files.items():
        for table, what in ((labels, "image_class_labels"), (parts, "train_test_split"), (boxes, "bounding_boxes")):
            if number not in table:
                raise InputError(f"{display(base / what)}.txt has no row for image {number} of images.txt ({file})")
        (label,) = labels[number]
        if label not in order:
            raise InputError(f"{display(base / 'image_class_labels.txt')}: image {number} is of class {label}, which "
                             "classes.txt does not have")  # fmt: skip
        if wanted is None or parts[number][0] == wanted:
            mask = masks / Path(file).with_suffix(".png") if masks is not None else None
            box = _box(base / "bounding_boxes.txt", number, boxes[number])
            there = MaskFile(mask, _MAJORITY, 255) if mask is not None and mask.is_file() else None
            records.append(Record(base / "images" / file, (order[label],), (LabelledBox(box),), there))
    if not records:
        raise InputError(f"{display(base / 'train_test_split.txt')} puts no picture into '{split}'")
    classes = tuple(_plain(names[number][0]) for number in order)
    return DataSet("cub", given, split, classes, records)


def _by_number(path: Path, count: int, form: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line, (number, *values) in enumerate(fields_of(path, count + 1, form), start=1):
        if not number.isdigit():
            raise malformed(path, line, f"the number is '{number}'", form)
        found[number] = values
    return found


def _box(path: Path, number: str, values: list[str]) -> Box:
    try:
        x, y, width, height = map(float, values)
    except ValueError:
        x = y = width = height = math.nan
    if not (math.isfinite(x + y) and 0 < width < math.inf and 0 < height < math.inf):
        raise InputError(f"{display(path)}: the box of image {number} is {' '.join(values)}; expected x y width height")
    return x, y, x + width, y + height


def _plain(name: str) -> str:
    return name.partition(".")[2].replace("_", " ") or name
