"""The label-free fit, judged on pictures and on classes that it never saw, beside the controls.

The tuning half of each data set is fitted on with some classes left out; the pictures of these classes in the
reporting half are explained. So every figure is of a picture whose class no fitted picture has. Without the
material (see ``material.py``) the embedded default still runs: ``--models demo``.

    python benchmarks/fit_unseen.py --models mobilenet_v2 squeezenet --images 100 --json out.json
    python benchmarks/fit_unseen.py --models squeezenet --tune          # the block tuned on the same pictures
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import squeezecam
from material import SUBJECTS, MissingMaterialError, Subject, demo_subject, subject
from squeezecam import heatmap, metrics, vector
from squeezecam.files import write_json, write_text
from squeezecam.fit.report import wilson
from squeezecam.render.table import markdown_table, text_table

OWN = ("published", "contribution", "class")
CONTROLS = ("all-channel mean", "random 10 % of channels", "random map", "centred Gaussian")
DEMO = "demo"
IMAGES = {"mobilenet_v2": 100, "squeezenet": 100, "cifar_resnet20": 500, "face_expression": 300, DEMO: 300}
"""Pictures whose insertion and deletion curves are drawn, at most; everything else is on all of the reporting half."""
BATCH, SMALL_BATCH = 25, 4  # small batches stay in a CPU's cache: the curves run twice as fast


@dataclass
class Scores:
    """Per-picture scores of each map, in the order in which pictures were explained."""

    pointing: dict[str, list[Tensor]] = field(default_factory=dict)
    faithful: dict[str, list[Tensor]] = field(default_factory=dict)
    drop: dict[str, list[Tensor]] = field(default_factory=dict)
    hard: list[Tensor] = field(default_factory=list)
    same: list[Tensor] = field(default_factory=list)
    kept: list[vector.Kept] = field(default_factory=list)

    @staticmethod
    def add(where: dict[str, list[Tensor]], name: str, values: Tensor) -> None:
        where.setdefault(name, []).append(values.float())


def measure(
    what: Subject, images: int, steps: int, draws: int, seed: int, hidden: int | None = None, tune: bool = False
) -> dict[str, Any]:
    """Fit per fold, explain the pictures of the classes left out, and sum up: plain values for JSON."""
    started = time.perf_counter()
    groups = what.groups if what.groups is not None else _predicted(what)
    wanted = spread(what.reporting, images)
    generators = {name: torch.Generator().manual_seed(seed + i) for i, name in enumerate(("map", *range(draws)))}
    scores = Scores()
    folds: list[dict[str, Any]] = []
    for left_out in what.folds:
        fitted_on = [i for i in what.tuning if int(groups[i]) not in left_out]
        unseen = [i for i in what.reporting if int(groups[i]) in left_out]
        if not unseen:
            continue
        squeeze = squeezecam.attach(what.model, what.inputs(fitted_on[:2]), apply="gate")
        report = squeeze.fit(_batches(what, fitted_on), hidden=hidden, seed=seed, progress=False)
        if tune:
            mixed = [
                fitted_on[i] for i in torch.randperm(len(fitted_on), generator=torch.Generator().manual_seed(seed))
            ]
            squeeze.tune(list(_batches(what, mixed, SMALL_BATCH)), seed=seed, progress=False)
        before = len(scores.same)
        for start in range(0, len(unseen), BATCH):
            indices = unseen[start : start + BATCH]
            x = what.inputs(indices)
            with torch.no_grad():
                target = what.model(x).argmax(1)
                scores.same.append(squeeze(x).argmax(1) == target)
            maps, kept = _maps(squeeze, x, target, generators, draws)
            scores.kept.append(kept)
            if what.boxes is not None:
                _point(scores, maps, what, indices)
            _curves(scores, maps, what.model, x, target, [k for k, i in enumerate(indices) if i in wanted], steps)
        folds.append(
            {
                "left_out": list(left_out), "fitted_on": len(fitted_on), "reported": len(unseen),
                "unchanged": _mean(torch.cat(scores.same[before:]).float()),
                "seconds": report.seconds, "settings": report.settings,
            }
        )  # fmt: skip
    unchanged = torch.cat(scores.same).float()
    share = torch.cat([kept.share for kept in scores.kept])
    return {
        "model": what.name,
        "data": what.data,
        "pictures": len(unchanged),
        "parameters_added": sum(p.numel() for p in squeeze.blocks.parameters()),
        "hidden": squeeze.block().hidden,
        "unchanged": _mean(unchanged),
        "unchanged_interval": wilson(_mean(unchanged), len(unchanged)),
        "worst_fold": min(fold["unchanged"] for fold in folds),
        "share_kept": {"median": float(share.median()), "min": float(share.min()), "max": float(share.max())},
        "fallback": _mean(torch.cat([kept.fallback for kept in scores.kept]).float()),
        "tied": _mean(torch.cat([kept.tied for kept in scores.kept]).float()),
        "folds": folds,
        "pointing": compared(scores.pointing, draws, torch.cat(scores.hard) if scores.hard else None),
        "insertion_minus_deletion": compared(scores.faithful, draws, None),
        "average_drop": compared(scores.drop, draws, None),
        "seconds": round(time.perf_counter() - started, 1),
    }


def _maps(
    squeeze: squeezecam.Squeeze, x: Tensor, target: Tensor, generators: dict[Any, torch.Generator], draws: int
) -> tuple[dict[str, Tensor], vector.Kept]:
    """Maps ``(N, H, W)`` of every method and control, and what the published rule kept."""
    size = (x.shape[-2], x.shape[-1])
    maps = {}
    for name in OWN:
        explained = squeeze.explain(x, method=name, target=target)
        maps[name] = explained.heatmap
    with torch.no_grad():
        features = squeeze.capture(x)[1]["map"].features
    native = {"all-channel mean": metrics.all_channel_mean(features)}
    for draw in range(draws):
        native[f"{CONTROLS[1]}#{draw}"] = metrics.random_channels(features, 0.1, generators[draw])
    native["random map"] = metrics.random_map(len(x), (features.shape[-2], features.shape[-1]), generators["map"])
    maps |= {name: heatmap.upsample(one, size).clamp_min(0) for name, one in native.items()}
    maps["centred Gaussian"] = metrics.centred_gaussian(len(x), *size)
    return maps, vector.zscore(explained.gates)


def _point(scores: Scores, maps: dict[str, Tensor], what: Subject, indices: list[int]) -> None:
    assert what.boxes is not None
    masks = metrics.boxes_to_mask([what.boxes[i] for i in indices], *maps["published"].shape[1:])
    for name, one in maps.items():
        scores.add(scores.pointing, name, metrics.pointing_game(one, masks))
    scores.hard.append(torch.tensor([i in what.hard for i in indices]))


def _curves(
    scores: Scores, maps: dict[str, Tensor], model: nn.Module, x: Tensor, target: Tensor, rows: list[int], steps: int
) -> None:
    """Insertion minus deletion of the explained class's probability, and its drop under the map as a mask, for the
    pictures ``rows`` of the batch.
    """
    if not rows:
        return
    x, target = x[rows], target[rows]
    kernel = min(51, 2 * (x.shape[-1] // 2) - 1)
    blurred = metrics.gaussian_blur(x, kernel=kernel, sigma=kernel / 5)

    def predict(pictures: Tensor) -> Tensor:
        found: Tensor = model(pictures.contiguous(memory_format=torch.channels_last))
        return found

    options: dict[str, Any] = {"steps": steps, "batch_size": SMALL_BATCH}
    for name, one in maps.items():
        inserted = metrics.insertion(predict, x, one[rows], target, base=blurred, **options).score
        deleted = metrics.deletion(predict, x, one[rows], target, base="mean", **options).score
        scores.add(scores.faithful, name, inserted - deleted)
        confidence = metrics.masked_confidence(predict, x, one[rows], target, batch_size=SMALL_BATCH)
        scores.add(scores.drop, name, metrics.average_drop(*confidence))


def compared(found: dict[str, list[Tensor]], draws: int, hard: Tensor | None) -> dict[str, Any]:
    """Mean of each map, and the published one minus it over the same pictures, with bootstrap 95 % intervals."""
    if not found:
        return {}
    scores = {name: torch.cat(parts) for name, parts in found.items()}
    drawn = [scores.pop(f"{CONTROLS[1]}#{draw}") for draw in range(draws)]
    scores[CONTROLS[1]] = torch.stack(drawn).mean(0)
    several = hard is not None and bool(hard.any())
    rows: dict[str, Any] = {}
    for name in (*OWN, *CONTROLS):
        row: dict[str, Any] = {"mean": _mean(scores[name]), "pictures": len(scores[name])}
        if name == CONTROLS[1]:
            row["draws"] = [_mean(one) for one in drawn]
        if name != OWN[0]:
            row["published_minus_this"] = metrics.bootstrap_difference(scores[OWN[0]], scores[name])[:3]
        if hard is not None and several:
            row |= {"hard": _mean(scores[name][hard]), "hard_pictures": int(hard.sum())}
            if name != OWN[0]:
                row["hard_published_minus_this"] = metrics.bootstrap_difference(
                    scores[OWN[0]][hard], scores[name][hard]
                )[:3]
        rows[name] = row
    return rows


def spread(indices: list[int], count: int) -> set[int]:
    """``count`` of the indices, evenly spread, or all."""
    if count >= len(indices):
        return set(indices)
    return {indices[i * len(indices) // count] for i in range(count)}


def _predicted(what: Subject) -> Tensor:
    every = range(max(*what.tuning, *what.reporting) + 1)
    with torch.no_grad():
        return torch.cat([what.model(x).argmax(1) for x in _batches(what, list(every), 100)])


def _batches(what: Subject, indices: list[int], size: int = BATCH) -> Iterator[Tensor]:
    return (what.inputs(indices[i : i + size]) for i in range(0, len(indices), size))


def _mean(values: Tensor) -> float:
    return float(values.nanmean())


def tables(results: list[dict[str, Any]], *, markdown: bool) -> str:
    """All results for people."""
    draw = markdown_table if markdown else text_table
    head = [
        {
            "model": r["model"],
            "pictures": r["pictures"],
            "unchanged": f"{r['unchanged']:.3f} [{r['unchanged_interval'][0]:.3f}, {r['unchanged_interval'][1]:.3f}]",
            "worst fold": f"{r['worst_fold']:.3f}",
            "share kept, median [range]": "{median:.3f} [{min:.3f}, {max:.3f}]".format(**r["share_kept"]),
            "fallback": f"{r['fallback']:.4f}",
            "gates all equal": f"{r['tied']:.4f}",
            "hidden": r["hidden"],
            "parameters": f"{r['parameters_added']:,}",
        }
        for r in results
    ]
    parts = [draw(head)]
    titles = {
        "pointing": "pointing game",
        "insertion_minus_deletion": "insertion minus deletion",
        "average_drop": "average drop, lower is better",
    }
    for key, title in titles.items():
        for r in results:
            if r[key]:
                count = r[key]["published"]["pictures"]
                hard = r[key]["published"].get("hard_pictures")
                note = f", {hard} of them hard" if hard else ""
                parts.append(f"{r['model']}: {title}, {count} pictures{note}\n\n{draw(_rows(r[key]))}")
    return "\n\n".join(parts)


def _rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name, row in found.items():
        line: dict[str, Any] = {"map": name, "mean": f"{row['mean']:.3f}", "published minus it": _interval(row, "")}
        if "hard" in row:
            line |= {"hard": f"{row['hard']:.3f}", "published minus it, hard": _interval(row, "hard_")}
        rows.append(line)
    return rows


def _left_out(result: dict[str, Any]) -> str:
    return " | ".join(" ".join(str(group) for group in fold["left_out"]) for fold in result["folds"])


def _interval(row: dict[str, Any], prefix: str) -> str | None:
    found = row.get(f"{prefix}published_minus_this")
    return f"{found[0]:+.3f} [{found[1]:+.3f}, {found[2]:+.3f}]" if found else None


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    known = (*SUBJECTS, DEMO)
    parser.add_argument("--models", nargs="+", choices=known, default=known, metavar="NAME", help=", ".join(known))
    parser.add_argument("--images", type=int, help="pictures for insertion and deletion (default: 100 to 500)")
    parser.add_argument("--steps", type=int, default=8, help="steps of the insertion and deletion curves")
    parser.add_argument("--draws", type=int, default=3, help="draws of random channels")
    parser.add_argument("--hidden", type=int, help="hidden units of the block (default: those that the fit chooses)")
    parser.add_argument("--tune", action="store_true", help="tune the fitted block: about five minutes a fold")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", metavar="FILE", help="write everything that was measured")
    parser.add_argument("--markdown", metavar="FILE", help="write the tables")
    given = parser.parse_args()
    if min(given.steps, given.draws, given.threads) < 1 or (given.images is not None and given.images < 1):
        parser.error("--images, --steps, --draws and --threads must be at least 1")
    torch.set_num_threads(given.threads)
    results = []
    for name in given.models:
        try:
            what = demo_subject() if name == DEMO else subject(name)
        except MissingMaterialError as error:
            print(f"{name}: skipped, {error}", file=sys.stderr)
            continue
        images = given.images or IMAGES[name]
        results.append(measure(what, images, given.steps, given.draws, given.seed, given.hidden, given.tune))
        print(f"{name}: {results[-1]['data']}; {results[-1]['seconds']:.0f} s", file=sys.stderr, flush=True)
    if not results:
        return 1
    command = " ".join(["python benchmarks/fit_unseen.py", *sys.argv[1:]])
    run = {
        "command": command, "seed": given.seed, "steps": given.steps, "draws": given.draws, "threads": given.threads,
        "torch": torch.__version__, "squeezecam": squeezecam.__version__, "python": platform.python_version(),
    }  # fmt: skip
    settings = f"seed {given.seed}, {given.steps} steps, {given.draws} draws of random channels"
    intro = f"{command}\n{settings}, torch {torch.__version__}"
    data = "\n".join(f"{r['model']}: {r['data']}; left out together: {_left_out(r)}" for r in results)
    print(f"{intro}\n{data}\n\n{tables(results, markdown=False)}")
    if given.json:
        write_json(given.json, {"run": run, "results": results})
    if given.markdown:
        write_text(given.markdown, f"```\n{intro}\n{data}\n```\n\n{tables(results, markdown=True)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
