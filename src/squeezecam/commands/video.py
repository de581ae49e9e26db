"""``squeezecam video``: a clip with its heatmaps, its sound and a strip of scores; two passes, constant memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from squeezecam import heatmap
from squeezecam.commands.predictions import Prediction, prediction
from squeezecam.data.geometry import Geometry
from squeezecam.errors import MODEL_FAILED, InputError, SqueezeError
from squeezecam.explanation import Explanation
from squeezecam.files import output_folder, write_text
from squeezecam.models.labels import other_count
from squeezecam.models.loaded import LoadedModel
from squeezecam.module import Squeeze
from squeezecam.render.scale import Scale
from squeezecam.video.drawing import Seconds, draw_clip, rows_csv
from squeezecam.video.paint import Painter
from squeezecam.video.progress import Advance
from squeezecam.video.reading import ClipInfo, Frame, probe, read_frames
from squeezecam.video.spool import Spool
from squeezecam.video.strip import Series
from squeezecam.wording import number_of

FIGURE_FRAMES = 8
"""Frames in a row on a figure."""
Bar = Callable[[str, int], AbstractContextManager[Advance]]


@dataclass
class VideoOptions:
    """What the user chose for a clip."""

    method: str | None = None
    target: int | None = None
    output: str | None = None
    keep: str | None = None
    aggregate: str | None = None
    scale: str = "shared"
    batch_size: int = 16
    side_by_side: bool = False
    sound: bool = True
    scores: Path | None = None
    figures: Path | None = None
    detector: str | None = None
    save_tracks: Path | None = None
    other_sound: Path | None = None
    random: bool = False


@dataclass
class VideoOutcome:
    """What was made of a clip: files, frames, scores per frame, where the time went, and what is doubtful."""

    written: list[Path]
    frames: int
    rows: list[dict[str, Any]]
    seconds: dict[str, float]
    notes: list[str] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)

    def timing(self) -> str:
        """One line: frames a second in all, and the share of each part of the work."""
        total = sum(self.seconds.values()) or 1e-9
        parts = ", ".join(f"{name} {spent:.1f} s" for name, spent in self.seconds.items())
        return f"{number_of(self.frames, 'frame')} in {total:.1f} s ({self.frames / total:.1f} frames/s): {parts}"


def explain_clip(
    loaded: LoadedModel, squeeze: Squeeze, clip: Path, out: Path, options: VideoOptions, bar: Bar
) -> VideoOutcome:
    """Explain every frame (clip models: every window of frames) and write the overlays as an mp4.

    First pass: native maps to disk, scores in memory. Second pass: the frames again, drawn on one scale.

    Raises:
        InputError: the clip cannot be read, the output cannot be written, or the model fails on the frames.
        SqueezeError: options that no frame can be explained with.

    """
    info = probe(clip)
    check_output(out, clip, options.scores, options.figures)
    booked = Seconds()
    notes: list[str] = []
    found: list[Prediction] = []
    times: list[float] = []
    doubts: dict[str, int] = {}
    method = ""
    passes = _windows if loaded.clip else _batches
    with Spool(out.parent) as spool:
        with bar("explaining", info.frames) as advance:
            mark = time.perf_counter()
            for frames, fresh in passes(info, loaded, options.batch_size, notes):
                mark = booked.add("decoding", mark)
                explanation = _explained(squeeze, loaded, frames, options)
                maps = _frame_maps(explanation, len(frames) if loaded.clip else None)
                shown = [
                    prediction(squeeze, explanation, 0 if loaded.clip else i, loaded.labels, options.output)
                    for i in range(1 if loaded.clip else len(frames))
                ]
                if not times and explanation.scores is not None and explanation.scores.ndim == 2:
                    line = other_count(loaded.labels, squeeze.output_name(options.output), explanation.scores.shape[1])
                    notes += [line] if line else []
                spool.append(maps[-fresh:])
                found += shown * fresh if loaded.clip else shown
                times += [frame.seconds for frame in frames[-fresh:]]
                method = explanation.method
                for status in explanation.status:
                    if status != "ok":
                        doubts[status] = doubts.get(status, 0) + (fresh if loaded.clip else 1)
                mark = booked.add("model and map", mark)
                advance(fresh)
        if not times:
            raise InputError(f"{clip} holds no frame that can be decoded")
        seen = Geometry(loaded.prepare if loaded.clip else loaded.preprocess).seen(info.size)
        if seen.box is None:
            notes.append(
                f"maps are laid over the whole frame: where the preprocessing looks is not known ({seen.reason})"
            )
        notes += [f"{words}: the maps are turned back"] if (words := seen.mirrored_words()) else []
        scale = spool.scale(options.scale)
        painter = Painter(info.size, spool.shape[-2:], scale, seen.box)  # type: ignore[arg-type]
        curve, limits = _curve(found)
        chosen = set(np.linspace(0, len(times) - 1, FIGURE_FRAMES).round().astype(int).tolist())
        kept: dict[int, Any] = {}

        def paint(frame: Frame) -> Any:
            if options.figures is not None and frame.index in chosen:
                kept[frame.index] = frame.pixels
            return painter(frame.pixels, seen.upright(spool[frame.index]))

        with bar("drawing", len(times)) as advance:
            notes += draw_clip(
                info, out, paint,
                lambda i: (found[i].title(), f"{times[i]:.2f} s · frame {i + 1} of {len(times)}"),
                np.array(times), [Series(_name(found, options), curve, limits)],
                footer=f"{loaded.in_short()} · {method}", scale=scale, side_by_side=options.side_by_side,
                sound=options.sound, advance=advance, booked=booked,
            )  # fmt: skip
        pictures = []
        if options.figures is not None and kept:
            series = Series(_name(found, options), curve, limits)
            drawn = {i: (pixels, seen.upright(spool[i]), found[i].title()) for i, pixels in kept.items()}
            pictures = _figures(
                options.figures, drawn, np.array(times), series, f"{loaded.in_short()} · {method}", seen.box, scale
            )
    notes += loaded.cautions()
    notes += [f"{count} of {number_of(len(times), 'frame')}: {status}" for status, count in doubts.items()]
    rows = [
        {
            "frame": i, "seconds": round(times[i], 6), "target": p.target, "label": p.label,
            "probability": p.probability, "value": p.value,
        }
        for i, p in enumerate(found)
    ]  # fmt: skip
    outcome = finish(out, rows, booked, notes, options)
    outcome.written += pictures
    return outcome


def _figures(
    folder: Path,
    shown: dict[int, tuple[Any, Any, str]],
    times: Any,
    series: Series,
    title: str,
    box: Any,
    scale: Scale,
) -> list[Path]:
    """Frames in a row with their maps, on the scale of the clip itself, and the score over the clip."""
    from squeezecam.files import write_picture
    from squeezecam.video.figures import curves, frame_strip

    target = output_folder(folder)
    words = [f"{times[i]:.2f} s · {said}" for i, (_, _, said) in shown.items()]
    pixels, maps = [one[0] for one in shown.values()], [one[1] for one in shown.values()]
    strip = frame_strip(pixels, maps, captions=words, title=title, box=box, scale=scale)
    return [
        write_picture(target / "frames.png", strip),
        write_picture(target / "moments.png", curves(times, [("", [series])], title=title)),
    ]


def finish(
    out: Path, rows: list[dict[str, Any]], booked: Seconds, notes: list[str], options: VideoOptions, frames: int = 0
) -> VideoOutcome:
    """Write the scores where they are asked for, and put together what is to be said."""
    written = [out]
    if options.scores is not None:
        written.append(write_text(options.scores, rows_csv(rows)))
    return VideoOutcome(written, frames or len(rows), rows, booked.spent, list(dict.fromkeys(notes)))


def check_output(out: Path, clip: Path, scores: Path | None = None, figures: Path | None = None) -> None:
    """Try the folders of what is written before the work; the clip itself is never overwritten."""
    if out.suffix.lower() not in (".mp4", ".m4v", ".mov"):
        raise InputError(f"--out {out}: the clip is written as mp4; give a name that ends in .mp4")
    if out.exists() and out.samefile(clip):
        raise InputError(f"--out {out} is the clip itself: give another name")
    output_folder(out.parent)
    if scores is not None:
        if scores.is_dir():
            raise InputError(f"--scores {scores} is a folder: give the name of a CSV file")
        output_folder(scores.parent)
    if figures is not None:
        output_folder(figures)


def _batches(info: ClipInfo, loaded: LoadedModel, size: int, notes: list[str]) -> Iterator[tuple[list[Frame], int]]:
    waiting: list[Frame] = []
    for frame in read_frames(info.path, notes):
        waiting.append(frame)
        if len(waiting) == size:
            yield waiting, size
            waiting = []
    if waiting:
        yield waiting, len(waiting)


def _windows(info: ClipInfo, loaded: LoadedModel, size: int, notes: list[str]) -> Iterator[tuple[list[Frame], int]]:
    """Windows of as many frames as the model takes; the last one reaches back so far that it is full."""
    length = loaded.frames or 1
    kept: list[Frame] = []
    fresh = 0
    for frame in read_frames(info.path, notes):
        kept = [*kept[-(length - 1) :], frame] if length > 1 else [frame]
        fresh += 1
        if fresh == length:
            yield kept, fresh
            fresh = 0
    if fresh:
        padded = [kept[0]] * (length - len(kept)) + kept
        yield padded, fresh


def _explained(squeeze: Squeeze, loaded: LoadedModel, frames: list[Frame], options: VideoOptions) -> Explanation:
    from PIL import Image

    pictures = [Image.fromarray(frame.pixels) for frame in frames]
    device = next((p.device for p in loaded.model.parameters()), torch.device("cpu"))
    try:
        tensor = (
            loaded.preprocess(pictures)[None] if loaded.clip else torch.stack([loaded.preprocess(p) for p in pictures])
        )
        return squeeze.explain(
            loaded.make_inputs(tensor.to(device)),
            method=options.method,
            target=options.target,
            output=options.output,
            keep=options.keep,
            aggregate=options.aggregate,
        )
    except SqueezeError:
        raise
    except MODEL_FAILED as error:  # the model itself, on these frames
        line = " ".join(str(error).split())[:300]
        raise InputError(
            f"the model {loaded.name} failed on frames {frames[0].index} to {frames[-1].index} of the clip: {line}"
        ) from error


def _frame_maps(explanation: Explanation, window: int | None) -> Any:
    """Native maps ``(frames, h, w)``; for clip models the grid's time axis is brought to the frames of the window."""
    raw = explanation.raw
    rank = 4 if window else 3
    if isinstance(raw, dict) or raw.ndim != rank:
        raise InputError("this model's maps are not one picture per frame; use it from Python with squeezecam.attach")
    if window:
        raw = heatmap.upsample(raw, (window, *raw.shape[2:]))[0]
    return raw.float().cpu().numpy()


def _curve(found: list[Prediction]) -> tuple[Any, tuple[float, float]]:
    if all(p.probability is not None for p in found):
        return np.array([p.probability for p in found]), (0.0, 1.0)
    values = np.array([p.value for p in found])
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    return values, (low, high if high > low else low + 1.0)


def _name(found: list[Prediction], options: VideoOptions) -> str:
    if found[0].probability is None:
        return found[0].label
    return f"probability of {found[0].label}" if options.target is not None else "probability of the shown class"
