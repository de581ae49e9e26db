"""``squeezecam train``: its options, and what it prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from squeezecam.commands import options as o
from squeezecam.commands.console import command, say
from squeezecam.commands.together import together
from squeezecam.errors import InputError

if TYPE_CHECKING:
    from squeezecam.data.record import DataSet


@together
def train(
    data: Annotated[
        str,
        typer.Option(
            "--data",
            help="data set in its official layout: celeba | cub | imagenet | pet | voc, as cub:FOLDER; or a folder "
            "with one sub-folder per class, whole (30 % are tested on, drawn with --seed) or as train/ and test/, val/",
        ),
    ],
    model: o.Model,
    out: Annotated[Path, typer.Option("--out", help="folder for weights, block, tables and pictures")] = Path(
        "train-out"
    ),
    classes: Annotated[
        str | None, typer.Option("--classes", help="celeba, voc: only these, with commas, as Eyeglasses,Smiling")
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="over the training pictures")] = 5,
    rate: Annotated[float, typer.Option("--rate", min=0.0, help="learning rate of AdamW, at the start")] = 1e-3,
    baseline: Annotated[
        bool, typer.Option("--baseline/--no-baseline", help="the same training without the block, to compare")
    ] = True,
    maps: Annotated[
        int,
        typer.Option(
            "--maps",
            min=0,
            help="test pictures of each class whose maps are measured, where the set has boxes or masks; 0: none",
        ),
    ] = 100,
    methods: Annotated[
        str | None,
        typer.Option("--methods", help="names with commas, or own, peers, controls; controls are always added"),
    ] = None,
    sample: Annotated[
        int | None, typer.Option("--sample", min=1, help="only so many pictures of each part, drawn with --seed")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=0, help="processes that read pictures")] = 0,
    weights: o.Weights = None,
    random: o.Random = False,
    device: o.Device = "cpu",
    batch_size: o.BatchSize = 64,
    seed: o.Seed = 0,
    as_json: o.AsJson = False,
) -> None:
    """Train a model on a data set, with the block in its path and without; accuracy, and where the maps land."""
    import torch

    from squeezecam import processes
    from squeezecam.commands.place import keep_apart
    from squeezecam.data.spec import parse
    from squeezecam.models.resolve import load_model
    from squeezecam.peers import choose
    from squeezecam.recipes.labelled import train_and_look
    from squeezecam.recipes.settings import Settings

    spec = parse(data)
    if methods is not None:
        choose(methods)
    speak = say if processes.rank() == 0 else lambda line: None
    fitting, testing = _parts(data, seed)
    keep_apart(out, [*fitting.records[:1], *testing.records[:1]], "trained or tested on")  # a set may have a million
    if maps and spec is None:
        maps = 0
        speak("a folder of classes has no boxes or masks: where the maps land is not measured")
    torch.manual_seed(seed)
    loaded = load_model(model, weights=weights, random=random, device=device)
    o.say_assumed(loaded)
    settings = Settings(
        epochs=epochs, batch_size=batch_size, rate=rate, baseline=baseline, sample=sample, maps=maps, methods=methods,
        workers=workers, seed=seed,
    )  # fmt: skip
    names = [name for name in (classes or "").split(",") if name.strip()]
    _, report = train_and_look(loaded, fitting, testing, out, settings, classes=names, say=speak)
    if processes.rank():
        return
    if as_json:
        print(json.dumps({"command": command(), **json.loads((out / "report.json").read_text())}, indent=2))
    else:
        print(report)
        print("wrote " + ", ".join(str(path) for path in report.written))


def _parts(data: str, seed: int) -> tuple[DataSet, DataSet]:
    """What to train and what to test on."""
    from squeezecam.data.folders import read_folders
    from squeezecam.data.sets import open_set
    from squeezecam.data.spec import Spec, parse

    spec = parse(data)
    if spec is not None and spec.split is not None:
        raise InputError(f"--data is '{data}'; both parts are used: leave the part out, {spec.name}:{spec.root}")
    if spec is not None:
        return open_set(spec, fitting=True), open_set(Spec(spec.name, None, spec.root))
    if not Path(data).expanduser().is_dir():
        raise InputError(
            f"--data is '{data}', which is no folder; expected a data set, such as cub:FOLDER (also celeba, imagenet, "
            "pet, voc), or a folder with one sub-folder per class"
        )
    return read_folders(data, seed)
