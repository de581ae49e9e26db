"""``squeezecam video --model light-asd``: who speaks, where the face says so, and what each stream counts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from squeezecam.attach import attach
from squeezecam.commands.video import Bar, VideoOptions, VideoOutcome, check_output, finish
from squeezecam.data.mfcc import ROWS_PER_FRAME, SAMPLE_RATE, align, mfcc
from squeezecam.errors import FitError, InputError, ModelError
from squeezecam.models.light_asd import FACE_SIZE, LightASD, load_light_asd
from squeezecam.module import Squeeze
from squeezecam.streams import StreamImportance, by_group, importance, join
from squeezecam.video.drawing import Seconds, draw_clip
from squeezecam.video.reading import Frame, probe, read_frames, read_sound
from squeezecam.video.speakers import SpeakerPainter
from squeezecam.video.spool import Spool
from squeezecam.video.strip import COLOURS, Series
from squeezecam.video.tracks import RATE, FaceTrack, at_rate, crop_face, read_tracks, runs

if TYPE_CHECKING:
    from numpy.typing import NDArray

SITES = {"face": "visual.block3", "audio": "audio.block3"}
WINDOW, CONTEXT = 100, 25
"""Frames that are explained at once, and frames before and after them that the model sees as well (25 a second)."""
FIT_FRAMES, FIT_WINDOWS = 25, 40
SPEAKING = 1
_VALUES = ("speaking", "mass_face", "mass_audio", "lost_without_face", "lost_without_audio", "score")


def speaker_squeeze(
    weights: Path | None, adapter: Path | None, apply: str | None, device: str, *, strict: bool, random: bool, seed: int
) -> Squeeze:
    """Light-ASD with one block per stream.

    Raises:
        ModelError: no weights were given, or they do not fit.

    """
    from squeezecam.adapter import load

    if weights is None and not random:
        raise ModelError("--model light-asd needs --weights FILE: a state dict of the trained model (or --random)")
    torch.manual_seed(seed)
    model = (load_light_asd(weights) if weights is not None else LightASD().eval()).to(device)
    generator = torch.Generator().manual_seed(0)
    faces = torch.randint(0, 256, (1, 25, FACE_SIZE, FACE_SIZE), generator=generator, dtype=torch.uint8).to(device)
    example = (faces, torch.randn(1, 25 * ROWS_PER_FRAME, 13, generator=generator).to(device))
    if adapter is not None:
        return load(adapter, model, example, strict=strict, apply=apply)  # type: ignore[arg-type]
    return attach(model, example, at=SITES, apply=apply or "observe")  # type: ignore[arg-type]


@dataclass
class _Store:
    """Crops and maps of all tracks on disk, and in which row the face of a slot lies."""

    crops: Spool
    maps: Spool
    crop_rows: dict[tuple[int, int], int] = field(default_factory=dict)
    map_rows: dict[tuple[int, int], int] = field(default_factory=dict)
    values: dict[tuple[int, int], tuple[float, ...]] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)
    windows: list[StreamImportance] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


def explain_speakers(
    squeeze: Squeeze, clip: Path, out: Path, tracks: Path | None, options: VideoOptions, bar: Bar
) -> VideoOutcome:
    """Explain every face track of a clip with its sound, and write the overlays as an mp4.

    Raises:
        InputError: no tracks, no sound, tracks that lie outside the clip, or a file that cannot be read or written.

    """
    if tracks is None:
        raise InputError(
            "--model light-asd needs the faces: --tracks FILE.csv with frame,track,x0,y0,x1,y1 (frames from 0, pixels "
            "of the video), from any face detector; none comes with squeezecam"
        )
    faces = read_tracks(tracks)
    info = probe(clip)
    check_output(out, clip)
    booked = Seconds()
    notes: list[str] = []
    mark = time.perf_counter()
    sound = read_sound(clip, SAMPLE_RATE)
    booked.add("decoding", mark)
    with Spool(out.parent, np.uint8) as crops, Spool(out.parent) as maps:
        store = _Store(crops, maps)
        with bar("reading faces", info.frames) as advance:
            _collect(read_frames(clip, notes), faces, store, advance, booked)
        segments = [
            (i, *run) for i in range(len(faces)) for run in runs(k for t, k in sorted(store.crop_rows) if t == i)
        ]
        if not segments:
            raise InputError(f"no box of {tracks} lies within the {len(store.times)} frames of {clip}")
        method = _fit_if_needed(squeeze, store, segments, sound, notes, booked)
        with bar("explaining", sum(end - begin for _, begin, end in segments)) as advance:
            for index, begin, end in segments:
                for done in _explain_segment(squeeze, store, index, begin, end, sound, options, booked):
                    advance(done)
        method = store.names[-1] + method
        outcome = _draw(squeeze, store, faces, info, out, options, method, bar, booked, notes)
    return outcome


def _collect(frames: Iterator[Frame], faces: list[FaceTrack], store: _Store, advance: Any, booked: Seconds) -> None:
    """Crops at 25 frames a second to disk, and the times of all frames."""
    mark = time.perf_counter()

    def noted() -> Iterator[Frame]:
        for frame in frames:
            store.times.append(frame.seconds)
            advance(1)
            yield frame

    for slot, frame in at_rate(noted()):
        mark = booked.add("decoding", mark)
        for index, track in enumerate(faces):
            box = track.box(frame.index)
            if box is not None:
                store.crop_rows[index, slot] = len(store.crops)
                store.crops.append(crop_face(frame.pixels, box)[None])
        mark = booked.add("cropping", mark)


def _inputs(
    store: _Store, index: int, begin: int, end: int, sound: tuple[NDArray[np.float32], int, float], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Faces ``(1, T, 112, 112)`` and coefficients ``(1, 4 T, 13)`` of the slots ``begin`` to ``end``."""
    crops = np.stack([store.crops[store.crop_rows[index, slot]] for slot in range(begin, end)])
    samples, rate, start = sound
    first = round((store.times[0] + begin / RATE - start) * rate)
    # one more window of the coefficients than the frames need, so that the last frame has all its rows
    count = round((end - begin) / RATE * rate) + rate // 40
    piece = np.zeros(count, np.float32)
    left, right = max(first, 0), min(first + count, len(samples))
    if right > left:
        piece[left - first : right - first] = samples[left:right]
    rows = align(mfcc(torch.from_numpy(piece)), end - begin)
    return torch.from_numpy(crops)[None].to(device), rows[None].to(device)


