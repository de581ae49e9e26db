"""The command line: parse, call, print."""

from __future__ import annotations

import io
import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from squeezecam.errors import InputError, SqueezeError, SqueezeWarning

if TYPE_CHECKING:
    from squeezecam.commands.pictures import Failures
    from squeezecam.models.loaded import LoadedModel
    from squeezecam.module import Squeeze


class _Commands(TyperGroup):
    """Commands whose interrupt is exit code 130 with any version of typer (older ones make it 1)."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = Annotated[
    str,
    typer.Option("--model", metavar="MODEL", help="demo | timm:NAME | torchvision:NAME | hf:NAME | file.py:factory"),
]
Weights = Annotated[Path | None, typer.Option("--weights", help="weights file: safetensors, or a state dict")]
Random = Annotated[bool, typer.Option("--random", help="random weights, no download")]
Labels = Annotated[Path | None, typer.Option("--labels", help="class names: text, one a line, or JSON")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, mps")]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="pictures in one pass")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="of everything random")]
AsJson = Annotated[bool, typer.Option("--json", help="print the result as JSON on standard output")]
At = Annotated[
    str | None, typer.Option("--at", help="place of the block: a module's name, or name:input / name:output")
]
Output = Annotated[str | None, typer.Option("--output", help="which of several outputs of the model")]
MaxPixels = Annotated[int, typer.Option("--max-pixels", min=1, help="refuse pictures with more pixels than this")]


def _version(asked: bool) -> None:
    if asked:
        from squeezecam import __version__

        print(f"squeezecam {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and stop")
    ] = False,
) -> None:
    """Heatmaps that the model computes itself: one SE block before the classifier, one forward pass, no gradients."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="folder for figure, table and adapter")] = Path("demo-out"),
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """The whole cycle on the embedded default: attach, fit, explain, measure, draw. No network."""
    from squeezecam.commands.demo import run_demo

    found = run_demo(out, seed, lambda line: None if as_json else print(line, flush=True))
    if as_json:
        print((found.folder / "demo.json").read_text())
        return
    print(f"\n{found.report}\n\n{found.table}\n\ndone in {found.seconds:.0f} s")
    _wrote(found.written)


