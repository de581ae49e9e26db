"""Video files among pictures: each is cut into pieces that a model takes, read when their turn comes.

A model of clips gets windows of as many frames as it takes, a model of pictures single frames; both evenly spaced over
the frames of the file, which are counted. To read a piece, the file is opened anew at the last key frame before it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from squeezecam.errors import InputError, SqueezeWarning

if TYPE_CHECKING:
    from PIL.Image import Image

    from squeezecam.data.images import ImageSource

CLIP_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".vob", ".ts", ".mts", ".m2ts", ".wmv",
    ".flv", ".ogv",
)  # fmt: skip


def is_clip(path: Path) -> bool:
    """Whether this is a video file, by its name."""
    return path.suffix.lower() in CLIP_SUFFIXES


def in_pieces(
    sources: Sequence[ImageSource], frames: int | None, each: int, failed: Callable[[str, str], None]
) -> list[ImageSource]:
    """The sources with every video file replaced by up to ``each`` pieces of it.

    Args:
        sources: from :func:`squeezecam.data.images.find_images` with ``clips=True``.
        frames: that a window has; None: single frames, for a model of pictures.
        each: pieces of a file at most; they do not overlap.
        failed: told of files that cannot be read, and why; they are left out.

    """
    from squeezecam.data.images import with_unique_names
    from squeezecam.video.reading import frame_times, probe

    found: list[ImageSource] = []
    for source in sources:
        if not is_clip(source.path) or source.index is not None:
            found.append(source)
            continue
        notes: list[str] = []
        try:
            probe(source.path)
            times = frame_times(source.path, notes)
        except InputError as error:
            failed(source.label, str(error))
            continue
        for line in notes:
            warnings.warn(line, SqueezeWarning, stacklevel=2)
        for number, first in enumerate(starts(len(times), frames or 1, each)):
            name, label = f"{source.name}_{number + 1}", f"{source.label} at {times[first] - times[0]:.2f} s"
            read = partial(_read, source.path, times[first], label, frames)
            found.append(replace(source, name=name, label=label, _read=read))
    return with_unique_names(found)


def starts(frames: int, length: int, each: int) -> list[int]:
    """With which frames pieces of ``length`` begin: up to ``each``, evenly spaced from end to end, none over another.

    Of a file that is shorter than two pieces there is one, at its beginning.
    """
    count = max(1, min(each, frames // length))
    return [(frames - length) * number // (count - 1) if number else 0 for number in range(count)]


def _read(path: Path, start: float, label: str, frames: int | None) -> Image | list[Image]:
    """A single frame, or a window; where the file ends before the window is full, its first frame stands before it, as
    ``squeezecam video`` does it.
    """
    from PIL import Image

    from squeezecam.video.reading import read_from

    wanted = frames or 1
    pictures = [Image.fromarray(frame.pixels) for frame in read_from(path, start, wanted)]
    if not pictures:
        raise InputError(f"{label}: no frame from there on can be decoded")
    return pictures[0] if frames is None else [pictures[0]] * (wanted - len(pictures)) + pictures
