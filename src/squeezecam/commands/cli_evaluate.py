"""``squeezecam evaluate``: its options, and what it prints."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from squeezecam.commands import options as o
from squeezecam.commands.console import command, failing, interrupted, leave, say, wrote
from squeezecam.commands.together import together
from squeezecam.errors import InputError

if TYPE_CHECKING:
    from squeezecam.evaluation import Evaluation, Randomisation


@together
def evaluate(
    data: Annotated[
        list[str],
        typer.Option(
            "--data",
            help="pictures or clips: files, folders, patterns, an .npz; may be given again. Or a data set with its "
            "boxes or masks: celeba | cub | imagenet | pet | voc, as cub:FOLDER or cub@train:FOLDER",
        ),
    ],
    model: o.Model = "demo",
    out: Annotated[
        Path, typer.Option("--out", help="folder for the tables; an interrupted run goes on from it")
    ] = Path("evaluation"),
    adapter: o.Adapter = None,
    boxes: Annotated[
        Path | None, typer.Option("--boxes", help="CSV: file,x0,y0,x1,y1 in pixels of the image file")
    ] = None,
    subset: Annotated[
        list[str] | None,
        typer.Option("--subset", help="column of the boxes file: a table of its own; may be given again"),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option("--methods", help="names with commas, or own, peers, controls, slow; controls are always added"),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            help="names with commas; default: the quick ones; road, sensitivity_max, channel_faithfulness and more by "
            "name",
        ),
    ] = None,
    randomise: Annotated[
        bool,
        typer.Option(
            "--randomise",
            help="in place of the table: how much each map changes while the model's weights are drawn anew from the "
            "head down (Adebayo et al. 2018)",
        ),
    ] = False,
    sample: Annotated[
        int | None, typer.Option("--sample", min=1, help="only so many pictures, drawn with --seed")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="of the insertion and deletion curves")] = 8,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            help="class index to explain; default: the predicted one. With a data set also label: each class that a "
            "picture has, looked for where it is",
        ),
    ] = None,
    apply: o.Apply = None,
    strict: o.Strict = False,
    output: o.Output = None,
    task: o.Task = None,
    at: o.At = None,
    weights: o.Weights = None,
    random: o.Random = False,
    device: o.Device = "cpu",
    batch_size: o.BatchSize = 16,
    max_pixels: o.MaxPixels = o.MAX_PIXELS,
    per_clip: o.PerClip = o.PER_CLIP,
    seed: o.Seed = 0,
    as_json: o.AsJson = False,
) -> None:
    """The table of metrics with controls, with intervals and paired differences to the best peer; text, CSV, JSON."""
    from squeezecam.commands.evaluate import Files, class_index, evaluate_pictures, labelled, randomise_pictures
    from squeezecam.commands.place import keep_apart, working_in
    from squeezecam.data.images import find_images
    from squeezecam.data.sets import open_set
    from squeezecam.data.spec import parse
    from squeezecam.evaluation.columns import choose_columns
    from squeezecam.evaluation.truth import read_boxes
    from squeezecam.peers import choose

    if randomise and (metrics is not None or boxes is not None or subset):
        raise InputError("--randomise compares maps with maps: leave --metrics, --boxes and --subset out")
    found_boxes = read_boxes(boxes) if boxes is not None else None
    if methods is not None:
        choose(methods)  # a name that does not exist is said before anything is loaded
    specs = [spec for text in data if (spec := parse(text)) is not None]
    if specs and (len(data) > 1 or boxes is not None or subset):
        raise InputError(f"--data {data[0]} brings its own boxes or masks: give it alone, without --boxes and --subset")
    choose_columns(metrics, truth=boxes is not None or bool(specs))
    known = open_set(specs[0]) if specs else None
    sources = [] if known is not None else find_images(data, max_pixels=max_pixels, clips=True)
    if sources and not any(os.path.exists(source.path) for source in sources):  # said before a model is loaded
        raise InputError(f"--data: no such file or folder: {', '.join(map(str, data))}")
    keep_apart(out, sources if known is None else known.records[:1], "evaluated on")  # a set may have a million
    loaded, squeeze = o.open_squeeze(
        model, weights=weights, random=random, device=device, seed=seed, at=at, adapter=adapter, apply=apply,
        strict=strict, task=task, output=output,
    )  # fmt: skip
    about = {
        "command": command(),
        "model": f"{loaded.name}: {loaded.source}",
        "adapter": str(adapter) if adapter else "none: the block is not fitted",
        **({"caution": "; ".join(loaded.cautions())} if loaded.cautions() else {}),
    }
    o.say_assumed(loaded)
    failures = failing()
    sources = o.pieces(sources, loaded, per_clip, failures) if known is None else []
    files = (
        Files(loaded, sources, found_boxes, subset or [], class_index(target), say)
        if known is None
        else labelled(known, loaded, squeeze, target, output=output, task=task, max_pixels=max_pixels, say=say)
    )
    options: dict[str, Any] = {
        "output": output, "failures": failures, "batch_size": batch_size, "sample": sample, "seed": seed, "out": out,
        "about": about, "say": say,
    }  # fmt: skip
    found: Evaluation | Randomisation
    try:
        with working_in(out):
            if randomise:
                found = randomise_pictures(loaded, squeeze, files, methods, **options)
            else:
                found = evaluate_pictures(loaded, squeeze, files, methods, metrics, steps=steps, **options)
    except KeyboardInterrupt:
        raise interrupted(f"finished batches are kept in {out}, the same command goes on from there") from None
    if as_json:
        print((out / ("randomisation.json" if randomise else "evaluation.json")).read_text())
    else:
        print(found)
        wrote(found.written)
    leave(failures)
