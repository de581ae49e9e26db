"""Annotations of AVA-ActiveSpeaker (Roth et al., ICASSP 2020) and of WASD (Roxo et al., 2024), which has the same form.

One CSV row per face and frame: who, when, where, and whether that face speaks. `squeezecam.data.ava_folder` reads the
crops and the sound that belong to them.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from squeezecam.errors import InputError

SPEAKING = "SPEAKING_AUDIBLE"
"""The label that counts as positive; speech that cannot be heard does not."""
LABELS = ("NOT_SPEAKING", SPEAKING, "SPEAKING_NOT_AUDIBLE")
COLUMNS = (
    "video_id",
    "frame_timestamp",
    "entity_box_x1",
    "entity_box_y1",
    "entity_box_x2",
    "entity_box_y2",
    "label",
    "entity_id",
)
"""Columns of an annotation file, in the official order; predictions have `score` after them."""

TIME_TOLERANCE = 0.011
"""Seconds by which two times may differ and be the same: they are written in hundredths, rounded or cut."""
_COMMON_RATES = (25.0, 30.0, 24.0, 30000 / 1001, 24000 / 1001, 50.0, 60.0, 60000 / 1001)


@dataclass(frozen=True)
class Row:
    """One line of an annotation or prediction file: a face in a frame."""

    video_id: str
    timestamp: float  # seconds
    box: tuple[float, float, float, float]  # x1, y1, x2, y2, as fractions of the frame's width and height
    label: str
    entity_id: str
    label_id: int | None = None
    score: float | None = None


@dataclass(frozen=True)
class Entity:
    """One face over time, T frames in order of time."""

    video_id: str
    entity_id: str
    timestamps: NDArray[np.float64]  # (T,), seconds
    boxes: NDArray[np.float64]  # (T, 4): x1, y1, x2, y2, as fractions of width and height
    labels: tuple[str, ...]  # T of LABELS

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def speaking(self) -> NDArray[np.bool_]:
        """(T,): the face speaks and is heard."""
        return np.array([label == SPEAKING for label in self.labels], dtype=np.bool_)


def read_rows(path: str | Path) -> list[Row]:
    """Read a CSV in the official form, or every CSV of a folder, as the official annotations are handed out.

    Columns are found by name where there is a header, else taken in the order of `COLUMNS`, with a ninth column as
    score. Raises `InputError`, with the line, for what is not in this form.
    """
    path = Path(path)
    files = sorted(path.glob("*.csv")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"no .csv files in {path}; expected annotations in the AVA-ActiveSpeaker form")
    rows = [row for file in files for row in _read_file(file)]
    if not rows:
        raise InputError(f"{path} holds no annotation; expected rows of {', '.join(COLUMNS)}")
    return rows


def _read_file(path: Path) -> Iterator[Row]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            columns: dict[str, int] | None = None
            for number, cells in enumerate(csv.reader(file), start=1):
                if not cells:
                    continue
                if columns is None:
                    header = "frame_timestamp" in cells
                    columns = {name: i for i, name in enumerate(cells if header else (*COLUMNS, "score")[: len(cells)])}
                    absent = [name for name in COLUMNS if name not in columns]
                    if absent:
                        raise InputError(f"{path} lacks the columns {', '.join(absent)}; expected {', '.join(COLUMNS)}")
                    if header:
                        continue
                try:
                    yield _parse(cells, columns)
                except (ValueError, IndexError) as error:
                    raise InputError(f"{path}, line {number}: {error}; expected {', '.join(COLUMNS)}") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _parse(cells: list[str], columns: dict[str, int]) -> Row:
    values = {name: cells[i].strip() for name, i in columns.items()}
    if values["label"] not in LABELS:
        raise ValueError(f"the label is {values['label']!r}, not one of {', '.join(LABELS)}")
    x1, y1, x2, y2 = (float(values[name]) for name in COLUMNS[2:6])
    timestamp = float(values["frame_timestamp"])
    if not all(math.isfinite(number) for number in (timestamp, x1, y1, x2, y2)):
        raise ValueError("the timestamp or the box is not a finite number")
    return Row(
        video_id=values["video_id"],
        timestamp=timestamp,
        box=(x1, y1, x2, y2),
        label=values["label"],
        entity_id=values["entity_id"],
        label_id=int(values["label_id"]) if values.get("label_id") else None,
        score=float(values["score"]) if values.get("score") else None,
    )


def entities(rows: Iterable[Row]) -> list[Entity]:
    """Group rows into entities, in the order in which they first appear, each in order of time."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.video_id, row.entity_id), []).append(row)
    found = []
    for (video_id, entity_id), group in groups.items():
        group.sort(key=lambda row: row.timestamp)
        times = np.array([row.timestamp for row in group])
        if (np.diff(times) <= 0).any():
            raise InputError(
                f"entity {entity_id} of {video_id} is annotated twice at one time; expected one row per frame"
            )
        boxes = np.array([row.box for row in group])
        found.append(Entity(video_id, entity_id, times, boxes, tuple(row.label for row in group)))
    return found


def frame_slots(timestamps: NDArray[np.float64], fps: float | None = None) -> tuple[NDArray[np.int64], float]:
    """Return the frame numbers (T,), counted from the first frame and over gaps, and the frames a second.

    Timestamps are rounded to hundredths, so the rate is the one over the whole track, taken to be a common one (24,
    25, 29.97 ...) where the rounding allows. One frame alone counts as 25 a second.
    """
    steps = np.diff(timestamps)
    if not len(steps):
        return np.zeros(len(timestamps), dtype=np.int64), fps or 25.0
    usual = float(steps[steps < 1.5 * np.median(steps)].mean())
    slots = np.concatenate(([0], np.cumsum(np.maximum(1, np.rint(steps * (fps or 1 / usual)))))).astype(np.int64)
    if fps is None:
        span = float(timestamps[-1] - timestamps[0])
        measured = float(slots[-1]) / span
        near = min(_COMMON_RATES, key=lambda rate: abs(rate - measured))
        fps = near if abs(slots[-1] / near - span) <= TIME_TOLERANCE else measured
    return slots, fps
