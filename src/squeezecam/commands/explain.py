"""``squeezecam explain``: overlays, raw maps, a contact sheet and ``results.json`` for picture files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from squeezecam.attach import Squeeze
from squeezecam.commands.pictures import Failures, Prepared, batches, stacked
from squeezecam.commands.predictions import prediction
from squeezecam.data.geometry import Box, Geometry
from squeezecam.errors import InputError, SqueezeError
from squeezecam.explanation import Explanation
from squeezecam.files import output_folder, write_json, write_npz, write_picture
from squeezecam.models.loaded import LoadedModel
from squeezecam.render.explained import SHEET_LIMIT, arrays
from squeezecam.render.figure import contact_sheet, panel, tile
from squeezecam.render.overlay import overlay
from squeezecam.render.scale import Scale, find_scale

if TYPE_CHECKING:
    from PIL import Image

    from squeezecam.data.images import ImageSource

SHEET = "contact_sheet.png"
RESULTS = "results.json"


@dataclass
class Options:
    """What the user chose for the maps and the pictures."""

    method: str | None = None
    target: int | None = None
    output: str | None = None
    keep: str | None = None
    scale: str = "per sample"
    batch_size: int = 16


@dataclass
class Outcome:
    """What was written, and what was not."""

    folder: Path
    results: list[dict[str, Any]] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)
    interrupted: bool = False


def explain_pictures(
    loaded: LoadedModel,
    squeeze: Squeeze,
    sources: Sequence[ImageSource],
    folder: Path,
    options: Options,
    *,
    about: dict[str, Any],
    failures: Failures,
    done: Callable[[int], None],
) -> Outcome:
    """Explain every picture; a bad one is reported and left out, an interrupt keeps what is finished.

    Raises:
        InputError: the folder cannot be written to (also: the disk is full).
        SqueezeError: options that no picture can be explained with.

    """
    target = output_folder(folder)
    outcome = Outcome(target)
    geometry = Geometry(loaded.preprocess)
    tiles: list[Image.Image] = []
    shared = _SharedScale() if options.scale == "shared" else None
    try:
        for prepared in batches(loaded, sources, options.batch_size, failures, done):
            explanation = _explained(squeeze, loaded, prepared, options)
            for i, one in enumerate(prepared):
                box, doubt = _box(geometry, one)
                row, pictures = _draw(squeeze, loaded, explanation[i], one, box, doubt, options)
                row["files"] = _write(target, one, pictures[:2], explanation[i], outcome)
                outcome.results.append(row)
                if shared is not None:
                    shared.keep(one, explanation[i], box, row)
                if len(tiles) < SHEET_LIMIT:
                    tiles.append(pictures[2])
                done(1)
    except KeyboardInterrupt:
        outcome.interrupted = True
    outcome.failures = failures.found
    if shared is not None and outcome.results:
        tiles = shared.redraw(target)
    _finish(outcome, tiles, about, len(sources), shared.scale if shared is not None else None)
    return outcome


def _explained(squeeze: Squeeze, loaded: LoadedModel, prepared: list[Prepared], options: Options) -> Explanation:
    try:
        explanation = squeeze.explain(
            stacked(loaded, prepared),
            method=options.method,
            target=options.target,
            output=options.output,
            keep=options.keep,
        )
    except SqueezeError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError) as error:  # the model itself, on this input
        shape = tuple(prepared[0].tensor.shape)
        line = " ".join(str(error).split())[:300]
        raise InputError(
            f"the model {loaded.name} failed on a batch of {len(prepared)} inputs of shape {shape}: {line}"
        ) from error
    if isinstance(explanation.heatmap, dict) or explanation.heatmap.ndim != 3:
        raise InputError(
            "this model's maps are not one picture per image; use it from Python, or 'squeezecam video' for clips"
        )
    return explanation


def _box(geometry: Geometry, one: Prepared) -> tuple[Box | None, str]:
    seen = geometry.seen(one.picture.size)
    if seen.box is None:
        return (
            None,
            f"the map is laid over the whole picture: where the preprocessing looks is not known ({seen.reason})",
        )
    return seen.box, ""


def _draw(
    squeeze: Squeeze,
    loaded: LoadedModel,
    explained: Explanation,
    one: Prepared,
    box: Box | None,
    doubt: str,
    options: Options,
) -> tuple[dict[str, Any], tuple[Image.Image, Image.Image, Image.Image]]:
    found = prediction(squeeze, explained, 0, loaded.labels, options.output)
    heat = explained.heatmap[0].float().cpu().numpy()
    share = float(explained.kept[0].float().mean())
    status = "; ".join(part for part in (explained.status[0], doubt) if part and part != "ok") or "ok"
    scale = find_scale([heat], "quantile" if options.scale == "quantile" else "per sample")
    notice = "" if status == "ok" else status
    footer = f"{loaded.name} · method: {explained.method} · {share:.0%} of channels kept"
    row = {
        "file": one.source.label,
        "name": one.source.name,
        "target": found.target,
        "label": found.label,
        "probability": found.probability,
        "value": found.value,
        "method": explained.method,
        "status": status,
        "share_kept": share,
        "hottest": float(heat.max()) if heat.size else None,
        "seen_box": box,
    }
    whole = panel(one.picture, heat, title=found.title(), footer=footer, notice=notice, box=box, scale=scale)
    plain = overlay(one.picture, heat, box=box, scale=scale)
    small = tile(one.picture, heat, caption=found.title(), notice=notice[:60], box=box, scale=scale)
    return row, (whole, plain, small)


def _write(
    target: Path, one: Prepared, pictures: Sequence[Image.Image], explained: Explanation, outcome: Outcome
) -> dict[str, str]:
    name = one.source.name
    files = {"panel": f"{name}.png", "overlay": f"{name}.overlay.png", "maps": f"{name}.npz"}
    outcome.written.append(write_picture(target / files["panel"], pictures[0]))
    outcome.written.append(write_picture(target / files["overlay"], pictures[1]))
    outcome.written.append(write_npz(target / files["maps"], arrays(explained)))
    return files


class _SharedScale:
    """Redraws overlays on one scale once all maps are known; pictures are read again, so memory stays small."""

    def __init__(self) -> None:
        self.items: list[tuple[ImageSource, torch.Tensor, Box | None, dict[str, Any]]] = []
        self.scale: Scale | None = None

    def keep(self, one: Prepared, explained: Explanation, box: Box | None, row: dict[str, Any]) -> None:
        self.items.append((one.source, explained.heatmap[0].half().cpu(), box, row))

    def redraw(self, target: Path) -> list[Image.Image]:
        finite = [float(h[h.isfinite()].max()) if h.isfinite().any() else 0.0 for _, h, _, _ in self.items]
        top = max([*finite, 1e-30])
        self.scale = Scale(0.0, top, "shared")
        tiles: list[Image.Image] = []
        for source, heat, box, row in self.items:
            picture = source.read()
            title = (
                f"{row['label']} · {row['probability']:.1%}"
                if row["probability"] is not None
                else f"{row['label']} {row['value']:.4g}"
            )
            notice = "" if row["status"] == "ok" else row["status"]
            footer = f"method: {row['method']} · {row['share_kept']:.0%} of channels kept"
            values = heat.float().numpy()
            write_picture(
                target / row["files"]["panel"],
                panel(picture, values, title=title, footer=footer, notice=notice, box=box, scale=self.scale),
            )
            write_picture(target / row["files"]["overlay"], overlay(picture, values, box=box, scale=self.scale))
            if len(tiles) < SHEET_LIMIT:
                tiles.append(
                    tile(
                        picture, values, caption=title, notice=notice[:60], box=box, scale=self.scale, show_scale=False
                    )
                )
        return tiles


def _finish(outcome: Outcome, tiles: list[Image.Image], about: dict[str, Any], asked: int, scale: Scale | None) -> None:
    if tiles:
        left = len(outcome.results) - len(tiles)
        words = f"{about['model']} · method: {outcome.results[0]['method']}" + (
            f" · {left} more are not shown" if left > 0 else ""
        )
        sheet = contact_sheet(tiles, title=f"{len(outcome.results)} pictures", footer=words, scale=scale)
        outcome.written.append(write_picture(outcome.folder / SHEET, sheet))
    record = {
        **about,
        "asked": asked,
        "explained": len(outcome.results),
        "failed": [{"file": file, "reason": reason} for file, reason in outcome.failures],
        "interrupted": outcome.interrupted,
        "results": outcome.results,
    }
    outcome.written.append(write_json(outcome.folder / RESULTS, record))
