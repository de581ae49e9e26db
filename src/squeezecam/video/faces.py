"""Face tracks of a clip: detections frame by frame, linked by overlap, smoothed, cut where the scene changes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from squeezecam.errors import InputError
from squeezecam.video.progress import Advance
from squeezecam.video.tracks import LARGEST_GAP, FaceTrack

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from squeezecam.video.detectors import Detections, FaceDetector
    from squeezecam.video.reading import Frame

EVERY = 2
"""Frames per detection; boxes in between are interpolated."""
OVERLAP = 0.3
"""Least intersection over union of a face with itself, one detection later."""
SHORTEST = 10
"""Frames of the shortest track that is kept."""
CERTAIN, LIKELY = 0.9, 0.7
"""Scores: the best of a track, and the least that counts as a detection at all."""
CUT = 0.5
"""Mean change of a small picture from one frame to the next, over its contrast, above which the scene is another."""
SMOOTH = 4
"""Frames on either side over which centre and size of a box are averaged, near ones more."""

_LEAST_CONTRAST = 4.0  # gray levels: noise in a black picture is no cut


@dataclass(eq=False)
class _Open:
    """A track that still grows."""

    frames: list[int] = field(default_factory=list)
    boxes: list[NDArray[np.float64]] = field(default_factory=list)
    best: float = 0.0


@dataclass
class Tracker:
    """Links boxes greedily, best overlap first; frame by frame, so that memory holds boxes and one frame at a time."""

    open: list[_Open] = field(default_factory=list)
    closed: list[_Open] = field(default_factory=list)

    def add(self, frame: int, found: Detections) -> None:
        """Take the faces of frame number ``frame``, later than all before."""
        self._close([track for track in self.open if frame - track.frames[-1] > LARGEST_GAP + 1])
        use = found.scores >= LIKELY
        boxes, scores = found.boxes[use], found.scores[use]
        overlaps = iou(np.array([t.boxes[-1] for t in self.open]).reshape(-1, 4), boxes)
        free_tracks, free_boxes = set(range(len(self.open))), set(range(len(boxes)))
        for flat in np.argsort(-overlaps, axis=None):
            i, j = divmod(int(flat), max(1, len(boxes)))
            if overlaps[i, j] < OVERLAP:
                break
            if i in free_tracks and j in free_boxes:
                self._extend(self.open[i], frame, boxes[j], float(scores[j]))
                free_tracks.discard(i)
                free_boxes.discard(j)
        for j in sorted(free_boxes):
            self.open.append(_Open())
            self._extend(self.open[-1], frame, boxes[j], float(scores[j]))

    def cut(self) -> None:
        """The scene changes: no face goes on."""
        self._close(list(self.open))

    def tracks(self) -> list[FaceTrack]:
        """What is long and certain enough, smoothed, in order of appearance, named ``face1``, ``face2``, ..."""
        self.cut()
        good = [t for t in self.closed if t.frames[-1] - t.frames[0] + 1 >= SHORTEST and t.best >= CERTAIN]
        good.sort(key=lambda track: (track.frames[0], track.boxes[0][0]))
        return [
            FaceTrack(f"face{i + 1}", np.array(t.frames, np.int64), smoothed(np.array(t.frames), np.array(t.boxes)))
            for i, t in enumerate(good)
        ]

    def _close(self, tracks: list[_Open]) -> None:
        self.closed += tracks
        self.open = [track for track in self.open if track not in tracks]

    @staticmethod
    def _extend(track: _Open, frame: int, box: NDArray[np.float64], score: float) -> None:
        track.frames.append(frame)
        track.boxes.append(box)
        track.best = max(track.best, score)


def find_tracks(
    frames: Iterable[Frame], detect: FaceDetector, advance: Advance = lambda count: None, *, every: int = EVERY
) -> tuple[list[FaceTrack], int]:
    """Tracks of the faces on the frames of a clip, and the number of scene cuts.

    Faces are looked for on every ``every``-th frame and on both sides of every cut.

    Raises:
        InputError: no face is found.

    """
    tracker, cuts, seen, last = Tracker(), 0, -1, -1
    held: Frame | None = None  # a frame that was passed over: wanted after all where the scene ends with it
    before: NDArray[np.float64] | None = None
    for frame in frames:
        last = frame.index
        small = thumbnail(frame.pixels)
        if before is not None and scene_changes(before, small):
            if held is not None:
                tracker.add(held.index, detect(held.pixels))
            tracker.cut()
            cuts, seen = cuts + 1, -1
        before, held = small, None
        if seen < 0 or frame.index - seen >= every:
            tracker.add(frame.index, detect(frame.pixels))
            seen = frame.index
        else:
            held = frame
        advance(1)
    if held is not None:
        tracker.add(held.index, detect(held.pixels))
    found = tracker.tracks()
    if not found:
        raise InputError(
            f"no face was found for at least {SHORTEST} of the {last + 1} frames: give the faces with --tracks "
            "FILE.csv, or try another --face-detector"
        )
    return found, cuts


def iou(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Intersection over union of boxes ``(m, 4)`` with boxes ``(n, 4)``: ``(m, n)``."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None] - shared
    result: NDArray[np.float64] = shared / np.maximum(union, 1e-12)
    return result


def smoothed(frames: NDArray[np.integer], boxes: NDArray[np.floating]) -> NDArray[np.float64]:
    """Boxes ``(n, 4)`` at ``frames`` ``(n,)``: centre and size averaged over ``SMOOTH`` frames on either side."""
    shape = np.concatenate([boxes[:, :2] + boxes[:, 2:], boxes[:, 2:] - boxes[:, :2]], 1) / 2  # centre, half size
    distance = np.abs(frames[:, None] - frames[None])
    weights = np.clip(1 - distance / (SMOOTH + 1), 0, None)
    # At both ends as far as the nearer one, so that a moving face is not held back there.
    reach = np.minimum(np.minimum(frames - frames[0], frames[-1] - frames), SMOOTH)
    weights = np.where(distance <= reach[:, None], weights, 0)
    mean = weights @ shape / weights.sum(1, keepdims=True)
    result: NDArray[np.float64] = np.concatenate([mean[:, :2] - mean[:, 2:], mean[:, :2] + mean[:, 2:]], 1)
    return result


def thumbnail(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """A frame as a picture of 32 x 18 pixels: what tells scenes apart, and hardly anything else."""
    small = Image.fromarray(pixels).resize((32, 18), Image.Resampling.BOX)
    return np.asarray(small, np.float64)


def scene_changes(before: NDArray[np.float64], after: NDArray[np.float64]) -> bool:
    """Whether two thumbnails of successive frames are of different scenes."""
    contrast = (before.std() + after.std()) / 2 + _LEAST_CONTRAST
    return float(np.abs(after - before).mean() / contrast) > CUT
