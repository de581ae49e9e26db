"""Where the objects are: a boxes file, its subsets, and boxes of the original picture in the network's frame."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import torch
from torch import Tensor

from squeezecam.data.geometry import Box
from squeezecam.errors import InputError

CORNERS = ("x0", "y0", "x1", "y1")
SLACK = 1.0
"""Pixels by which a box may reach beyond its picture: corners are rounded, and counted from 0 or from 1."""
UNIT = "boxes have to be in pixels of the image file"
_FALSE = {"", "0", "0.0", "false", "no", "n", "none"}


@dataclass
class BoxFile:
    """Boxes by picture file.

    Attributes:
        path: the CSV.
        boxes: per file name as written, ``(x0, y0, x1, y1)`` in pixels of the image file.
        flags: per subset column the file names with a true value in any of their rows.

    """

    path: Path
    boxes: dict[str, list[Box]] = field(default_factory=dict)
    flags: dict[str, set[str]] = field(default_factory=dict)

    def key(self, picture: Path) -> str | None:
        """The name under which the file has ``picture``: the end of its path, or its name without suffix; else None."""
        parts = picture.parts
        for start in range(len(parts)):
            name = "/".join(parts[start:])
            if name in self.boxes:
                return name
        return picture.stem if picture.stem in self.boxes else None


def read_boxes(path: Path) -> BoxFile:
    """A CSV with the columns ``file, x0, y0, x1, y1``; any other column can name a subset.

    Raises:
        InputError: it cannot be read, lacks a column, or a row is no box; the line is named.

    """
    found = BoxFile(Path(path))
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = names
            missing = [name for name in ("file", *CORNERS) if name not in names]
            if missing:
                raise InputError(
                    f"boxes file {path} lacks the column {', '.join(missing)}; expected is a head file,x0,y0,x1,y1, "
                    f"found {', '.join(names) or 'nothing'}"
                )
            others = [name for name in names if name not in ("file", *CORNERS)]
            found.flags = {name: set() for name in others}
            for row in reader:
                name = str(PurePath((row["file"] or "").strip().replace("\\", "/")))
                found.boxes.setdefault(name, []).append(_box(row, path, reader.line_num))
                for flag in others:
                    if (row[flag] or "").strip().casefold() not in _FALSE:
                        found.flags[flag].add(name)
    except OSError as error:
        raise InputError(f"boxes file {path} cannot be read: {(error.strerror or str(error)).lower()}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"boxes file {path} is no CSV text: {error}") from None
    if not found.boxes:
        raise InputError(f"boxes file {path} has no rows")
    return found


def _box(row: dict[str, str | None], path: Path, line: int) -> Box:
    try:
        x0, y0, x1, y1 = (float(row[corner] or "") for corner in CORNERS)
    except ValueError:
        raise InputError(f"boxes file {path}, line {line}: x0, y0, x1, y1 must be numbers") from None
    if not all(map(math.isfinite, (x0, y0, x1, y1))) or x1 <= x0 or y1 <= y0:
        raise InputError(f"boxes file {path}, line {line}: expected x0 < x1 and y0 < y1, got {x0}, {y0}, {x1}, {y1}")
    return x0, y0, x1, y1


def misplaced(boxes: list[Box], seen: Box, width: int, height: int) -> list[str]:
    """What is wrong with each box that says little of a picture of ``width`` by ``height``, one line for each.

    It reaches beyond the picture by more than `SLACK`, lies outside, or in what the preprocessing cuts away.
    """
    found = []
    for x0, y0, x1, y1 in boxes:
        box, size = f"box {x0:g},{y0:g},{x1:g},{y1:g}", f"the picture, which has {width}x{height} pixels"
        if x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
            found.append(f"{box} lies outside {size}, and is left out: {UNIT}")
        elif min(x0, y0) < -SLACK or x1 > width + SLACK or y1 > height + SLACK:
            found.append(f"{box} reaches beyond {size}, and is cut off there: {UNIT}")
        elif x0 >= seen[2] or y0 >= seen[3] or x1 <= seen[0] or y1 <= seen[1]:
            part = ",".join(f"{value:g}" for value in seen)
            found.append(f"{box} lies in what the preprocessing cuts away (it shows {part}), and is left out")
    return found


def in_frame(
    boxes: list[Box], seen: Box, width: int, height: int, mirrored: tuple[bool, bool] = (False, False)
) -> Tensor:
    """Boxes in pixels of the original as ``(B, 4)`` in pixels of what the network sees, ``width`` by ``height``.

    ``seen`` is the part of the original that fills the frame. What lies outside is cut off; a box without any part
    inside is left out. ``mirrored`` says whether the frame shows that part left to right, and upside down.
    """
    across, down = width / (seen[2] - seen[0]), height / (seen[3] - seen[1])
    rows = []
    for x0, y0, x1, y1 in boxes:
        row = [(x0 - seen[0]) * across, (y0 - seen[1]) * down, (x1 - seen[0]) * across, (y1 - seen[1]) * down]
        row = [min(max(value, 0.0), float(limit)) for value, limit in zip(row, (width, height) * 2, strict=True)]
        if mirrored[0]:
            row[0], row[2] = width - row[2], width - row[0]
        if mirrored[1]:
            row[1], row[3] = height - row[3], height - row[1]
        if row[2] > row[0] and row[3] > row[1]:
            rows.append(row)
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)


def mask_in_frame(mask: Tensor, seen: Box, width: int, height: int) -> Tensor:
    """A mask ``(H, W)`` in pixels of the original as ``(height, width)`` bool of what the network sees.

    Each pixel takes the value of the original's pixel that its centre falls into; outside the original it is False.
    """
    x = (seen[0] + (torch.arange(width) + 0.5) * (seen[2] - seen[0]) / width).floor().long()
    y = (seen[1] + (torch.arange(height) + 0.5) * (seen[3] - seen[1]) / height).floor().long()
    rows, columns = mask.shape
    shown = (mask != 0)[y.clamp(0, rows - 1)][:, x.clamp(0, columns - 1)]
    inside = ((y >= 0) & (y < rows))[:, None] & ((x >= 0) & (x < columns))[None]
    return shown & inside
