"""``squeezecam parity``: its options, and what it prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from squeezecam.commands import options as o
from squeezecam.commands.console import bar, failing, interrupted, leave, say, wrote

if TYPE_CHECKING:
    from squeezecam.commands.pictures import Failures

DEMO_TRAINING, DEMO_TEST = 2000, 1000


def parity(
    model: o.Model = "demo",
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="folder with one sub-folder per class, whole or as train/ and test/ or val/, or an .npz with images "
            "and labels; demo needs none",
        ),
    ] = None,
    test: Annotated[
        Path | None, typer.Option("--test", help="the same, to test on; default: 30 % of --data, drawn with --seed")
    ] = None,
    truth: Annotated[
        Path | None, typer.Option("--truth", help="CSV with file,label for --data, in place of sub-folders")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", help="folder for tables, picture, and what an interrupted study goes on from")
    ] = Path("parity-out"),
    start: Annotated[
        str, typer.Option("--start", help="scratch | fine-tune | both: what the network begins with")
    ] = "both",
    seeds: Annotated[int, typer.Option("--seeds", min=2, help="trainings per arm")] = 5,
    margin: Annotated[
        float | None,
        typer.Option(
            "--margin",
            help="loss that would not matter, in points; default: 0.5 (regression: in the labels' unit; default: 5 % "
            "of their deviation)",
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", help="classification | regression; default: by the labels")
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="from scratch; default: 10, demo 5")] = None,
    tune_epochs: Annotated[int, typer.Option("--tune-epochs", min=1, help="of the fine-tuning")] = 1,
    rate: Annotated[float, typer.Option("--rate", help="highest learning rate from scratch")] = 2e-3,
    tune_rate: Annotated[float, typer.Option("--tune-rate", help="that of the fine-tuning")] = 5e-4,
    augment: Annotated[str, typer.Option("--augment", help="none | flip | shift | flip-shift")] = "none",
    maps: Annotated[
        int, typer.Option("--maps", min=0, help="test pictures whose maps are measured in every arm; 0: none")
    ] = 0,
    keep_head: Annotated[
        bool, typer.Option("--keep-head", help="the labels are indices of the model's own classes")
    ] = False,
    output: o.Output = None,
    at: o.At = None,
    weights: o.Weights = None,
    labels: o.Labels = None,
    device: o.Device = "cpu",
    batch_size: o.BatchSize = 32,
    max_pixels: o.MaxPixels = o.MAX_PIXELS,
    seed: o.Seed = 0,
    as_json: o.AsJson = False,
) -> None:
    """Is anything lost with the block? The same network trained with and without it, seed by seed, and a verdict."""
    from squeezecam.commands.parity import fresh_builder
    from squeezecam.errors import InputError
    from squeezecam.models.resolve import load_model
    from squeezecam.parity import Recipe
    from squeezecam.parity import parity as study

    if start not in ("scratch", "fine-tune", "both"):
        raise InputError(f"--start is '{start}'; expected 'scratch', 'fine-tune' or 'both'")
    if data is None and (model != "demo" or test is not None or truth is not None):
        raise InputError("--data is needed: a folder with one sub-folder per class, or an .npz (only demo has its own)")
    demo = data is None
    recipe = Recipe(epochs or (5 if demo else 10), batch_size, rate, augment=augment)
    tuning = Recipe(tune_epochs, batch_size, tune_rate, augment=augment)
    loaded = load_model(model, weights=weights, labels=labels, device=device)
    o.say_assumed(loaded)
    failures = failing()
    if data is None:
        training, testing, outputs, boxes = _demo()
    else:
        training, testing, outputs = _read(loaded, data, test, truth, task, keep_head, max_pixels, failures, out)
        boxes = None
    about = {**o.about(loaded, None, seed), "data": str(data) if data else "generated pictures of the demo"}
    try:
        result = study(
            loaded.model, training, testing, scratch=fresh_builder(model),
            starts=None if start == "both" else (start,), seeds=seeds, margin=margin, task=task, output=output,
            outputs=outputs, at=o.site(at), recipe=recipe, fine_tune=tuning, maps=maps, boxes=boxes, seed=seed, out=out,
            about=about, say=say,
        )  # fmt: skip
    except KeyboardInterrupt:
        raise interrupted(
            f"the trainings that are finished are in {out}; the same command goes on after them"
        ) from None
    if as_json:
        print(json.dumps(json.loads((out / "parity.json").read_text(encoding="utf-8")), indent=2))
    else:
        print(result.text())
        wrote(result.written)
    leave(failures)


def _demo() -> tuple[Any, Any, None, Any]:
    from squeezecam.parity.demo import Digits

    test = Digits("test", DEMO_TEST, 1)
    return Digits("train", DEMO_TRAINING, 0), test, None, test.boxes


def _read(
    loaded: Any,
    data: Path,
    test: Path | None,
    truth: Path | None,
    task: str | None,
    keep: bool,
    max_pixels: int,
    failures: Failures,
    out: Path,
) -> tuple[Any, Any, int | None]:
    """Training and test samples, and the number of outputs that the network needs."""
    from squeezecam.commands.parity import choose_classes, picture_samples, read_labelled
    from squeezecam.commands.place import keep_outside
    from squeezecam.data.folders import parts_of

    if test is None and truth is None and (parts := parts_of(data)) is not None:
        data, test = parts
        say(f"trained on {data}, tested on {test}")
    for read in (data, test):
        if read is not None:
            keep_outside(out, read)
    found = read_labelled(data, truth, max_pixels)
    other = read_labelled(test, None, max_pixels) if test is not None else None
    classes = choose_classes(found.labels, loaded, task, keep)
    with bar("reading", len(found.sources) + (len(other.sources) if other else 0)) as done:
        training = picture_samples(loaded, found, classes, str(data), failures, done)
        testing = picture_samples(loaded, other, classes, str(test), failures, done) if other else None
    return training, testing, classes.outputs
