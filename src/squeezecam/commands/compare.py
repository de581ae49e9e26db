"""``squeezecam compare``: picture files as rows, methods as columns, the time of each under each."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from squeezecam.commands.pictures import Failures, prepare, stacked
from squeezecam.commands.predictions import classes_of, legible
from squeezecam.data.geometry import Geometry
from squeezecam.errors import SqueezeWarning
from squeezecam.evaluation.comparing import Comparison, compare
from squeezecam.evaluation.doubting import counted, in_words, joined_doubts
from squeezecam.files import output_folder, write_json, write_picture
from squeezecam.links import probability_in_words
from squeezecam.models.labels import Labels, label_of, other_count
from squeezecam.models.loaded import LoadedModel
from squeezecam.module import Squeeze
from squeezecam.peers import MapMethod
from squeezecam.wording import shortened

if TYPE_CHECKING:
    from squeezecam.data.images import ImageSource

ROWS = 12
"""Pictures on one sheet; more make further sheets."""
NAME = 31
"""Letters of a picture's name beside its row."""


@dataclass
class Compared:
    """What was written, the times per method, and what is doubtful about the maps, in words."""

    folder: Path
    times: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[dict[str, Any]] = field(default_factory=list)
    forward: float = float("nan")
    doubts: list[str] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)


def compare_pictures(
    loaded: LoadedModel,
    squeeze: Squeeze,
    sources: Sequence[ImageSource],
    folder: Path,
    methods: str | list[MapMethod] | None,
    *,
    target: int | None,
    output: str | None,
    seed: int,
    about: dict[str, Any],
    failures: Failures,
    done: Callable[[int], None],
) -> Compared:
    """Write ``comparison.png`` (``comparison_2.png``, ... where there are many pictures) and ``comparison.json``.

    Windows of clips are drawn from what the model takes, a few frames of each.
    """
    import statistics

    result = Compared(output_folder(folder))
    geometry = Geometry(loaded.preprocess)
    found: list[Comparison] = []
    for start in range(0, len(sources), ROWS):
        comparisons, pictures, boxes, rows = [], [], [], []
        for source in sources[start : start + ROWS]:
            one = prepare(loaded, source, failures)
            if one is not None:
                inputs = stacked(loaded, [one])
                compared = compare(squeeze, inputs, methods, target=target, output=output, seed=seed)
                if not result.pictures and loaded.labels is not None:
                    line = other_count(loaded.labels, squeeze.output_name(output), classes_of(squeeze, inputs, output))
                    if line:
                        warnings.warn(line, SqueezeWarning, stacklevel=2)
                if not loaded.clip:
                    seen = geometry.seen(one.picture.size)
                    compared.maps = {name: seen.upright(maps) for name, maps in compared.maps.items()}
                    pictures.append(one.picture)
                    boxes.append(seen.box)
                comparisons.append(compared)
                label = _label(compared, loaded.labels, squeeze.output_name(output))
                rows.append(f"{shortened(source.name, NAME)}\n{label}")
                result.pictures.append({"file": source.label, "label": label, **_numbers(compared)})
            done(1)
        if not comparisons:
            continue
        found += comparisons
        whole = _joined(comparisons)
        sheet = whole.plot(
            pictures or None, row_labels=rows, boxes=boxes or None, title=f"{loaded.name}: methods side by side",
            notice="\n".join(loaded.cautions()),
        )  # fmt: skip
        number = start // ROWS + 1
        name = "comparison.png" if number == 1 else f"comparison_{number}.png"
        result.written.append(write_picture(result.folder / name, sheet))
    if found:
        times = [c.times() for c in found]
        result.forward = statistics.median(float(c.forward[0]) for c in found)
        result.times = [
            {**rows[0], "seconds": statistics.median(r["seconds"] for r in rows),
             "forwards": statistics.median(r["forwards"] for r in rows)}
            for rows in zip(*times, strict=True)
        ]  # fmt: skip
        doubts = counted(c.doubts for c in found)
        labels_of = {m.name: m.label for m in found[0].methods}
        result.doubts = in_words(doubts, labels_of, len(found), "picture")
        record = {**about, "confidence_is": probability_in_words(squeeze, squeeze.output_name(output)),
                  "forward_seconds": result.forward, "methods": result.times, "doubts": doubts,
                  "pictures": result.pictures,
                  "failures": [{"file": file, "reason": reason} for file, reason in failures.found]}  # fmt: skip
        result.written.append(write_json(result.folder / "comparison.json", record))
    return result


def _label(one: Comparison, labels: Labels | None, output: str) -> str:
    target = int(one.target[0])
    return f"{legible(label_of(labels, target, output), target)} · {float(one.confidence[0]):.1%}"


def _numbers(one: Comparison) -> dict[str, Any]:
    return {
        "target": int(one.target[0]),
        "confidence": float(one.confidence[0]),
        "forward_seconds": float(one.forward[0]),
        "seconds": {m.name: float(one.seconds[m.name][0]) for m in one.methods},
        "doubts": {name: lines[0] for name, lines in one.doubts.items()},
    }


def _joined(parts: Sequence[Comparison]) -> Comparison:
    import torch

    first = parts[0]
    names = [m.name for m in first.methods]
    return Comparison(
        first.methods,
        {name: torch.cat([p.maps[name] for p in parts]) for name in names},
        {name: torch.cat([p.seconds[name] for p in parts]) for name in names},
        torch.cat([p.forward for p in parts]),
        torch.cat([p.target for p in parts]),
        torch.cat([p.confidence for p in parts]),
        torch.cat([p.pictures for p in parts]),
        joined_doubts([p.doubts for p in parts], [len(p) for p in parts]),
    )
