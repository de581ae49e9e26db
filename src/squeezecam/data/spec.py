"""``NAME[@SPLIT]:FOLDER``: how a data set is named on the command line."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import NamedTuple

from squeezecam.errors import InputError

NAMES = ("celeba", "cub", "imagenet", "pet", "voc")
_SPEC = re.compile(r"([A-Za-z][A-Za-z0-9_-]+)(?:@([^:]*))?:(.+)", re.DOTALL)


class Spec(NamedTuple):
    """What ``NAME[@SPLIT]:FOLDER`` says."""

    name: str
    split: str | None
    root: Path


def parse(text: str) -> Spec | None:
    """``NAME[@SPLIT]:FOLDER`` in its parts; None for anything else, such as a path, ``C:/photos`` included.

    Raises:
        InputError: it has this form with ``@``, and no such data set is known.
    """
    found = _SPEC.fullmatch(text)
    if found is None or Path(text).exists():
        return None
    name, split, root = found[1].casefold(), found[2], found[3]
    if name in NAMES:
        return Spec(name, split or None, Path(root).expanduser())
    near = difflib.get_close_matches(name, NAMES, n=1)
    if split is not None or near:
        raise InputError(
            f"there is no data set '{found[1]}'; expected {', '.join(NAMES)}, as {near[0] if near else 'cub'}:FOLDER"
        )
    return None
