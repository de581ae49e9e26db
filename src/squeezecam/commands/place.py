"""Where a command writes: a folder that keeps the user's own pictures safe, and is gone again if nothing came of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from squeezecam.errors import InputError
from squeezecam.files import file_target, output_folder

SHEET = "contact_sheet.png"
RESULTS = "results.json"


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[Path]:
    """The output folder; what had to be created for it is removed where the work fails before anything is in it.

    Raises:
        InputError: it cannot be created or written to.

    """
    wanted = folder.expanduser()
    created = [place for place in (wanted, *wanted.parents) if not place.exists()]
    try:
        yield output_folder(wanted)
    except BaseException:
        for place in created:
            with contextlib.suppress(OSError):  # not empty: something was finished
                place.rmdir()
        raise


class FromFile(Protocol):
    """Whatever a picture comes from."""

    @property
    def path(self) -> Path:
        """The file."""
        ...


def keep_apart(folder: Path, sources: Iterable[FromFile], use: str = "explained") -> None:
    """Refuse a folder that pictures come from: ``photo.png`` would be replaced by the figure of the same name, and the
    figures would be pictures the next time.

    Args:
        folder: where the results go.
        sources: the pictures.
        use: what is to be done to them, for the message.

    Raises:
        InputError: a source lies in ``folder`` or below it.

    """
    place = folder.expanduser().resolve()
    for source in sources:
        if place in source.path.expanduser().resolve().parents:
            raise InputError(
                f"the output folder {folder} holds a picture that is to be {use} ({source.path}): give another "
                "--out, so that nothing is overwritten or taken for a picture of yours, or name the pictures so that "
                "it is left out"
            )


def keep_outside(folder: Path, data: Path) -> None:
    """Refuse an output folder within a folder of data: its figures would be a class of their own the next time.

    Raises:
        InputError: ``folder`` is ``data`` or lies below it.

    """
    place, root = folder.expanduser().resolve(), data.expanduser().resolve()
    if place == root or root in place.parents:
        raise InputError(
            f"the output folder {folder} lies in the data {data}: give another --out, so that nothing is overwritten "
            "or taken for data"
        )


def check_file(path: Path) -> None:
    """Refuse what cannot become a file, before hours of work.

    Raises:
        InputError: a folder has that name, or it is too long.

    """
    file_target(path)


def stems(names: Iterable[str]) -> list[str]:
    """File names without suffix, one per picture, of which none gives the file of another or the contact sheet."""
    given = list(names)
    taken = {name.casefold() for name in given}
    found = []
    for name in given:
        stem = name
        while _clashes(stem) or (stem != name and stem.casefold() in taken):
            stem += "_"
        taken.add(stem.casefold())
        found.append(stem)
    return found


def _clashes(stem: str) -> bool:
    return stem.casefold().endswith(".overlay") or stem.casefold() == SHEET.removesuffix(".png")
