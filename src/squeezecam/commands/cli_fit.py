"""``squeezecam fit``: its options, and what it prints."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Annotated

import typer

from squeezecam.commands import options as o
from squeezecam.commands.console import bar, command, failing, leave, say, wrote
from squeezecam.commands.together import together


@together
def fit(
    images: Annotated[
        list[str],
        typer.Option(
            "--images",
            help="pictures or clips: files, folders, patterns, an .npz, or a data set as cub:FOLDER (its training "
            "part); labels are not needed; may be given again",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="adapter file, FILE.squeeze.safetensors")],
    model: o.Model = "demo",
    apply: Annotated[
        str, typer.Option("--apply", help="observe: the outputs stay the model's own; gate: the block is in the path")
    ] = "observe",
    agreement: Annotated[
        float,
        typer.Option(
            "--agreement", min=0.0, max=1.0, help="share of predictions that the block has to leave unchanged"
        ),
    ] = 0.995,
    cache: Annotated[
        Path | None,
        typer.Option("--cache", help="folder that keeps the features: an interrupted fit goes on from it"),
    ] = None,
    tune: Annotated[
        bool,
        typer.Option("--tune", help="also tune the block, so that 'published' makes a better mask: minutes, no labels"),
    ] = False,
    refine: Annotated[
        bool,
        typer.Option("--refine", help="also fit a refiner of the class map (method 'refined'): minutes, no labels"),
    ] = False,
    locate: Annotated[
        bool,
        typer.Option("--locate", help="also fit a locator (method 'focus'), for coarse maps such as 7x7: minutes"),
    ] = False,
    epochs: Annotated[int, typer.Option("--refine-epochs", min=1, help="passes over the pictures for --refine")] = 40,
    output: o.Output = None,
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            help="classification | binary (one value, yes above 0) | multi-label | regression; default: by the output",
        ),
    ] = None,
    at: o.At = None,
    weights: o.Weights = None,
    random: o.Random = False,
    labels: o.Labels = None,
    device: o.Device = "cpu",
    batch_size: o.BatchSize = 16,
    max_pixels: o.MaxPixels = o.MAX_PIXELS,
    per_clip: o.PerClip = o.PER_CLIP,
    seed: o.Seed = 0,
    as_json: o.AsJson = False,
) -> None:
    """Fit one SE block on pictures, without labels, and save it as an adapter."""
    from squeezecam.commands.evaluate import labels_of_set
    from squeezecam.commands.fit import fit_pictures
    from squeezecam.commands.pictures import example_of
    from squeezecam.commands.place import check_file
    from squeezecam.commands.predictions import classes_of
    from squeezecam.commands.refine import FEW, as_it_is, mixed_pictures, refining_size
    from squeezecam.data.clip_pieces import is_clip
    from squeezecam.data.images import find_images
    from squeezecam.data.sets import open_set
    from squeezecam.data.spec import parse
    from squeezecam.errors import FitError, SqueezeWarning
    from squeezecam.fit.pictures import refuse_other_axes
    from squeezecam.methods import default_method
    from squeezecam.processes import first_only

    check_file(out)
    sources = find_images(images, max_pixels=max_pixels, fitting=True, clips=True)
    loaded, squeeze = o.open_squeeze(
        model,
        weights=weights,
        random=random,
        labels=labels,
        device=device,
        seed=seed,
        at=at,
        apply=apply,
        task=task,
        output=output,
    )
    o.say_assumed(loaded)
    if tune or refine or locate:
        refuse_other_axes(squeeze, squeeze.output_name(output))  # said before the fit
    failures = failing()
    if loaded.clip and not all(is_clip(source.path) for source in sources):
        warnings.warn(
            "this is a model of clips, and each picture is held still for all of its frames: nothing that moves enters "
            "the fit; video files are taken as clips",
            SqueezeWarning,
            stacklevel=1,
        )
    specs = [spec for text in images if (spec := parse(text)) is not None]
    if len(specs) == 1 and task is None:
        known = open_set(specs[0], fitting=True)
        labels_of_set(known, classes_of(squeeze, example_of(loaded), output), squeeze, output, say)
    sources = o.pieces(sources, loaded, per_clip, failures)
    with bar("fitting", len(sources)) as done:
        report = fit_pictures(
            loaded,
            squeeze,
            sources,
            out,
            batch_size=batch_size,
            failures=failures,
            done=done,
            output=output,
            task=task,
            agreement=agreement,
            seed=seed,
            cache=cache,
        )
    tuned = refined = located = None
    if tune or refine or locate:
        with first_only(FitError) as here:
            if here:
                pictures = mixed_pictures(loaded, sources, min(batch_size, FEW), seed)
                if tune:
                    tuned = squeeze.tune(pictures, inputs=as_it_is, output=output, seed=seed)
                    squeeze.save(out)
                if refine:
                    larger = mixed_pictures(loaded, sources, refining_size(len(sources), batch_size), seed)
                    refined = squeeze.refine(larger, inputs=as_it_is, output=output, epochs=epochs, seed=seed)
                    squeeze.save(out)
                    report.shown = default_method(squeeze, output)
                if locate:
                    located = squeeze.locate(pictures, inputs=as_it_is, output=output, seed=seed)
                    squeeze.save(out)
    if as_json:
        record = {"command": command(), "adapter": str(out), **report.as_dict()}
        if tuned is not None:
            record["tuned"] = tuned.as_dict()
        if refined is not None:
            record["refiner"] = refined.as_dict()
        if located is not None:
            record["locator"] = located.as_dict()
        print(json.dumps(record, indent=2))
    else:
        print("\n".join(str(part) for part in (squeeze, report, tuned, refined, located) if part is not None))
        wrote([out])
    leave(failures)
