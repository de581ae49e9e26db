"""The Oxford-IIIT Pet data set (Parkhi et al., CVPR 2012): 37 breeds, a trimap of every picture, some heads boxed.

The official layout, under one root (``oxford-iiit-pet``, or the folder it lies in)::

    images/Abyssinian_100.jpg
    annotations/trainval.txt, test.txt        "Abyssinian_100 1 1 1": name, class from 1, 1 cat or 2 dog, breed
    annotations/trimaps/Abyssinian_100.png    1 animal, 2 background, 3 rim
    annotations/xmls/Abyssinian_100.xml       a box around the head, for most of trainval
"""

from __future__ import annotations

from pathlib import Path

from squeezecam.data.pixels import display
from squeezecam.data.record import DataSet, LabelledBox, MaskFile, Record, fields_of, malformed, names_in
from squeezecam.data.voc_xml import read_xml
from squeezecam.errors import InputError

SPLITS = ("trainval", "test")
_FORM = "Abyssinian_100 1 1 1"
_ANIMAL = 1


def read_pet(root: str | Path, split: str = "test") -> DataSet:
    """Read one part of the Pet data set; ``split`` is ``trainval`` or ``test``.

    Returns:
        Classes are the breeds in the official order, as `torchvision.datasets.OxfordIIITPet` has them. A mask is the
        animal without the rim, which the set leaves undecided; a box is the animal's *head*.

    Raises:
        InputError: files that are missing, or not in the official form.
    """
    given = Path(root).expanduser()
    base = next((p for p in (given, given / "oxford-iiit-pet") if (p / "annotations").is_dir()), None)
    if base is None:
        raise InputError(
            f"no annotations/ under {display(given)}; expected images/ and annotations/ of Oxford-IIIT Pet"
        )
    listing = base / "annotations" / f"{split}.txt"
    if not listing.is_file():
        raise InputError(f"no list {display(listing)} of the split '{split}'; expected one of {', '.join(SPLITS)}")
    notes = base / "annotations"
    trimaps, boxed = (names_in(p) if (p := notes / part).is_dir() else set() for part in ("trimaps", "xmls"))
    names: dict[int, str] = _breeds(notes)
    records = []
    for line, (name, number, *_) in enumerate(fields_of(listing, 4, _FORM, comment="#"), start=1):
        if not number.isdigit() or int(number) < 1:
            raise malformed(listing, line, f"the class is '{number}'", _FORM)
        names.setdefault(int(number), _breed(name))
        head = (
            [o.box for o in read_xml(notes / "xmls" / f"{name}.xml", first_pixel=1)] if f"{name}.xml" in boxed else []
        )
        mask = MaskFile(notes / "trimaps" / f"{name}.png", _ANIMAL, _ANIMAL) if f"{name}.png" in trimaps else None
        boxes = tuple(LabelledBox(box) for box in head)
        records.append(Record(base / "images" / f"{name}.jpg", (int(number) - 1,), boxes, mask))
    if not records:
        raise InputError(f"{display(listing)} lists no picture; expected lines such as '{_FORM}'")
    classes = tuple(names.get(k, f"class {k}") for k in range(1, max(names) + 1))
    return DataSet("pet", given, split, classes, records)


def _breeds(notes: Path) -> dict[int, str]:
    """Names by official number, from both lists, so that a split alone does not decide what class 5 is called."""
    found: dict[int, str] = {}
    for split in SPLITS:
        if (notes / f"{split}.txt").is_file():
            for name, number, *_ in fields_of(notes / f"{split}.txt", 4, _FORM, comment="#"):
                if number.isdigit():
                    found.setdefault(int(number), _breed(name))
    return found


def _breed(name: str) -> str:
    return " ".join(part.title() for part in name.rsplit("_", 1)[0].split("_"))