def _fit_if_needed(
    squeeze: Squeeze, store: _Store, segments: list[tuple[int, int, int]], sound: Any, notes: list[str], booked: Seconds
) -> str:
    """Without an adapter the blocks are fitted on the clip itself: no labels are needed, and it takes seconds."""
    if squeeze.fitted:
        return ""
    mark = time.perf_counter()
    device = next(squeeze.parameters()).device
    total = sum(max(0, end - begin - FIT_FRAMES + 1) for _, begin, end in segments)
    step = max(4, total // FIT_WINDOWS)
    starts = [(i, at) for i, begin, end in segments for at in range(begin, end - FIT_FRAMES + 1, step)]
    batches = (_inputs(store, i, at, at + FIT_FRAMES, sound, device) for i, at in starts)
    try:
        report = squeeze.fit(batches, progress=False)
    except FitError as error:
        notes.append(f"the blocks are not fitted, so that their gates select nothing: {error}")
        return ""
    booked.add("fit", mark)
    notes.append(
        f"no adapter: the blocks were fitted on this clip, without labels ({len(starts)} windows; with the blocks in "
        f"the path {report.unchanged:.1%} of the held-out frames stay as they are)"
    )
    return ", fitted on this clip"


def _explain_segment(
    squeeze: Squeeze,
    store: _Store,
    index: int,
    begin: int,
    end: int,
    sound: Any,
    options: VideoOptions,
    booked: Seconds,
) -> Iterator[int]:
    """Windows of one unbroken run of a track: native maps to disk, scores and shares to memory."""
    device = next(squeeze.parameters()).device
    target = SPEAKING if options.target is None else options.target
    for at in range(begin, end, WINDOW):
        stop = min(at + WINDOW, end)
        low, high = max(begin, at - CONTEXT), min(end, stop + CONTEXT)
        mark = time.perf_counter()
        inputs = _inputs(store, index, low, high, sound, device)
        mark = booked.add("crops and coefficients", mark)
        with torch.no_grad():
            squeeze.eval()
            captured = squeeze.capture(inputs)
        explanation = squeeze.explain(
            inputs,
            method=options.method,
            target=target,
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
        yield stop - at


def _draw(
    squeeze: Squeeze, store: _Store, faces: list[FaceTrack], info: Any, out: Path, options: VideoOptions, method: str,
    bar: Bar, booked: Seconds, notes: list[str],
) -> VideoOutcome:  # fmt: skip
    times = np.array(store.times)
    slots = np.clip(np.rint((times - times[0]) * RATE).astype(int), 0, None)
    table = np.full((len(faces), len(times), len(_VALUES)), np.nan)
    for i in range(len(faces)):
        for frame, slot in enumerate(slots.tolist()):
            if (i, slot) in store.values and faces[i].box(frame) is not None:
                table[i, frame] = store.values[i, slot]
    scale = store.maps.scale(options.scale)
    painter = SpeakerPainter(faces, scale)

    def paint(frame: Frame) -> NDArray[np.uint8]:
        slot = int(slots[frame.index])
        shown = [
            (i, store.maps[store.map_rows[i, slot]], float(table[i, frame.index, 0]))
            for i in range(len(faces))
            if np.isfinite(table[i, frame.index, 0])
        ]
        return painter(frame, shown)

    def words(frame: int) -> tuple[str, str]:
        there = [i for i in range(len(faces)) if np.isfinite(table[i, frame, 0])]
        if not there:
            return "no face", f"{times[frame]:.2f} s"
        loudest = max(there, key=lambda i: table[i, frame, 0])
        probability, face, audio, no_face, no_audio, score = table[loudest, frame]
        verdict = "speaking" if probability > 0.5 else "not speaking"
        return (
            f"{faces[loudest].name}: {verdict} · {probability:.0%}",
            f"{times[frame]:.2f} s · mass: face {face:.0%}, audio {audio:.0%} · score {score:+.2f}; without face "
            f"{score - no_face:+.2f}, without audio {score - no_audio:+.2f}",
        )

    curves = [Series(f"{face.name} speaking", table[i, :, 0]) for i, face in enumerate(faces[: len(COLOURS)])]
    if len(faces) == 1:
        curves.append(Series("face's share of the mass", table[0, :, 1]))
    with bar("drawing", len(times)) as advance:
        notes += draw_clip(
            info, out, paint, words, times, curves, footer=f"light-asd · {method}", scale=scale,
            side_by_side=options.side_by_side, sound=options.sound, advance=advance, booked=booked,
        )  # fmt: skip
    rows = [
        {
            "frame": frame, "seconds": round(float(times[frame]), 6), "track": faces[i].name,
            **dict(zip(_VALUES, table[i, frame].tolist(), strict=True)),
        }
        for i in range(len(faces)) for frame in range(len(times)) if np.isfinite(table[i, frame, 0])
    ]  # fmt: skip
    outcome = finish(out, rows, booked, notes, options, frames=len(times))
    outcome.summary = _summary(store, faces, table)
    return outcome


def _summary(store: _Store, faces: list[FaceTrack], table: NDArray[np.float64]) -> dict[str, Any]:
    whole = join(store.windows)
    lines = [
        f"{face.name}: speaking in {np.mean(table[i, np.isfinite(table[i, :, 0]), 0] > 0.5):.0%} of its frames"
        for i, face in enumerate(faces)
        if np.isfinite(table[i, :, 0]).any()
    ]
    lines.append(f"importance of the streams for 'speaking', mean over {len(whole)} windows:")
    lines += str(whole).splitlines()
    return {"lines": lines, "importance": by_group(whole), "tracks": [face.name for face in faces]}