@app.command()
def explain(
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="files, folders, patterns, or an .npz with 'images'")
    ],
    model: Model = "demo",
    out: Annotated[
        Path, typer.Option("--out", help="folder for overlays, maps, contact sheet and results.json")
    ] = Path("out"),
    adapter: Annotated[Path | None, typer.Option("--adapter", help="fitted block, made by 'squeezecam fit'")] = None,
    method: Annotated[
        str | None,
        typer.Option("--method", help="published | contribution | class; default: what the evidence supports"),
    ] = None,
    target: Annotated[
        int | None, typer.Option("--target", min=0, help="class index to explain; default: the predicted one")
    ] = None,
    keep: Annotated[
        str | None, typer.Option("--keep", help="keep rule: zscore[:z], quantile[:share], topk:k, all")
    ] = None,
    scale: Annotated[str, typer.Option("--scale", help="per sample | shared | quantile")] = "per sample",
    apply: Annotated[
        str | None, typer.Option("--apply", help="observe | gate; default: as the adapter says, else observe")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="refuse an adapter of other weights")] = False,
    output: Output = None,
    at: At = None,
    weights: Weights = None,
    random: Random = False,
    labels: Labels = None,
    device: Device = "cpu",
    batch_size: BatchSize = 16,
    max_pixels: MaxPixels = 100_000_000,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Heatmaps for pictures: overlays on the originals, raw maps, a contact sheet and results.json."""
    from squeezecam.commands.explain import Options, explain_pictures
    from squeezecam.data.images import find_images

    if scale not in ("per sample", "shared", "quantile"):
        raise InputError(f"--scale is '{scale}'; expected 'per sample', 'shared' or 'quantile'")
    sources = find_images(images, max_pixels=max_pixels)
    loaded, squeeze = _squeeze(model, weights, random, labels, device, seed, at, adapter, apply, strict)
    options = Options(method, target, output, keep, scale, batch_size)
    about = {
        "command": _command(),
        "model": loaded.name,
        "source": loaded.source,
        "adapter": str(adapter) if adapter else None,
        "site": {stream: repr(place.site) for stream, place in squeeze.places.items()},
        "apply": squeeze.apply_mode,
        "seed": seed,
    }
    failures = _failures()
    with _bar("explaining", len(sources)) as done:
        outcome = explain_pictures(loaded, squeeze, sources, out, options, about=about, failures=failures, done=done)
    if as_json:
        print((outcome.folder / "results.json").read_text(encoding="utf-8"))
    else:
        if adapter is None and any(row["hottest"] is not None for row in outcome.results):
            print(f"no adapter: the {outcome.results[0]['method']} map is shown ({_why(squeeze, method, output)})")
        if output is None and len(squeeze.outputs) > 1:
            others = ", ".join(name for name in squeeze.outputs if name != squeeze.default_output)
            print(f"output '{squeeze.default_output}' is explained; --output chooses another ({others})")
        print(f"{len(outcome.results)} of {len(sources)} pictures explained")
        for doubt, count in list(outcome.doubts().items())[:5]:
            print(f"  {count} with a doubt: {doubt}")
        _wrote(outcome.written)
    if outcome.interrupted:
        print("interrupted: what is finished was kept", file=sys.stderr)
        raise typer.Exit(130)
    _leave(failures)


@app.command()
def fit(
    images: Annotated[
        list[str],
        typer.Option(
            "--images", help="files, folders, patterns, or an .npz; labels are not needed; may be given again"
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="adapter file, FILE.squeeze.safetensors")],
    model: Model = "demo",
    apply: Annotated[
        str, typer.Option("--apply", help="observe: the outputs stay the model's own; gate: the block is in the path")
    ] = "observe",
    agreement: Annotated[
        float,
        typer.Option(
            "--agreement", min=0.0, max=1.0, help="share of predictions that the block has to leave unchanged"
        ),
    ] = 0.995,
    output: Output = None,
    at: At = None,
    weights: Weights = None,
    random: Random = False,
    labels: Labels = None,
    device: Device = "cpu",
    batch_size: BatchSize = 16,
    max_pixels: MaxPixels = 100_000_000,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Fit one SE block on pictures, without labels, and save it as an adapter."""
    from squeezecam.commands.fit import fit_pictures
    from squeezecam.commands.place import check_file
    from squeezecam.data.images import find_images

    check_file(out)
    sources = find_images(images, max_pixels=max_pixels)
    loaded, squeeze = _squeeze(model, weights, random, labels, device, seed, at, None, apply, False)
    failures = _failures()
    with _bar("fitting", len(sources)) as done:
        report = fit_pictures(
            loaded,
            squeeze,
            sources,
            out,
            batch_size=batch_size,
            failures=failures,
            done=done,
            output=output,
            agreement=agreement,
            seed=seed,
        )
    if as_json:
        print(json.dumps({"command": _command(), "adapter": str(out), **report.as_dict()}, indent=2))
    else:
        print(f"{squeeze}\n{report}")
        _wrote([out])
    _leave(failures)


