"""Face tracks with their sound, window by window: crops and maps on disk, scores and shares in memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from squeezecam.commands.video import VideoOptions
from squeezecam.data.mfcc import ROWS_PER_FRAME, SAMPLE_RATE, align, mfcc
from squeezecam.errors import FitError
from squeezecam.fit.api import MINIMUM
from squeezecam.module import Squeeze
from squeezecam.streams import StreamImportance, importance
from squeezecam.video.drawing import Seconds
from squeezecam.video.reading import Frame
from squeezecam.video.spool import Spool
from squeezecam.video.tracks import RATE, FaceTrack, at_rate, crop_face, lies_outside
from squeezecam.wording import number_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

WINDOW, CONTEXT = 100, 25
"""Frames that are explained at once, and frames before and after them that the model sees as well (25 a second)."""
FIT_FRAMES, FIT_WINDOWS = 25, 40
SPEAKING = 1
VALUES = ("speaking", "mass_face", "mass_audio", "lost_without_face", "lost_without_audio", "score")
"""What is kept for every face and moment."""


@dataclass(frozen=True)
class Sound:
    """One signal ``(n,)``, its rate, and when its first sample is heard, on the clock of the frames."""

    samples: NDArray[np.float32]
    rate: int = SAMPLE_RATE
    start: float = 0.0

    def rows(self, begin: float, frames: int) -> Tensor:
        """Coefficients ``(4 frames, 13)`` from ``begin`` seconds on; silence where there is no sound."""
        first = round((begin - self.start) * self.rate)
        # one more window of the coefficients than the frames need, so that the last frame has all its rows
        count = round(frames / RATE * self.rate) + self.rate // 40
        piece = np.zeros(count, np.float32)
        left, right = max(first, 0), min(first + count, len(self.samples))
        if right > left:
            piece[left - first : right - first] = self.samples[left:right]
        return align(mfcc(torch.from_numpy(piece)), frames)


@dataclass
class Shown:
    """What figures are made of: coefficients ``(F, T)`` and the sound's map of one window."""

    begin: float
    coefficients: NDArray[np.float32]
    heat: NDArray[np.float32]


@dataclass
class Store:
    """Crops and maps of all tracks on disk, and in which row the face of a slot lies."""

    crops: Spool
    maps: Spool
    crop_rows: dict[tuple[int, int], int] = field(default_factory=dict)
    map_rows: dict[tuple[int, int], int] = field(default_factory=dict)
    values: dict[tuple[int, int], tuple[float, ...]] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)
    windows: list[StreamImportance] = field(default_factory=list)
    other: list[StreamImportance] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    heard: dict[int, Shown] = field(default_factory=dict)
    outside: dict[int, list[int]] = field(default_factory=dict)
    """Of each track the frames in which its box lies outside the picture."""
    size: tuple[int, int] = (0, 0)
    """Width and height of the frames."""


def collect(frames: Iterator[Frame], faces: list[FaceTrack], store: Store, advance: Any, booked: Seconds) -> None:
    """Crops at 25 frames a second to disk, and the times of all frames; boxes outside the picture are left out."""
    mark = time.perf_counter()

    def noted() -> Iterator[Frame]:
        for frame in frames:
            store.times.append(frame.seconds)
            store.size = frame.pixels.shape[1], frame.pixels.shape[0]
            for index, track in enumerate(faces):
                box = track.box(frame.index)
                if box is not None and lies_outside(box, *store.size):
                    store.outside.setdefault(index, []).append(frame.index)
            advance(1)
            yield frame

    for slot, frame in at_rate(noted()):
        mark = booked.add("decoding", mark)
        for index, track in enumerate(faces):
            box = track.box(frame.index)
            if box is not None and not lies_outside(box, *store.size):
                store.crop_rows[index, slot] = len(store.crops)
                store.crops.append(crop_face(frame.pixels, box)[None])
        mark = booked.add("cropping", mark)


