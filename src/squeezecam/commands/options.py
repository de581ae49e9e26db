"""What the commands share: the options that choose model, block and device, and what these become."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args

import typer

from squeezecam.errors import MODEL_FAILED, InputError, SqueezeError
from squeezecam.wording import number_of

if TYPE_CHECKING:
    from squeezecam.anatomy import Site
    from squeezecam.commands.pictures import Failures
    from squeezecam.data.images import ImageSource
    from squeezecam.models.loaded import LoadedModel
    from squeezecam.module import Squeeze

MAX_PIXELS = 100_000_000
PER_CLIP = 4
When = Literal["input", "output"]
Way = Literal["observe", "gate"]

Images = Annotated[
    list[str], typer.Argument(metavar="IMAGE...", help="files, folders, patterns, or an .npz with 'images'")
]
Model = Annotated[
    str,
    typer.Option("--model", metavar="MODEL", help="demo | timm:NAME | torchvision:NAME | hf:NAME | file.py:factory"),
]
Weights = Annotated[Path | None, typer.Option("--weights", help="weights file: safetensors, or a state dict")]
Random = Annotated[bool, typer.Option("--random", help="random weights, no download")]
Labels = Annotated[Path | None, typer.Option("--labels", help="class names: text, one a line, or JSON")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, mps")]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="pictures in one pass, at most")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="of everything random")]
AsJson = Annotated[bool, typer.Option("--json", help="print the result as JSON on standard output")]
At = Annotated[
    str | None, typer.Option("--at", help="place of the block: a module's name, or name:input / name:output")
]
Output = Annotated[str | None, typer.Option("--output", help="which of several outputs of the model")]
MaxPixels = Annotated[int, typer.Option("--max-pixels", min=1, help="refuse pictures with more pixels than this")]
Adapter = Annotated[Path | None, typer.Option("--adapter", help="fitted block, made by 'squeezecam fit'")]
Apply = Annotated[
    str | None, typer.Option("--apply", help="observe | gate; default: as the adapter says, else observe")
]
Strict = Annotated[bool, typer.Option("--strict", help="refuse an adapter of other weights")]
Target = Annotated[
    int | None, typer.Option("--target", min=0, help="class index to explain; default: the predicted one")
]
Task = Annotated[
    str | None,
    typer.Option(
        "--task",
        help="binary: the output is one value, yes above 0, and maps show the evidence for the side decided for; "
        "multi-label: its logits are those of independent labels",
    ),
]
PerClip = Annotated[
    int,
    typer.Option(
        "--per-clip", min=1, help="of a video file: windows for a model of clips, else frames, evenly spaced, at most"
    ),
]
Keep = Annotated[str | None, typer.Option("--keep", help="keep rule: zscore[:z], quantile[:share], topk:k, all")]


def open_squeeze(
    model: str,
    *,
    weights: Path | None = None,
    random: bool = False,
    labels: Path | None = None,
    device: str = "cpu",
    seed: int = 0,
    at: str | None = None,
    adapter: Path | None = None,
    apply: str | None = None,
    strict: bool = False,
    task: str | None = None,
    output: str | None = None,
) -> tuple[LoadedModel, Squeeze]:
    """The model that the options name, and a squeeze around it: the adapter's, or a fresh one.

    Args:
        model: as of ``--model``; the other arguments are the options of the same names.
        weights: see above.
        random: see above.
        labels: see above.
        device: see above.
        seed: see above; it is set before the model is made.
        at: see above.
        adapter: see above.
        apply: see above; None is the adapter's own way, or ``observe``.
        strict: see above.
        task: see above; None is as the adapter says.
        output: which output ``task`` is about.

    Raises:
        InputError: options that contradict each other or are unknown.
        ModelError: the model cannot be loaded.
        AdapterError: the adapter is damaged or belongs to another model.
        SiteError: there is no place for a block.

    """
    way = _apply(apply)
    if task not in (None, "binary", "classification", "multi-label", "regression"):
        raise InputError(f"--task is '{task}'; expected binary, classification, multi-label or regression")
    if at is not None and adapter is not None:
        raise InputError(
            "--at and --adapter contradict each other; the adapter says where its block is: leave --at out"
        )
    import torch

    from squeezecam import tree
    from squeezecam.adapter import load, read
    from squeezecam.attach import attach
    from squeezecam.commands.pictures import example_of
    from squeezecam.links import read_as_labels
    from squeezecam.models.resolve import load_model
    from squeezecam.sides import read_as_binary

    torch.manual_seed(seed)
    if adapter is not None:
        read(adapter)  # a damaged file is told before a model is loaded
    loaded = load_model(model, weights=weights, random=random, labels=labels, device=device)
    example = example_of(loaded)
    try:
        if adapter is not None:
            squeeze = load(adapter, loaded.model, example, strict=strict, apply=way)
        else:
            squeeze = attach(loaded.model, example, at=site(at), apply=way or "observe")
    except SqueezeError:
        raise
    except MODEL_FAILED as error:  # the model itself, on this input
        if os.environ.get("SQUEEZECAM_DEBUG"):
            raise
        fed = "clips" if loaded.clip else "pictures"
        shapes = ", ".join(str(tuple(tensor.shape)) for _, tensor in tree.leaves(example))
        line = " ".join(str(error).split())[:300]
        raise InputError(
            f"the model {loaded.name} failed on {fed} of shape {shapes}, which is what the command line feeds it: "
            f"{line}. Let its factory return a model that takes them, or explain it from Python"
        ) from error
    if task == "binary":
        read_as_binary(squeeze, output)
    elif task is not None:
        read_as_labels(squeeze, squeeze.output_name(output), task == "multi-label")
    return loaded, squeeze


def pieces(sources: list[ImageSource], loaded: LoadedModel, each: int, failures: Failures) -> list[ImageSource]:
    """The sources, video files cut into what the model takes; those that cannot be read are noted and left out.

    Raises:
        InputError: nothing is left.

    """
    from squeezecam.data.clip_pieces import in_pieces

    found = in_pieces(sources, loaded.frames, each, failures.add)
    if not found:
        raise InputError(f"0 of {number_of(len(sources), 'clip')} could be read: {failures.found[-1][1]}")
    return found


def site(at: str | None) -> Site | None:
    """``--at`` as a place: a module's name, or one with ``:input`` or ``:output`` behind it."""
    from squeezecam.anatomy import Site

    if at is None:
        return None
    name, _, when = at.rpartition(":")
    return Site(name, cast(When, when)) if name and when in get_args(When) else Site(at)


def _apply(apply: str | None) -> Way | None:
    if apply not in (None, *get_args(Way)):
        raise InputError(f"--apply is '{apply}'; expected 'observe' or 'gate'")
    return cast("Way | None", apply)


def say_assumed(loaded: LoadedModel) -> None:
    """One line on standard error where the preprocessing is a guess: everything that follows rests on it."""
    from squeezecam import processes
    from squeezecam.commands.console import say

    if loaded.assumed and processes.rank() == 0:
        say(
            f"nothing says how pictures are preprocessed for {loaded.name}, so this is assumed: {loaded.assumed}. If "
            "the model was trained with another, its predictions and maps are wrong: let the factory return "
            "(model, preprocess)"
        )


def about(loaded: LoadedModel, adapter: Path | None, seed: int) -> dict[str, Any]:
    """What a record of a run begins with: the command, the model, the adapter and the seed."""
    from squeezecam.commands.console import command

    return {
        "command": command(),
        "model": loaded.name,
        "source": loaded.source,
        "cautions": loaded.cautions(),
        "adapter": str(adapter) if adapter else None,
        "seed": seed,
    }