@app.command()
def video(
    clip: Annotated[Path, typer.Argument(metavar="CLIP", help="a video file")],
    out: Annotated[Path, typer.Option("--out", help="the mp4 to write")] = Path("overlay.mp4"),
    model: Annotated[
        str,
        typer.Option(
            "--model",
            metavar="MODEL",
            help="as for explain (pictures or clips), or light-asd with --weights and --tracks",
        ),
    ] = "demo",
    adapter: Annotated[Path | None, typer.Option("--adapter", help="fitted block, made by 'squeezecam fit'")] = None,
    tracks: Annotated[
        Path | None, typer.Option("--tracks", help="faces for light-asd: CSV with frame,track,x0,y0,x1,y1")
    ] = None,
    method: Annotated[str | None, typer.Option("--method", help="published | contribution | class")] = None,
    target: Annotated[
        int | None, typer.Option("--target", min=0, help="class to explain; default: each frame's predicted one")
    ] = None,
    keep: Annotated[
        str | None, typer.Option("--keep", help="keep rule: zscore[:z], quantile[:share], topk:k, all")
    ] = None,
    aggregate: Annotated[
        str | None, typer.Option("--aggregate", help="mean | positive | energy | peaks, in place of the method's")
    ] = None,
    scale: Annotated[str, typer.Option("--scale", help="shared | quantile: one scale over the clip")] = "shared",
    side_by_side: Annotated[bool, typer.Option("--side-by-side", help="the original to the left")] = False,
    sound: Annotated[bool, typer.Option("--sound/--no-sound", help="take over the clip's sound")] = True,
    scores: Annotated[Path | None, typer.Option("--scores", help="write scores per frame to this CSV")] = None,
    apply: Annotated[str | None, typer.Option("--apply", help="observe | gate; default: as the adapter says")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="refuse an adapter of other weights")] = False,
    output: Output = None,
    at: At = None,
    weights: Weights = None,
    random: Random = False,
    labels: Labels = None,
    device: Device = "cpu",
    batch_size: BatchSize = 16,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """A clip with its heatmaps: an mp4 with overlay, sound, score and curve; one scale over the clip."""
    from squeezecam.commands.video import VideoOptions, check_output, explain_clip
    from squeezecam.files import plain
    from squeezecam.video.progress import frame_bar

    if scale not in ("shared", "quantile"):
        raise InputError(f"--scale is '{scale}'; expected 'shared' or 'quantile'")
    options = VideoOptions(method, target, output, keep, aggregate, scale, batch_size, side_by_side, sound, scores)
    check_output(out, clip)
    if model == "light-asd":
        from squeezecam.commands.speakers import explain_speakers, speaker_squeeze

        speaking = speaker_squeeze(weights, adapter, apply, device, strict=strict, random=random, seed=seed)
        outcome = explain_speakers(speaking, clip, out, tracks, options, frame_bar)
    else:
        if tracks is not None:
            raise InputError("--tracks is for --model light-asd: models of pictures look at the whole frame")
        loaded, squeeze = _squeeze(model, weights, random, labels, device, seed, at, adapter, apply, strict)
        outcome = explain_clip(loaded, squeeze, clip, out, options, frame_bar)
    if as_json:
        record = {
            "command": _command(), "frames": outcome.frames, "seconds": outcome.seconds, "notes": outcome.notes,
            "summary": outcome.summary, "scores": outcome.rows, "written": [str(path) for path in outcome.written],
        }  # fmt: skip
        print(json.dumps(plain(record), indent=2))
        return
    for note in outcome.notes:
        print(f"note: {note}")
    for line in outcome.summary.get("lines", []):
        print(line)
    print(outcome.timing())
    _wrote(outcome.written)


