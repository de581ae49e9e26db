"""``squeezecam inspect``: its options, and what it prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from squeezecam.commands import options as o
from squeezecam.commands.console import wrote
from squeezecam.errors import InputError


def inspect(
    model: o.Model = "demo",
    at: o.At = None,
    image: Annotated[
        str | None, typer.Option("--image", help="picture to draw the grid on; default: one of the demo's")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="write the picture with the native grid over it: FILE.png")
    ] = None,
    weights: o.Weights = None,
    random: o.Random = False,
    device: o.Device = "cpu",
    max_pixels: o.MaxPixels = o.MAX_PIXELS,
    seed: o.Seed = 0,
    as_json: o.AsJson = False,
) -> None:
    """Where a block would go, and why; with --out a picture of its grid."""
    import torch

    from squeezecam.commands.inspect import draw_grid, example_picture, inputs_of
    from squeezecam.commands.pictures import example_of
    from squeezecam.inspection import inspect as inspect_model
    from squeezecam.models.resolve import load_model

    if image is not None and out is None:
        raise InputError("--image needs --out: the file to write the picture with the grid to, FILE.png")
    torch.manual_seed(seed)
    drawn = None if out is None else example_picture(image, max_pixels)
    loaded = load_model(model, weights=weights, random=random, device=device)
    inputs = example_of(loaded) if drawn is None else inputs_of(loaded, drawn[0])
    found = inspect_model(loaded.model, inputs, at=o.site(at))
    print(json.dumps(found.as_dict(), indent=2) if as_json else f"{loaded.name}: {loaded.source}\n{found}")
    if out is not None and drawn is not None:
        path = draw_grid(loaded, found, *drawn, out)
        if not as_json:
            wrote([path])
