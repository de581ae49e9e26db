"""``squeezecam explain``: its options, and what it prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from squeezecam.commands import options as o
from squeezecam.commands.console import bar, failing, interrupted, leave, wrote
from squeezecam.commands.together import together
from squeezecam.errors import InputError
from squeezecam.wording import number_of

if TYPE_CHECKING:
    from squeezecam.module import Squeeze


@together
def explain(
    images: o.Images,
    model: o.Model = "demo",
    out: Annotated[
        Path, typer.Option("--out", help="folder for overlays, maps, contact sheet and results.json")
    ] = Path("out"),
    adapter: o.Adapter = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method", help="published | contribution | class | refined | focus; default: what the evidence supports"
        ),
    ] = None,
    target: o.Target = None,
    keep: o.Keep = None,
    scale: Annotated[str, typer.Option("--scale", help="per sample | shared | quantile")] = "per sample",
    apply: o.Apply = None,
    strict: o.Strict = False,
    output: o.Output = None,
    task: o.Task = None,
    at: o.At = None,
    weights: o.Weights = None,
    random: o.Random = False,
    labels: o.Labels = None,
    device: o.Device = "cpu",
    batch_size: o.BatchSize = 16,
    max_pixels: o.MaxPixels = o.MAX_PIXELS,
    seed: o.Seed = 0,
    as_json: o.AsJson = False,
) -> None:
    """Heatmaps for pictures: overlays on the originals, raw maps, a contact sheet and results.json."""
    from squeezecam.commands.explain import Options, explain_pictures
    from squeezecam.data.images import find_images

    if scale not in ("per sample", "shared", "quantile"):
        raise InputError(f"--scale is '{scale}'; expected 'per sample', 'shared' or 'quantile'")
    sources = find_images(images, max_pixels=max_pixels)
    loaded, squeeze = o.open_squeeze(
        model, weights=weights, random=random, labels=labels, device=device, seed=seed, at=at, adapter=adapter,
        apply=apply, strict=strict, task=task, output=output,
    )  # fmt: skip
    options = Options(method, target, output, keep, scale, batch_size)
    about = {
        **o.about(loaded, adapter, seed),
        "site": {stream: repr(place.site) for stream, place in squeeze.places.items()},
        "apply": squeeze.apply_mode,
    }
    o.say_assumed(loaded)
    failures = failing()
    with bar("explaining", len(sources)) as done:
        outcome = explain_pictures(loaded, squeeze, sources, out, options, about=about, failures=failures, done=done)
    if as_json:
        print((outcome.folder / "results.json").read_text(encoding="utf-8"))
    else:
        if adapter is None and any(row["hottest"] is not None for row in outcome.results):
            print(f"no adapter: the {outcome.results[0]['method']} map is shown ({_why(squeeze, method, output)})")
        if output is None and len(squeeze.outputs) > 1:
            others = ", ".join(name for name in squeeze.outputs if name != squeeze.default_output)
            print(f"output '{squeeze.default_output}' is explained; --output chooses another ({others})")
        if squeeze.output_name(output) in squeeze.single.keys() - squeeze.binary and task is None:
            print("one value, read as a regression; is it a decision, yes above 0? --task binary explains its sides")
        print(f"{len(outcome.results)} of {number_of(len(sources), 'picture')} explained")
        for doubt, count in list(outcome.doubts().items())[:5]:
            print(f"  {count} with a doubt: {doubt}")
        wrote(outcome.written)
    if outcome.interrupted:
        raise interrupted("what is finished was kept")
    leave(failures)


def _why(squeeze: Squeeze, method: str | None, output: str | None) -> str:
    if method is not None:
        return "asked for"
    return (
        "it needs no fit"
        if squeeze.head(output) is not None
        else "no exact class map for this head; fit a block for better maps"
    )