@app.command()
def compare(
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="files, folders, patterns, or an .npz with 'images'")
    ],
    model: Model = "demo",
    out: Annotated[Path, typer.Option("--out", help="folder for comparison.png and comparison.json")] = Path(
        "compare-out"
    ),
    adapter: Annotated[Path | None, typer.Option("--adapter", help="fitted block, made by 'squeezecam fit'")] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods",
            help="names with commas (published, grad-cam, layercam, ...), or own, peers, controls, slow",
        ),
    ] = None,
    target: Annotated[
        int | None, typer.Option("--target", min=0, help="class index to explain; default: the predicted one")
    ] = None,
    apply: Annotated[
        str | None, typer.Option("--apply", help="observe | gate; default: as the adapter says, else observe")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="refuse an adapter of other weights")] = False,
    output: Output = None,
    at: At = None,
    weights: Weights = None,
    random: Random = False,
    labels: Labels = None,
    device: Device = "cpu",
    max_pixels: MaxPixels = 100_000_000,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Methods side by side on the same pictures, with the time of each: ours, the Grad-CAM family, a control."""
    from squeezecam.commands.compare import compare_pictures
    from squeezecam.data.images import find_images
    from squeezecam.peers import choose
    from squeezecam.render.table import text_table

    chosen = choose(methods) if methods is not None else None
    sources = find_images(images, max_pixels=max_pixels)
    loaded, squeeze = _squeeze(model, weights, random, labels, device, seed, at, adapter, apply, strict)
    about = {
        "command": _command(),
        "model": loaded.name,
        "source": loaded.source,
        "adapter": str(adapter) if adapter else None,
        "seed": seed,
    }
    failures = _failures()
    with _bar("comparing", len(sources)) as done:
        found = compare_pictures(
            loaded, squeeze, sources, out, chosen, target=target, output=output, seed=seed, about=about,
            failures=failures, done=done,
        )  # fmt: skip
    if found.times and as_json:
        print((found.folder / "comparison.json").read_text())
    elif found.times:
        rows = [
            {"method": r["label"], "ms per image": r["seconds"] * 1e3, "forwards": r["forwards"]} for r in found.times
        ]
        print(text_table(rows, formats={"ms per image": ".1f", "forwards": ".2f"}))
        print(f"a plain forward pass takes {found.forward * 1e3:.1f} ms, one picture at a time")
        _wrote(found.written)
    _leave(failures)


@app.command()
def evaluate(
    data: Annotated[list[str], typer.Option("--data", help="files, folders, patterns, or an .npz; may be given again")],
    model: Model = "demo",
    out: Annotated[
        Path, typer.Option("--out", help="folder for the tables; an interrupted run goes on from it")
    ] = Path("evaluation"),
    adapter: Annotated[Path | None, typer.Option("--adapter", help="fitted block, made by 'squeezecam fit'")] = None,
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
            "--metrics", help="names with commas; default: the quick ones; road, sensitivity_max and more by name"
        ),
    ] = None,
    sample: Annotated[
        int | None, typer.Option("--sample", min=1, help="only so many pictures, drawn with --seed")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="of the insertion and deletion curves")] = 8,
    target: Annotated[
        int | None, typer.Option("--target", min=0, help="class index to explain; default: the predicted one")
    ] = None,
    apply: Annotated[
        str | None, typer.Option("--apply", help="observe | gate; default: as the adapter says, else observe")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="refuse an adapter of other weights")] = False,
    output: Output = None,
    at: At = None,
    weights: Weights = None,
    random: Random = False,
    device: Device = "cpu",
    batch_size: BatchSize = 16,
    max_pixels: MaxPixels = 100_000_000,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """The table of metrics with controls, with intervals and paired differences to the best peer; text, CSV, JSON."""
    from squeezecam.commands.evaluate import Files, evaluate_pictures
    from squeezecam.data.images import find_images
    from squeezecam.evaluation.columns import choose_columns
    from squeezecam.evaluation.truth import read_boxes
    from squeezecam.peers import choose

    found_boxes = read_boxes(boxes) if boxes is not None else None
    chosen = choose(methods) if methods is not None else None
    choose_columns(metrics, truth=boxes is not None)
    sources = find_images(data, max_pixels=max_pixels)
    loaded, squeeze = _squeeze(model, weights, random, None, device, seed, at, adapter, apply, strict)
    about = {
        "command": _command(),
        "model": f"{loaded.name}: {loaded.source}",
        "adapter": str(adapter) if adapter else "none: the block is not fitted",
    }
    failures = _failures()

    def say(line: str) -> None:
        print(f"squeezecam: {line}", file=sys.stderr, flush=True)

    files = Files(loaded, sources, found_boxes, subset or [], target, say)
    try:
        evaluation = evaluate_pictures(
            loaded, squeeze, files, chosen, metrics, output=output, failures=failures, steps=steps,
            batch_size=batch_size, sample=sample, seed=seed, out=out, about=about, say=say,
        )  # fmt: skip
    except KeyboardInterrupt:
        print(f"interrupted: finished batches are kept in {out}, the same command goes on from there", file=sys.stderr)
        raise typer.Exit(130) from None
    if as_json:
        print((out / "evaluation.json").read_text())
    else:
        print(evaluation)
        _wrote(evaluation.written)
    _leave(failures)


@app.command()
def export(
    onnx: Annotated[Path, typer.Option("--onnx", help="file to write: output, heatmap and gates, any batch size")],
    model: Model = "demo",
    adapter: Annotated[Path | None, typer.Option("--adapter", help="fitted block, made by 'squeezecam fit'")] = None,
    method: Annotated[str | None, typer.Option("--method", help="published | contribution | class")] = None,
    target: Annotated[
        int | None, typer.Option("--target", min=0, help="class index to explain; default: the predicted one")
    ] = None,
    apply: Annotated[
        str | None, typer.Option("--apply", help="observe | gate; default: as the adapter says, else observe")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="refuse an adapter of other weights")] = False,
    at: At = None,
    weights: Weights = None,
    random: Random = False,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Model, heatmap and gates as one ONNX file, checked against the model by onnxruntime."""
    from squeezecam.commands.export import export_onnx
    from squeezecam.commands.pictures import example_of

    loaded, squeeze = _squeeze(model, weights, random, None, "cpu", seed, at, adapter, apply, strict)
    found = export_onnx(squeeze, example_of(loaded), onnx, method, target)
    if as_json:
        print(json.dumps({"command": _command(), "onnx": str(found.path), "difference": found.difference}, indent=2))
        return
    print(f"inputs: {', '.join(found.inputs)}; outputs: {', '.join(found.outputs)}; the first axis is the batch")
    print(f"onnxruntime agrees with the model to {found.difference:.1e} of each output's largest value")
    _wrote([found.path])