def inputs_of(
    store: Store, index: int, begin: int, end: int, sound: Sound, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Faces ``(1, T, 112, 112)`` and coefficients ``(1, 4 T, 13)`` of the slots ``begin`` to ``end``."""
    crops = np.stack([store.crops[store.crop_rows[index, slot]] for slot in range(begin, end)])
    rows = sound.rows(store.times[0] + begin / RATE, end - begin)
    return torch.from_numpy(crops)[None].to(device), rows[None].to(device)


def fit_if_needed(
    squeeze: Squeeze,
    store: Store,
    segments: list[tuple[int, int, int]],
    sound: Sound,
    notes: list[str],
    booked: Seconds,
) -> str:
    """Without an adapter the blocks are fitted on the clip itself: no labels are needed, and it takes seconds."""
    if squeeze.fitted:
        return ""
    mark = time.perf_counter()
    device = next(squeeze.parameters()).device
    total = sum(max(0, end - begin - FIT_FRAMES + 1) for _, begin, end in segments)
    step = max(4, total // FIT_WINDOWS)
    starts = [(i, at) for i, begin, end in segments for at in range(begin, end - FIT_FRAMES + 1, step)]
    if len(starts) < MINIMUM:
        notes.append(
            "the blocks are not fitted, so that their gates select nothing: a fit on the clip itself takes at least "
            f"{MINIMUM} windows of {FIT_FRAMES / RATE:g} s with a face, and there "
            f"{'is' if len(starts) == 1 else 'are'} {len(starts)}; give a longer clip, or --adapter FILE"
        )
        return ""
    batches = (inputs_of(store, i, at, at + FIT_FRAMES, sound, device) for i, at in starts)
    try:
        report = squeeze.fit(batches, progress=False)
    except FitError as error:
        notes.append(f"the blocks are not fitted, so that their gates select nothing: {error}")
        return ""
    booked.add("fit", mark)
    notes.append(
        f"no adapter: the blocks were fitted on this clip, without labels ({number_of(len(starts), 'window')}; with "
        f"the blocks in the path {report.unchanged:.1%} of the held-out frames stay as they are)"
    )
    return ", fitted on this clip"


def explain_run(
    squeeze: Squeeze, store: Store, index: int, begin: int, end: int, sound: Sound, other: Sound | None,
    options: VideoOptions, booked: Seconds,
) -> Iterator[int]:  # fmt: skip
    """Windows of one unbroken run of a track: native maps to disk, scores and shares to memory."""
    device = next(squeeze.parameters()).device
    target = SPEAKING if options.target is None else options.target
    for at in range(begin, end, WINDOW):
        stop = min(at + WINDOW, end)
        low, high = max(begin, at - CONTEXT), min(end, stop + CONTEXT)
        mark = time.perf_counter()
        inputs = inputs_of(store, index, low, high, sound, device)
        mark = booked.add("crops and coefficients", mark)
        with torch.no_grad():
            squeeze.eval()
            captured = squeeze.capture(inputs)
        explanation = squeeze.explain(
            inputs,
            method=options.method,
            target=target if options.method is not None else None,
            keep=options.keep,
            aggregate=options.aggregate,
            captured=captured,
            size=1,
        )
        mark = booked.add("model and map", mark)
        found = importance(squeeze, inputs, target=target, keep=options.keep, captured=captured)
        mark = booked.add("importance", mark)
        store.windows.append(found)
        store.names.append(explanation.method)
        if other is not None:
            swapped = (inputs[0], other.rows(low / RATE, high - low)[None].to(device))
            store.other.append(importance(squeeze, swapped, target=target, keep=options.keep))
            mark = booked.add("the other sound", mark)
        assert explanation.scores is not None
        inside = slice(at - low, stop - low)
        maps = explanation.raw["face"][0, inside].float().cpu().numpy()
        speaking = explanation.scores[0].float().softmax(-1)[inside, SPEAKING].tolist()
        zero, mass = (found.moments[name][0, inside].tolist() for name in ("zero", "mass"))
        assert found.curve is not None
        curve = found.curve[0, inside].tolist()
        for i, slot in enumerate(range(at, stop)):
            store.map_rows[index, slot] = len(store.maps) + i
            store.values[index, slot] = (speaking[i], *mass[i], *zero[i], curve[i])
        store.maps.append(maps)
        if index not in store.heard:
            rows = slice(ROWS_PER_FRAME * inside.start, ROWS_PER_FRAME * inside.stop)
            heat = explanation.raw["audio"][0, :, inside].float().cpu().numpy()
            store.heard[index] = Shown(at / RATE, inputs[1][0, rows].T.cpu().numpy(), heat)
        yield stop - at
