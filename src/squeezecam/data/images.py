"""Finding pictures: files, folders, globs and ``.npz`` archives become one list of named sources."""

from __future__ import annotations

import glob
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from squeezecam.data.archive import Archive
from squeezecam.data.clip_pieces import CLIP_SUFFIXES
from squeezecam.data.pixels import DEFAULT_MAX_PIXELS, SUFFIXES, WHITE, display, read_image, to_rgb
from squeezecam.data.spec import Spec, parse
from squeezecam.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["DEFAULT_MAX_PIXELS", "SUFFIXES", "ImageSource", "find_images", "read_image", "safe_name", "to_rgb"]

_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{digit}" for port in ("com", "lpt") for digit in range(10))}
_MAX_NAME_BYTES = 120


@dataclass(frozen=True)
class ImageSource:
    """One picture, or window of a clip, that can be read when it is needed.

    Attributes:
        name: unique within the list it came in (upper and lower case taken as one), safe as a file name on any system.
        label: for people: the path, or ``archive.npz[3]``.
        path: the file that the picture is in.
        index: its place in an ``.npz`` archive; None for a picture file.
        target: its entry of the archive's ``labels``, or its one class in a data set; None where there is none.
    """

    name: str
    label: str
    path: Path
    index: int | None
    target: int | str | None
    _read: Callable[[], Image.Image | list[Image.Image]]

    def read(self) -> Image.Image:
        """Read the picture: upright RGB, 8 bits (see `squeezecam.data.images.read_image`); of a window its first.

        Raises:
            InputError: the file is missing, damaged, no picture or too large.
        """
        found = self._read()
        return found[0] if isinstance(found, list) else found

    def read_all(self) -> Image.Image | list[Image.Image]:
        """Read it as a model takes it: the picture, or the pictures of a window.

        Raises:
            InputError: as of `read`.
        """
        return self._read()


