"""Folders of face crops, body crops and sound, as the field's training code cuts them from AVA-ActiveSpeaker and WASD.

The layout, under one root::

    csv/train_orig.csv                                   annotations, see `squeezecam.data.ava`
    csv/train_loader.csv                                 optional: frames a second of each entity
    clips_videos/train/VIDEO/ENTITY/TIMESTAMP.jpg        face crops; TIMESTAMP in seconds with two decimals
    clips_videos_body/train/VIDEO/ENTITY/TIMESTAMP.jpg   body crops (WASD)
    clips_audios/train/VIDEO/ENTITY.wav                  sound from the entity's first frame to its last
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from squeezecam.data.ava import TIME_TOLERANCE, Entity, entities, frame_slots, read_rows
from squeezecam.data.mfcc import ROWS_PER_FRAME, align, mfcc, read_wav
from squeezecam.errors import InputError, SqueezeWarning

STREAMS = ("face", "body", "audio")
_PICTURES = (".jpg", ".jpeg", ".png")
# Sound cut at the time of the last frame, and the width of the MFCC window, leave up to two frames without rows.
_SHORT_SOUND = 3


@dataclass(frozen=True)
class Track:
    """What a model takes for one entity of T frames; a stream that does not exist is None."""

    entity: Entity
    fps: float
    speaking: Tensor  # (T,) bool
    faces: Tensor | None  # (T, size, size) uint8
    face_found: Tensor  # (T,) bool: False where no crop was found, so that what stands there is a fill
    bodies: Tensor | None
    body_found: Tensor
    mfcc: Tensor | None  # (4T, 13) float32
    audio: Tensor | None  # (n,) float32 at 16 kHz, from the first frame on


class AvaFolder:
    """A data set in the folder layout of the field: a sequence of `Track`, read when asked for.

    Works as a map-style torch data set. `annotations` is a CSV, or a folder of them, if not ``csv/SPLIT_orig.csv``.
    Streams in `require` must exist for every entity (`InputError`); others are None where their file or folder is
    missing. A crop that is missing or damaged is filled from its neighbour in time (`fill` "hold") or with black
    ("zeros"); `face_found` and `body_found` say which, and a `SqueezeWarning` how many.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        annotations: str | Path | None = None,
        require: Sequence[str] = ("face", "audio"),
        size: int = 112,
        fill: str = "hold",
    ) -> None:
        self.root, self.split, self.size, self.fill, self.require = Path(root), split, size, fill, tuple(require)
        if fill not in ("hold", "zeros"):
            raise InputError(f"fill is {fill!r}; expected 'hold' or 'zeros'")
        if unknown := [name for name in self.require if name not in STREAMS]:
            raise InputError(f"require names {unknown}; expected any of {STREAMS}")
        self.annotations = Path(annotations or self.root / "csv" / f"{split}_orig.csv")
        self.entities = entities(read_rows(self.annotations))
        self.rates = _read_rates(self.root / "csv" / f"{split}_loader.csv")

    def __len__(self) -> int:
        return len(self.entities)

    def __iter__(self) -> Iterator[Track]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Track:
        entity = self.entities[index]
        slots, fps = frame_slots(entity.timestamps, self.rates.get(entity.entity_id))
        faces, face_found = self._crops("face", "clips_videos", entity)
        bodies, body_found = self._crops("body", "clips_videos_body", entity)
        audio, coefficients = self._sound(entity, slots, fps)
        speaking = torch.from_numpy(entity.speaking)
        return Track(entity, fps, speaking, faces, face_found, bodies, body_found, coefficients, audio)

    def _sound(self, entity: Entity, slots: NDArray[np.int64], fps: float) -> tuple[Tensor, Tensor] | tuple[None, None]:
        path = self._path("clips_audios", entity, ".wav")
        audio = read_wav(path)[0] if path.is_file() else torch.empty(0)
        if not len(audio):
            if "audio" in self.require:
                raise InputError(
                    f"entity {entity.entity_id} has no sound at {path}; to go on without, leave audio out of require"
                )
            return None, None
        coefficients = mfcc(audio, fps=fps)
        frames = int(slots[-1]) + 1
        if len(coefficients) < ROWS_PER_FRAME * (frames - _SHORT_SOUND):
            warnings.warn(
                f"{path} holds sound for {len(coefficients) // ROWS_PER_FRAME} of {frames} frames; the rest repeats it",
                SqueezeWarning,
                stacklevel=3,
            )
        return audio, rows_of_frames(coefficients, slots)

    def _path(self, tree: str, entity: Entity, suffix: str = "") -> Path:
        if any(part in ("", ".", "..") or {"/", "\\"} & set(part) for part in (entity.video_id, entity.entity_id)):
            raise InputError(f"entity {entity.entity_id!r} of {entity.video_id!r} cannot name a file")
        folder = self.root / tree / self.split / entity.video_id
        plain = folder / (entity.entity_id + suffix)
        # AVA's ids hold a colon, which some file systems do not take
        other = folder / (entity.entity_id.replace(":", "_") + suffix)
        return other if other.exists() and not plain.exists() else plain

    def _crops(self, stream: str, tree: str, entity: Entity) -> tuple[Tensor | None, Tensor]:
        folder, count = self._path(tree, entity), len(entity)
        files = _match(folder, entity.timestamps)
        pictures = [None if file is None else _read_gray(file, self.size) for file in files]
        found = torch.tensor([picture is not None for picture in pictures])
        if not found.any():
            if stream in self.require:
                raise InputError(
                    f"entity {entity.entity_id} has no {stream} crops for its {count} frames in {folder}; "
                    f"expected pictures named by the time, as {entity.timestamps[0]:.2f}.jpg"
                )
            return None, found
        if not found.all():
            missing = count - int(found.sum())
            warnings.warn(
                f"{missing} of {count} {stream} crops of entity {entity.entity_id} are missing or damaged; "
                f"filled by '{self.fill}'",
                SqueezeWarning,
                stacklevel=3,
            )
        held = _nearest_earlier(found) if self.fill == "hold" else list(range(count))
        blank = np.zeros((self.size, self.size), np.uint8)
        stack = [blank if (picture := pictures[i]) is None else picture for i in held]
        return torch.from_numpy(np.stack(stack)), found


