"""``squeezecam video --model light-asd``: who speaks, where the face says so, and what each stream counts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from squeezecam.attach import attach
from squeezecam.commands.speaker_windows import (
    CONTEXT,
    VALUES,
    WINDOW,
    Sound,
    Store,
    collect,
    explain_run,
    fit_if_needed,
)
from squeezecam.commands.video import Bar, VideoOptions, VideoOutcome, check_output, finish
from squeezecam.data.mfcc import ROWS_PER_FRAME, SAMPLE_RATE
from squeezecam.errors import InputError, ModelError
from squeezecam.models.light_asd import FACE_SIZE, LightASD, load_light_asd
from squeezecam.models.loaded import RANDOM
from squeezecam.module import Squeeze
from squeezecam.streams import by_group, compared, join
from squeezecam.video.drawing import Seconds, draw_clip
from squeezecam.video.reading import ClipInfo, Frame, probe, read_frames, read_sound
from squeezecam.video.speakers import SpeakerPainter
from squeezecam.video.spool import Spool
from squeezecam.video.strip import COLOURS, Series
from squeezecam.video.tracks import RATE, FaceTrack, read_tracks, runs, write_tracks
from squeezecam.wording import number_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CONTEXT", "WINDOW", "explain_speakers", "speaker_squeeze"]

SITES = {"face": "visual.block3", "audio": "audio.block3"}


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


def explain_speakers(
    squeeze: Squeeze, clip: Path, out: Path, tracks: Path | None, options: VideoOptions, bar: Bar
) -> VideoOutcome:
    """Explain every face track of a clip with its sound, and write the overlays as an mp4.

    Without ``tracks`` the faces are found by ``options.detector``.

    Raises:
        InputError: no tracks, no sound, tracks that lie outside the clip, or a file that cannot be read or written.
        ModelError: a face detector is needed and not installed.

    """
    check_output(out, clip, options.scores, options.figures)
    if tracks is not None and options.detector is not None:
        raise InputError("--tracks and --face-detector contradict each other: the faces are given, or looked for")
    info = probe(clip)
    booked = Seconds()
    notes: list[str] = []
    written: list[Path] = []
    mark = time.perf_counter()
    sound = Sound(*read_sound(clip, SAMPLE_RATE))
    other = None if options.other_sound is None else _other(options.other_sound, info)
    booked.add("decoding", mark)
    faces = read_tracks(tracks) if tracks is not None else _found(info, options, bar, booked, notes)
    if options.save_tracks is not None:
        written.append(write_tracks(options.save_tracks, faces))
    with Spool(out.parent, np.uint8) as crops, Spool(out.parent) as maps:
        store = Store(crops, maps)
        with bar("reading faces", info.frames) as advance:
            collect(read_frames(clip, notes), faces, store, advance, booked)
        segments = [
            (i, *run) for i in range(len(faces)) for run in runs(k for t, k in sorted(store.crop_rows) if t == i)
        ]
        if not segments:
            raise InputError(
                f"no box of {tracks} lies within the {number_of(len(store.times), 'frame')} of {clip}"
                + (f", which have {store.size[0]} x {store.size[1]} pixels" if store.outside else "")
            )
        notes += _outside(store, faces)
        method = fit_if_needed(squeeze, store, segments, sound, notes, booked)
        with bar("explaining", sum(end - begin for _, begin, end in segments)) as advance:
            for index, begin, end in segments:
                for done in explain_run(squeeze, store, index, begin, end, sound, other, options, booked):
                    advance(done)
        method = store.names[-1] + method
        if options.random:
            method += f" · {RANDOM.partition(':')[0]}"
            notes.append(RANDOM)
        table = _table(store, faces)
        notes += _draw(store, faces, table, info, out, options, method, bar, booked)
        outcome = finish(out, _rows(store, faces, table), booked, notes, options, frames=len(store.times))
        outcome.summary = _summary(store, faces, table, options)
        if options.figures is not None:
            from squeezecam.commands.speaker_figures import write_figures

            written += write_figures(options.figures, store, faces, table, method, store.maps.scale(options.scale))
    outcome.written += written
    return outcome


def _other(path: Path, info: ClipInfo) -> Sound:
    """The sound of another file from the clip's beginning on, over again where it is shorter."""
    samples, rate, _ = read_sound(path, SAMPLE_RATE)
    return Sound(np.tile(samples, max(1, -(-round((info.seconds + 1) * rate) // max(1, len(samples))))), rate)


def _found(info: ClipInfo, options: VideoOptions, bar: Bar, booked: Seconds, notes: list[str]) -> list[FaceTrack]:
    from squeezecam.video.detectors import face_detector
    from squeezecam.video.faces import find_tracks

    detect = face_detector(options.detector)
    mark = time.perf_counter()
    with bar("looking for faces", info.frames) as advance:
        faces, cuts = find_tracks(read_frames(info.path), detect, advance)
    booked.add("face detection", mark)
    tracks = f"{number_of(len(faces), 'face track')} ({number_of(cuts, 'scene cut')})"
    notes.append(
        f"{options.detector or 'mtcnn'} found {tracks}: look at them; --save-tracks FILE.csv writes them to be "
        "corrected and given back with --tracks"
    )
    return faces


def _outside(store: Store, faces: list[FaceTrack]) -> list[str]:
    width, height = store.size
    return [
        f"{faces[i].name}: left out in {number_of(len(frames), 'frame')}, from frame {frames[0]} on, where its box "
        f"lies outside the picture of {width} x {height} pixels: were the boxes made for a clip of another size?"
        for i, frames in sorted(store.outside.items())
    ]


def _slots(times: NDArray[np.float64]) -> NDArray[np.int64]:
    """The slot at 25 a second that every frame of the clip is shown with."""
    slots: NDArray[np.int64] = np.clip(np.rint((times - times[0]) * RATE), 0, None).astype(np.int64)
    return slots


def _table(store: Store, faces: list[FaceTrack]) -> NDArray[np.float64]:
    """``(faces, frames, values)``, NaN where a face is not there."""
    slots = _slots(np.array(store.times)).tolist()
    table = np.full((len(faces), len(slots), len(VALUES)), np.nan)
    for i, face in enumerate(faces):
        for frame, slot in enumerate(slots):
            if (i, slot) in store.values and face.box(frame) is not None:
                table[i, frame] = store.values[i, slot]
    return table


def _draw(
    store: Store, faces: list[FaceTrack], table: NDArray[np.float64], info: ClipInfo, out: Path, options: VideoOptions,
    method: str, bar: Bar, booked: Seconds,
) -> list[str]:  # fmt: skip
    times = np.array(store.times)
    slots = _slots(times)
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
        return draw_clip(
            info, out, paint, words, times, curves, footer=f"light-asd · {method}", scale=scale,
            side_by_side=options.side_by_side, sound=options.sound, advance=advance, booked=booked,
        )  # fmt: skip


def _rows(store: Store, faces: list[FaceTrack], table: NDArray[np.float64]) -> list[dict[str, Any]]:
    return [
        {
            "frame": frame, "seconds": round(seconds, 6), "track": faces[i].name,
            **dict(zip(VALUES, table[i, frame].tolist(), strict=True)),
        }
        for i in range(len(faces)) for frame, seconds in enumerate(store.times) if np.isfinite(table[i, frame, 0])
    ]  # fmt: skip


def _summary(store: Store, faces: list[FaceTrack], table: NDArray[np.float64], options: VideoOptions) -> dict[str, Any]:
    whole = join(store.windows)
    lines = [
        f"{face.name}: speaking in {np.mean(table[i, np.isfinite(table[i, :, 0]), 0] > 0.5):.0%} of its frames"
        for i, face in enumerate(faces)
        if np.isfinite(table[i, :, 0]).any()
    ]
    lines.append(f"importance of the streams for 'speaking', mean over {number_of(len(whole), 'window')}:")
    lines += str(whole).splitlines()
    found = {"lines": lines, "importance": by_group(whole), "tracks": [face.name for face in faces]}
    if store.other:
        from squeezecam.render.table import text_table

        changes = compared(whole, join(store.other))
        lines.append(f"with the sound of {options.other_sound} in place of its own (the faces are the same):")
        lines += text_table(changes, formats=dict.fromkeys(("own", "other", "change"), ".4f")).splitlines()
        found["other sound"] = changes
    return found