def find_images(
    sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
    background: tuple[int, int, int] = WHITE,
    fitting: bool = False,
    clips: bool = False,
) -> list[ImageSource]:
    """List the pictures that ``sources`` name, in the order given.

    A source is

    * a picture file, of any suffix; a missing one becomes a source whose `read` says so, and does not stop the rest;
    * a folder, searched with its subfolders for the known suffixes, sorted naturally (``2.jpg`` before ``10.jpg``),
      hidden files left out;
    * a pattern that the shell did not expand: ``"photos/*.jpg"``, with ``**`` for subfolders;
    * an ``.npz`` archive: see `squeezecam.data.archive.Archive`;
    * a data set, ``"cub:FOLDER"`` or ``"cub@train:FOLDER"``: see `squeezecam.data.sets.open_set`, also for
      what ``fitting`` means for one.

    With ``clips`` video files count too; a model takes them after `squeezecam.data.clip_pieces.in_pieces`.

    Raises:
        InputError: no source, a folder or pattern without pictures, an archive or a data set that cannot be used.
    """
    given = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    if not given:
        raise InputError("no images given; give files, folders, patterns such as 'photos/*.jpg', or an .npz archive")
    found: list[ImageSource] = []
    for source in given:
        found.extend(_expand(source, max_pixels, background, fitting, SUFFIXES + (CLIP_SUFFIXES if clips else ())))
    return with_unique_names(found)


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key under which numbers in a text count by value: ``a2`` before ``a10``."""
    parts = re.split(r"([0-9]+)", text.casefold())
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts if part)


def safe_name(text: str) -> str:
    """``text`` as a file name without suffix that every system accepts: nothing reserved, no space, up to 120 bytes."""
    cleaned = unicodedata.normalize("NFC", text)
    cleaned = "".join("_" if c in '<>:"/\\|?*%' or c.isspace() or not c.isprintable() else c for c in cleaned)
    cleaned = cleaned.encode("utf-8", errors="ignore")[:_MAX_NAME_BYTES].decode("utf-8", errors="ignore").strip(".-_ ")
    if cleaned.split(".")[0].casefold() in _RESERVED:
        cleaned = f"_{cleaned}"
    return cleaned or "image"


def _expand(
    source: str | os.PathLike[str],
    max_pixels: int | None,
    background: tuple[int, int, int],
    fitting: bool,
    suffixes: tuple[str, ...],
) -> Iterator[ImageSource]:
    text = os.fspath(source)
    if not text:
        raise InputError("an empty file name was given as image")
    spec = parse(text)
    if spec is not None:
        yield from _set_sources(spec, max_pixels, background, fitting)
        return
    path = Path(text).expanduser()
    if path.is_dir():
        files = _in_folder(path, suffixes)
        if not files:
            raise InputError(f"no images in the folder {display(path)}; {_looked_for(suffixes)}")
    elif path.exists() or path.is_symlink() or not glob.has_magic(text):
        files = [path]
    else:
        files = _matching(str(path), suffixes)
        if not files:
            raise InputError(f"no images match {text!r}; {_looked_for(suffixes)}")
    for file in files:
        if file.suffix.lower() == ".npz" and file.exists():
            yield from _archive_sources(file, max_pixels, background)
        else:
            yield _file_source(file, max_pixels, background)


def _file_source(path: Path, max_pixels: int | None, background: tuple[int, int, int]) -> ImageSource:
    read = partial(read_image, path, max_pixels=max_pixels, background=background)
    return ImageSource(safe_name(display(path.stem)), display(path), path, None, None, read)


def _archive_sources(path: Path, max_pixels: int | None, background: tuple[int, int, int]) -> Iterator[ImageSource]:
    archive = Archive(path, max_pixels=max_pixels, background=background)
    stem, digits = safe_name(display(path.stem)), len(str(len(archive) - 1))
    for index, target in enumerate(archive.targets):
        label = f"{display(path)}[{index}]"
        yield ImageSource(f"{stem}_{index:0{digits}d}", label, path, index, target, partial(archive.read, index))


def _set_sources(
    spec: Spec, max_pixels: int | None, background: tuple[int, int, int], fitting: bool
) -> Iterator[ImageSource]:
    from squeezecam.data.sets import open_set

    found = open_set(spec, fitting=fitting)
    for record in found.records:
        target = record.labels[0] if len(record.labels) == 1 and not found.multilabel else None
        yield replace(_file_source(record.path, max_pixels, background), target=target)


def _looked_for(suffixes: tuple[str, ...]) -> str:
    return f"looked for files that end in {' '.join(suffixes)}"


def _in_folder(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise InputError(f"cannot read the folder {error.filename}: {(error.strerror or str(error)).lower()}") from None

    files: list[Path] = []
    seen = {os.path.realpath(folder)}
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        # Links to folders are followed (data sets are often assembled from them), a loop of links once.
        kept = []
        for name in folders:
            real = os.path.realpath(os.path.join(place, name))
            if not name.startswith(".") and name != "__MACOSX" and real not in seen:
                seen.add(real)
                kept.append(name)
        folders[:] = kept
        files += [Path(place, name) for name in names if _is_wanted(name, suffixes)]
    return sorted(files, key=lambda file: [natural_key(part) for part in file.parts])


def _matching(pattern: str, suffixes: tuple[str, ...]) -> list[Path]:
    files: list[Path] = []
    for match in sorted(glob.glob(pattern, recursive=True), key=natural_key):
        path = Path(match)
        if path.is_dir():
            # "**" matches a folder and its files: only a pattern that ends in plain names means the folder's content.
            files += [] if "**" in pattern else _in_folder(path, suffixes)
        elif _is_wanted(path.name, suffixes) or path.suffix.lower() == ".npz":
            files.append(path)
    return files


def _is_wanted(name: str, suffixes: tuple[str, ...]) -> bool:
    return not name.startswith(".") and name.lower().endswith(suffixes)


def with_unique_names(found: list[ImageSource]) -> list[ImageSource]:
    """Tell sources of one name apart by suffix, then folder, then both, then number."""
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for place, source in enumerate(found):
        groups[source.name.casefold()].append(place)
    names = [source.name for source in found]
    for members in groups.values():
        if len(members) > 1:
            for longer in (_with_suffix, _with_folder, lambda source: _with_suffix(source, _with_folder(source))):
                proposed = [longer(found[place]) for place in members]
                if len({name.casefold() for name in proposed}) == len(members):
                    break
            for place, name in zip(members, proposed, strict=True):
                names[place] = name
    # Names that were alone keep theirs; only what was made longer, or is twice the same file, may need a number.
    taken = {names[members[0]].casefold() for members in groups.values() if len(members) == 1}
    for members in groups.values():
        if len(members) == 1:
            continue
        for place in members:
            base, number = names[place], 1
            while names[place].casefold() in taken:
                number += 1
                names[place] = f"{base}_{number}"
            taken.add(names[place].casefold())
    return [replace(source, name=name) for source, name in zip(found, names, strict=True)]


def _with_suffix(source: ImageSource, name: str | None = None) -> str:
    base, suffix = name or source.name, source.path.suffix.lower().lstrip(".")
    return safe_name(f"{base}_{suffix}") if suffix else base


def _with_folder(source: ImageSource) -> str:
    folder = display(source.path.absolute().parent.name)
    return safe_name(f"{folder}_{source.name}") if folder else source.name
