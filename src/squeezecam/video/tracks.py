"""Face tracks: a CSV of boxes per frame, brought to the 25 frames a second that active-speaker models take."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from squeezecam.errors import InputError
from squeezecam.files import write_text
from squeezecam.models.light_asd import FACE_SIZE
from squeezecam.video.reading import Frame

if TYPE_CHECKING:
    from numpy.typing import NDArray

COLUMNS = ("frame", "track", "x0", "y0", "x1", "y1")
RATE = 25
"""Frames a second of the models."""
LARGEST_GAP = 12
"""Frames of the clip without a box that are bridged by going straight from box to box."""
_OUTSIDE = 110  # gray of what lies outside the picture, as in the field's demonstrations
_GRAY = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class FaceTrack:
    """One face: the frames ``(n,)`` in rising order and its boxes ``(n, 4)`` as x0, y0, x1, y1 in pixels."""

    name: str
    frames: NDArray[np.int64]
    boxes: NDArray[np.float64]

    def box(self, frame: int) -> tuple[float, float, float, float] | None:
        """The box at a frame, interpolated over short gaps; None where the face is not there."""
        at = int(np.searchsorted(self.frames, frame))
        if at < len(self.frames) and self.frames[at] == frame:
            x0, y0, x1, y1 = self.boxes[at].tolist()
            return x0, y0, x1, y1
        if at in (0, len(self.frames)) or self.frames[at] - self.frames[at - 1] > LARGEST_GAP + 1:
            return None
        share = (frame - self.frames[at - 1]) / (self.frames[at] - self.frames[at - 1])
        x0, y0, x1, y1 = ((1 - share) * self.boxes[at - 1] + share * self.boxes[at]).tolist()
        return x0, y0, x1, y1


def read_tracks(path: str | Path) -> list[FaceTrack]:
    """Tracks of a CSV ``frame,track,x0,y0,x1,y1``: frame numbers from 0, pixels of the upright video.

    The box is what the model sees, squashed to 112 x 112: tight around the face from brow to chin, as in
    AVA-ActiveSpeaker.

    Raises:
        InputError: no such file, a missing column, or a row that is no box.

    """
    found: dict[str, dict[int, list[float]]] = {}
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise InputError(f"{path} lacks the columns {', '.join(missing)}; expected {','.join(COLUMNS)}")
            for row in reader:
                frame, box = _row(row, path, reader.line_num)
                boxes = found.setdefault(str(row["track"]).strip(), {})
                if frame in boxes:
                    raise InputError(f"{path}, line {reader.line_num}: track {row['track']} has frame {frame} twice")
                boxes[frame] = box
    except OSError as error:
        raise InputError(f"cannot read the face tracks {path}: {(error.strerror or str(error)).lower()}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV in UTF-8: {error}") from None
    if not found:
        raise InputError(f"{path} holds no boxes: expected one row per frame and face, {','.join(COLUMNS)}")
    tracks = []
    for name, boxes in found.items():
        order = sorted(boxes)
        tracks.append(FaceTrack(name, np.array(order, np.int64), np.array([boxes[i] for i in order], np.float64)))
    return tracks


def write_tracks(path: str | Path, tracks: Sequence[FaceTrack]) -> Path:
    """Tracks as the CSV that :func:`read_tracks` takes; returns its path.

    Raises:
        InputError: the file cannot be written.

    """
    lines = [",".join(COLUMNS)]
    for track in tracks:
        for frame, box in zip(track.frames.tolist(), track.boxes.tolist(), strict=True):
            lines.append(f"{frame},{track.name}," + ",".join(f"{edge:.2f}" for edge in box))
    return write_text(path, "\n".join(lines) + "\n")


def _row(row: dict[str, Any], path: str | Path, line: int) -> tuple[int, list[float]]:
    try:
        frame, box = int(row["frame"]), [float(row[name]) for name in COLUMNS[2:]]
    except (TypeError, ValueError):
        raise InputError(f"{path}, line {line}: frame must be a whole number and x0, y0, x1, y1 numbers") from None
    if frame < 0 or not np.isfinite(box).all() or box[2] - box[0] < 1 or box[3] - box[1] < 1:
        raise InputError(
            f"{path}, line {line}: frame {frame}, box {box}; expected frame >= 0, x1 > x0 and y1 > y0 in pixels"
        )
    return frame, box


def at_rate(frames: Iterable[Frame], rate: float = RATE) -> Iterator[tuple[int, Frame]]:
    """Frames at a steady rate, ``(slot, frame)``: slot k lies ``k / rate`` seconds after the first frame, and the
    frame nearest in time stands in it, so that frames are repeated or left out.
    """
    previous: Frame | None = None
    start, slot = 0.0, 0
    for frame in frames:
        if previous is None:
            start = frame.seconds
        else:
            middle = (previous.seconds + frame.seconds) / 2
            while start + slot / rate < middle:
                yield slot, previous
                slot += 1
        previous = frame
    if previous is not None:
        while start + slot / rate <= previous.seconds + 0.5 / rate:
            yield slot, previous
            slot += 1


def crop_face(pixels: NDArray[np.uint8], box: tuple[float, float, float, float]) -> NDArray[np.uint8]:
    """The box of a frame ``(H, W, 3)`` as the models were trained on it: gray, bilinear, uint8 ``(112, 112)``."""
    x0, y0, x1, y1 = _corners(box)
    height, width = pixels.shape[:2]
    part = np.full((y1 - y0, x1 - x0), _OUTSIDE, np.float32)
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    if right > left and bottom > top:
        inside = pixels[top:bottom, left:right].astype(np.float32) @ _GRAY
        part[top - y0 : bottom - y0, left - x0 : right - x0] = inside
    # Without smoothing beforehand, as the crops of the training data were made.
    small = F.interpolate(torch.from_numpy(part)[None, None], (FACE_SIZE, FACE_SIZE), mode="bilinear")
    return np.asarray(small[0, 0].round().clamp(0, 255).to(torch.uint8).numpy())


def lies_outside(box: tuple[float, float, float, float], width: int, height: int) -> bool:
    """Whether no pixel of a frame is in the box, so that a crop would show nothing."""
    x0, y0, x1, y1 = _corners(box)
    return x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height


def _corners(box: tuple[float, float, float, float]) -> tuple[int, int, int, int]:
    """The box between whole pixels, at least one wide and high."""
    x0, y0, x1, y1 = (int(np.floor(edge + 0.5)) for edge in box)
    return x0, y0, max(x0 + 1, x1), max(y0 + 1, y1)


def runs(slots: Iterable[int]) -> list[tuple[int, int]]:
    """Unbroken runs of rising slots, as (first, one past the last)."""
    found: list[tuple[int, int]] = []
    for slot in slots:
        if found and found[-1][1] == slot:
            found[-1] = (found[-1][0], slot + 1)
        else:
            found.append((slot, slot + 1))
    return found
