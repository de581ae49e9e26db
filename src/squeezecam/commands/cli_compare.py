"""``squeezecam compare``: its options, and what it prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from squeezecam.commands import options as o
from squeezecam.commands.console import bar, failing, leave, wrote


def compare(
    images: o.Images,
    model: o.Model = "demo",
    out: Annotated[Path, typer.Option("--out", help="folder for comparison.png and comparison.json")] = Path(
        "compare-out"
    ),
    adapter: o.Adapter = None,
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods",
            help="names with commas (published, grad-cam, layercam, ...), or own, peers, controls, slow",
        ),
    ] = None,
    target: o.Target = None,
    apply: o.Apply = None,
    strict: o.Strict = False,
    output: o.Output = None,
    task: o.Task = None,
    at: o.At = None,
    weights: o.Weights = None,
    random: o.Random = False,
    labels: o.Labels = None,
    device: o.Device = "cpu",
    max_pixels: o.MaxPixels = o.MAX_PIXELS,
    per_clip: o.PerClip = o.PER_CLIP,
    seed: o.Seed = 0,
    as_json: o.AsJson = False,
) -> None:
    """Methods side by side on the same pictures, with the time of each: ours, the Grad-CAM family, a control."""
    from squeezecam.commands.compare import compare_pictures
    from squeezecam.commands.place import keep_apart
    from squeezecam.data.images import find_images
    from squeezecam.peers import choose
    from squeezecam.render.table import text_table

    if methods is not None:
        choose(methods)  # a name that does not exist is said before anything is loaded
    sources = find_images(images, max_pixels=max_pixels, clips=True)
    keep_apart(out, sources, "compared")
    loaded, squeeze = o.open_squeeze(
        model, weights=weights, random=random, labels=labels, device=device, seed=seed, at=at, adapter=adapter,
        apply=apply, strict=strict, task=task, output=output,
    )  # fmt: skip
    o.say_assumed(loaded)
    failures = failing()
    sources = o.pieces(sources, loaded, per_clip, failures)
    with bar("comparing", len(sources)) as done:
        found = compare_pictures(
            loaded, squeeze, sources, out, methods, target=target, output=output, seed=seed,
            about=o.about(loaded, adapter, seed), failures=failures, done=done,
        )  # fmt: skip
    if found.times and as_json:
        print((found.folder / "comparison.json").read_text())
    elif found.times:
        rows = [
            {"method": r["label"], "ms per image": r["seconds"] * 1e3, "forwards": r["forwards"]} for r in found.times
        ]
        print(text_table(rows, formats={"ms per image": ".1f", "forwards": ".2f"}))
        for doubt in found.doubts:
            print(f"in doubt: {doubt}")
        print(f"a plain forward pass takes {found.forward * 1e3:.1f} ms, one picture at a time")
        wrote(found.written)
    leave(failures)