def rows_of_frames(coefficients: Tensor, slots: NDArray[np.int64]) -> Tensor:
    """Return the four rows of each frame, (4T, C), from rows that start at frame 0; `slots` (T,) are frame numbers."""
    whole = align(coefficients, int(slots[-1]) + 1)
    index = torch.from_numpy(slots)[:, None] * ROWS_PER_FRAME + torch.arange(ROWS_PER_FRAME)
    chosen: Tensor = whole[index.flatten()]
    return chosen


def _nearest_earlier(found: Tensor) -> list[int]:
    """For every frame the last one before it (or itself) that was found; at the start, the first one that was."""
    last = int(found.nonzero()[0, 0])
    held = []
    for i, there in enumerate(found.tolist()):
        last = i if there else last
        held.append(last)
    return held


def _match(folder: Path, timestamps: NDArray[np.float64]) -> list[Path | None]:
    """Return the picture of each frame by the time in its name, or None."""
    times: list[tuple[float, Path]] = []
    for file in folder.iterdir() if folder.is_dir() else ():
        if file.suffix.lower() in _PICTURES:
            try:
                times.append((float(file.stem), file))
            except ValueError:
                continue  # a picture that is not named by a time is not a frame
    if not times:
        return [None] * len(timestamps)
    times.sort()
    stamps = np.array([t for t, _ in times])
    right = np.searchsorted(stamps, timestamps).clip(1, max(1, len(stamps) - 1))
    left = right - 1
    right = right.clip(max=len(stamps) - 1)
    nearest = np.where(np.abs(stamps[left] - timestamps) <= np.abs(stamps[right] - timestamps), left, right)
    return [
        times[k][1] if abs(stamps[k] - t) <= TIME_TOLERANCE else None for k, t in zip(nearest, timestamps, strict=True)
    ]


def _read_gray(path: Path, size: int) -> NDArray[np.uint8] | None:
    """Decode one crop, (size, size), squashed as in the field's code; None where it is empty or damaged."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            gray = picture.convert("L")
            gray = gray if gray.size == (size, size) else gray.resize((size, size), Image.Resampling.BILINEAR)
            return np.asarray(gray, dtype=np.uint8)
    except (OSError, SyntaxError, ValueError):  # what decoders raise, by the damage
        return None


def _read_rates(path: Path) -> dict[str, float]:
    """Read frames a second per entity from the field's list: entity, frames, rate, labels, separated by tabs."""
    if not path.is_file():
        return {}
    rates: dict[str, float] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        cells = line.split("\t")
        try:
            rates[cells[0]] = float(cells[2])
        except (IndexError, ValueError) as error:
            raise InputError(
                f"{path}, line {number}: expected entity, frames, frames a second, labels, by tabs"
            ) from error
    return rates
