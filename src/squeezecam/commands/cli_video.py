"""``squeezecam video``: its options, and what it prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from squeezecam.commands import options as o
from squeezecam.commands.console import command, wrote
from squeezecam.errors import InputError


def video(
    clip: Annotated[Path, typer.Argument(metavar="CLIP", help="a video file")],
    out: Annotated[Path, typer.Option("--out", help="the mp4 to write")] = Path("overlay.mp4"),
    model: Annotated[
        str,
        typer.Option(
            "--model",
            metavar="MODEL",
            help="as for explain (pictures or clips), or light-asd with --weights",
        ),
    ] = "demo",
    adapter: o.Adapter = None,
    tracks: Annotated[
        Path | None,
        typer.Option("--tracks", help="faces for light-asd: CSV with frame,track,x0,y0,x1,y1; default: they are found"),
    ] = None,
    detector: Annotated[
        str | None,
        typer.Option("--face-detector", help="mtcnn (package facenet-pytorch), or a YuNet model as FILE.onnx"),
    ] = None,
    save_tracks: Annotated[
        Path | None, typer.Option("--save-tracks", help="write the faces to this CSV, to be edited and given back")
    ] = None,
    other_sound: Annotated[
        Path | None,
        typer.Option("--other-sound", help="light-asd: report what changes, stream by stream, with this file's sound"),
    ] = None,
    method: Annotated[
        str | None, typer.Option("--method", help="published | contribution | class | refined | focus")
    ] = None,
    target: Annotated[
        int | None, typer.Option("--target", min=0, help="class to explain; default: each frame's predicted one")
    ] = None,
    keep: o.Keep = None,
    aggregate: Annotated[
        str | None,
        typer.Option("--aggregate", help="mean | positive | energy | contrast | peaks | change; default: the method's"),
    ] = None,
    scale: Annotated[str, typer.Option("--scale", help="shared | quantile: one scale over the clip")] = "shared",
    side_by_side: Annotated[bool, typer.Option("--side-by-side", help="the original to the left")] = False,
    sound: Annotated[bool, typer.Option("--sound/--no-sound", help="take over the clip's sound")] = True,
    figures: Annotated[
        Path | None, typer.Option("--figures", help="folder for pictures: frames in a row, curves, streams")
    ] = None,
    scores: Annotated[Path | None, typer.Option("--scores", help="write scores per frame to this CSV")] = None,
    apply: Annotated[str | None, typer.Option("--apply", help="observe | gate; default: as the adapter says")] = None,
    strict: o.Strict = False,
    output: o.Output = None,
    task: o.Task = None,
    at: o.At = None,
    weights: o.Weights = None,
    random: o.Random = False,
    labels: o.Labels = None,
    device: o.Device = "cpu",
    batch_size: o.BatchSize = 16,
    seed: o.Seed = 0,
    as_json: o.AsJson = False,
) -> None:
    """A clip with its heatmaps: an mp4 with overlay, sound, score and curve; one scale over the clip."""
    from squeezecam.commands.video import VideoOptions, check_output, explain_clip
    from squeezecam.files import plain
    from squeezecam.video.progress import frame_bar

    if scale not in ("shared", "quantile"):
        raise InputError(f"--scale is '{scale}'; expected 'shared' or 'quantile'")
    options = VideoOptions(
        method, target, output, keep, aggregate, scale, batch_size, side_by_side, sound, scores,
        figures, detector, save_tracks, other_sound, random,
    )  # fmt: skip
    check_output(out, clip, scores, figures)
    if model == "light-asd":
        from squeezecam.commands.speakers import explain_speakers, speaker_squeeze

        speaking = speaker_squeeze(weights, adapter, apply, device, strict=strict, random=random, seed=seed)
        outcome = explain_speakers(speaking, clip, out, tracks, options, frame_bar)
    else:
        faces = {
            "--tracks": tracks, "--face-detector": detector, "--save-tracks": save_tracks, "--other-sound": other_sound
        }  # fmt: skip
        if given := [name for name, value in faces.items() if value is not None]:
            raise InputError(f"{given[0]} is for --model light-asd: models of pictures look at the whole frame")
        loaded, squeeze = o.open_squeeze(
            model, weights=weights, random=random, labels=labels, device=device, seed=seed, at=at, adapter=adapter,
            apply=apply, strict=strict, task=task, output=output,
        )  # fmt: skip
        o.say_assumed(loaded)
        outcome = explain_clip(loaded, squeeze, clip, out, options, frame_bar)
    if as_json:
        record = {
            "command": command(), "frames": outcome.frames, "seconds": outcome.seconds, "notes": outcome.notes,
            "summary": outcome.summary, "scores": outcome.rows, "written": [str(path) for path in outcome.written],
        }  # fmt: skip
        print(json.dumps(plain(record), indent=2))
        return
    for note in outcome.notes:
        print(f"note: {note}")
    for line in outcome.summary.get("lines", []):
        print(line)
    print(outcome.timing())
    wrote(outcome.written)
