"""Data sets by name: ``cub:FOLDER``, ``voc@train:FOLDER`` and so on become `squeezecam.data.record.DataSet`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from squeezecam.data.celeba import read_celeba
from squeezecam.data.cub import read_cub
from squeezecam.data.face_regions import PLACES, region_box
from squeezecam.data.imagenet import read_imagenet
from squeezecam.data.pet import read_pet
from squeezecam.data.record import DataSet
from squeezecam.data.spec import Spec, parse
from squeezecam.data.voc import read_voc
from squeezecam.errors import InputError


class Known(NamedTuple):
    """How a data set is read, and which part is meant where nobody says."""

    read: Callable[[str | Path, str], DataSet]
    fit: str
    evaluate: str


def _celeba(root: str | Path, split: str) -> DataSet:
    return read_celeba(root, split).dataset(PLACES, region_box)


SETS = {
    "celeba": Known(_celeba, "train", "test"),
    "cub": Known(read_cub, "train", "test"),
    "imagenet": Known(read_imagenet, "train", "val"),
    "pet": Known(read_pet, "trainval", "test"),
    "voc": Known(read_voc, "train", "val"),
}


def open_set(spec: str | Spec, *, fitting: bool = False) -> DataSet:
    """The data set that ``NAME[@SPLIT]:FOLDER`` names.

    Args:
        spec: the text, or what `parse` made of it. Without a split the part is meant that is for training (``fitting``)
            or that results are reported on.
        fitting: see above.

    Raises:
        InputError: an unknown name, or a folder that does not hold the set in its official form.
    """
    found = parse(spec) if isinstance(spec, str) else spec
    if found is None:
        raise InputError(f"'{spec}' names no data set; expected NAME[@SPLIT]:FOLDER with one of {', '.join(SETS)}")
    known = SETS[found.name]
    return known.read(found.root, found.split or (known.fit if fitting else known.evaluate))
