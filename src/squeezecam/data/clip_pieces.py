"""Video files among pictures: each is cut into pieces that a model takes, read when their turn comes.

A model of clips gets windows of as many frames as it takes, a model of pictures single frames; both evenly spaced over
the file. To read a piece, the file is opened anew at the last key frame before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from squeezecam.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from squeezecam.data.images import ImageSource

CLIP_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv")


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
    from squeezecam.video.reading import probe

    found: list[ImageSource] = []
    for source in sources:
        if not is_clip(source.path) or source.index is not None:
            found.append(source)
            continue
        try:
            info = probe(source.path)
        except InputError as error:
            failed(source.label, str(error))
            continue
        length = (frames or 1) / float(info.rate)
        for number, start in enumerate(starts(info.seconds, length, each)):
            name, label = f"{source.name}_{number + 1}", f"{source.label} at {start:.2f} s"
            read = partial(_read, source.path, start, frames)
            found.append(replace(source, name=name, label=label, _read=read))
    return found


def starts(seconds: float, length: float, each: int) -> list[float]:
    """When pieces of ``length`` seconds begin: up to ``each``, evenly spaced from end to end, none over another.

    Where the file is shorter than two pieces, or does not say how long it is, there is one, at its beginning.
    """
    count = max(1, min(each, int(seconds / length + 1e-6)))
    if count == 1:
        return [0.0]
    return [(seconds - length) * number / (count - 1) for number in range(count)]


def _read(path: Path, start: float, frames: int | None) -> Image | list[Image]:
    """A single frame, or a window; where the file ends before the window is full, its first frame stands before it, as
    ``squeezecam video`` does it.
    """
    from PIL import Image

    from squeezecam.video.reading import read_from

    wanted = frames or 1
    pictures = [Image.fromarray(frame.pixels) for frame in read_from(path, start, wanted)]
    if not pictures:
        raise InputError(f"{path} holds no frame at {start:.2f} s that can be decoded")
    return pictures[0] if frames is None else [pictures[0]] * (wanted - len(pictures)) + pictures