@app.command()
def inspect(
    model: Model = "demo",
    at: At = None,
    weights: Weights = None,
    random: Random = False,
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Where a block would go, and why."""
    import torch

    import squeezecam
    from squeezecam.commands.pictures import example_of
    from squeezecam.models.resolve import load_model

    torch.manual_seed(seed)
    loaded = load_model(model, weights=weights, random=random, device=device)
    found = squeezecam.inspect(loaded.model, example_of(loaded), at=_site(at))
    print(json.dumps(found.as_dict(), indent=2) if as_json else f"{loaded.name}: {loaded.source}\n{found}")


def main() -> None:
    """Run the command line; every error that is meant for users is one line, without a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show stops nothing
    warnings.simplefilter("ignore")
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    warnings.simplefilter("always", SqueezeWarning)
    try:
        app(prog_name="squeezecam")
    except SqueezeError as error:
        _stop(str(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except MemoryError:
        _stop("out of memory: try a smaller --batch-size")
    except OSError as error:
        if os.environ.get("SQUEEZECAM_DEBUG"):
            raise
        _stop(": ".join(str(part) for part in (error.filename, error.strerror or error) if part))
    except Exception as error:
        if os.environ.get("SQUEEZECAM_DEBUG"):
            raise
        _stop(f"unexpected {type(error).__name__}: {error} (set SQUEEZECAM_DEBUG=1 for the traceback)")


def _stop(message: str) -> None:
    print(f"squeezecam: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(1)


def _show_warning(message: Any, category: Any, *_: Any) -> None:
    print(f"squeezecam: warning: {message}", file=sys.stderr)


def _squeeze(
    model: str, weights: Path | None, random: bool, labels: Path | None, device: str, seed: int,
    at: str | None, adapter: Path | None, apply: str | None, strict: bool,
) -> tuple[LoadedModel, Squeeze]:  # fmt: skip
    import torch

    from squeezecam.adapter import load, read
    from squeezecam.attach import attach
    from squeezecam.commands.pictures import example_of
    from squeezecam.models.resolve import load_model

    if apply not in (None, "observe", "gate"):
        raise InputError(f"--apply is '{apply}'; expected 'observe' or 'gate'")
    if at is not None and adapter is not None:
        raise InputError(
            "--at and --adapter contradict each other; the adapter says where its block is: leave --at out"
        )
    torch.manual_seed(seed)
    if adapter is not None:
        read(adapter)  # a damaged file is told before a model is loaded
    loaded = load_model(model, weights=weights, random=random, labels=labels, device=device)
    example = example_of(loaded)
    if adapter is not None:
        return loaded, load(adapter, loaded.model, example, strict=strict, apply=apply)  # type: ignore[arg-type]
    return loaded, attach(loaded.model, example, at=_site(at), apply=apply or "observe")  # type: ignore[arg-type]


def _site(at: str | None) -> Any:
    from squeezecam.anatomy import Site

    if at is None:
        return None
    name, _, when = at.rpartition(":")
    return Site(name, when) if when in ("input", "output") and name else Site(at)  # type: ignore[arg-type]


def _why(squeeze: Squeeze, method: str | None, output: str | None) -> str:
    if method is not None:
        return "asked for"
    return (
        "it needs no fit"
        if squeeze.head(output) is not None
        else "no exact class map for this head; fit a block for better maps"
    )


def _failures() -> Failures:
    from squeezecam.commands.pictures import Failures

    return Failures(report=lambda line: print(f"squeezecam: {line}", file=sys.stderr))


@contextmanager
def _bar(name: str, total: int) -> Iterator[Any]:
    from squeezecam.fit.progress import Progress

    with Progress() as progress, progress.task(name, total) as advance:
        yield advance


def _wrote(paths: list[Path]) -> None:
    folders = sorted({str(path.parent) for path in paths})
    if len(paths) <= 6:
        print("wrote " + ", ".join(str(path) for path in paths))
    else:
        print(
            f"wrote {len(paths)} files to {', '.join(folders)}: {paths[-2].name}, {paths[-1].name}, one set per picture"
        )


def _leave(failures: Failures) -> None:
    if len(failures):
        print(f"squeezecam: {len(failures)} could not be done (listed above)", file=sys.stderr)
        raise typer.Exit(1)


def _command() -> str:
    return "squeezecam " + " ".join(sys.argv[1:])


if __name__ == "__main__":
    main()
