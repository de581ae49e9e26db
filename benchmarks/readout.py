"""The class read-out on trained networks whose head is no known form: R², pointing, insertion and deletion, controls.

    python benchmarks/readout.py --weights DIR --json out.json --markdown out.md

Networks are trained first where DIR does not hold them (see ``readout_subjects.py``). Fitted without labels on pictures
that the networks may have seen; everything is reported on pictures that neither the networks nor the fit have seen.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import squeezecam
from material import MissingMaterialError
from readout_subjects import NAMES, Trained, trained
from squeezecam import heatmap, metrics
from squeezecam.files import write_json, write_text
from squeezecam.module import Squeeze
from squeezecam.readout import position_features
from squeezecam.render.table import markdown_table, text_table
from squeezecam.ridge import ridge

CLASS = "class, by the read-out"
MAPS = (
    CLASS,
    "published, fitted gates",
    "class, by a read-out of plain means",
    "all channels, contrast",
    "all channels, mean",
    "random 10 % of channels",
    "random map",
    "centred Gaussian",
)
BATCH, SMALL_BATCH = 50, 16


def measure(what: Trained, images: int, steps: int, draws: int, seed: int) -> dict[str, Any]:
    """Plain values for JSON."""
    started = time.perf_counter()
    squeeze = squeezecam.attach(what.model, what.fit[:2])
    report = squeeze.fit(list(what.fit.split(BATCH)), seed=seed, progress=False)
    plain = _plain_readout(squeeze, what.fit)
    scores: dict[str, dict[str, list[Tensor]]] = {"pointing": {}, "insertion minus deletion": {}}
    right: list[Tensor] = []
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, len(what.report), BATCH):
        x, labels = what.report[start : start + BATCH], what.labels[start : start + BATCH]
        maps, target = _maps(squeeze, x, plain, draws, generator)
        right.append(target == labels)
        if what.boxes is not None:
            boxes = what.boxes[start : start + BATCH].float()
            masks = metrics.boxes_to_mask(list(boxes[:, None]), *x.shape[-2:])
            for name, one in maps.items():
                scores["pointing"].setdefault(name, []).append(metrics.pointing_game(one, masks).float())
        count = max(0, min(len(x), images - start))
        if count:
            for name, values in _curves(what, x[:count], target[:count], maps, steps).items():
                scores["insertion minus deletion"].setdefault(name, []).append(values)
    return {
        "network": what.name,
        "data": what.data,
        "place": next(iter(squeeze.places.values())).describe(),
        "accuracy": float(torch.cat(right).float().mean()),
        "read_out": report.readouts,
        "unchanged": report.unchanged,
        "pictures": len(what.report),
        "seconds": round(time.perf_counter() - started, 1),
        "scores": {kind: compared(found, draws) for kind, found in scores.items() if found},
    }


def _plain_readout(squeeze: Squeeze, x: Tensor) -> Tensor:
    """``(K, C)``: ridge from plain means, the penalty by leave-one-out error: what a first thought would take."""
    parts = [squeeze.capture(batch) for batch in x.split(BATCH)]
    with torch.no_grad():
        vectors = torch.cat([heatmap.at_least_float32(seen["map"].features).flatten(2).mean(2) for _, seen in parts])
        values = torch.cat([squeeze.select(result).detach() for result, _ in parts])
    return ridge(vectors, values)[0].float()


def _maps(
    squeeze: Squeeze, x: Tensor, plain: Tensor, draws: int, generator: torch.Generator
) -> tuple[dict[str, Tensor], Tensor]:
    size = (x.shape[-2], x.shape[-1])
    by_class = squeeze.explain(x, method="class")
    assert "read-out" in by_class.method
    target = by_class.target
    assert target is not None
    features = squeeze.capture(x)[1]["map"].features
    spread = position_features(features, "contrast").unflatten(1, (2, -1)).sum(1)
    native = {
        MAPS[2]: heatmap.weighted_sum(features, plain[target]),
        MAPS[3]: spread.mean(1).sqrt(),
        MAPS[4]: metrics.all_channel_mean(features),
        MAPS[6]: metrics.random_map(len(x), (features.shape[-2], features.shape[-1]), generator),
    }
    for draw in range(draws):
        native[f"{MAPS[5]}#{draw}"] = metrics.random_channels(features, 0.1, generator)
    maps = {CLASS: by_class.heatmap, MAPS[1]: squeeze.explain(x, method="published").heatmap}
    maps |= {name: heatmap.upsample(one, size).clamp_min(0) for name, one in native.items()}
    maps[MAPS[7]] = metrics.centred_gaussian(len(x), *size)
    return {name: one.detach() for name, one in maps.items()}, target


def _curves(what: Trained, x: Tensor, target: Tensor, maps: dict[str, Tensor], steps: int) -> dict[str, Tensor]:
    """Insertion from a blurred picture minus deletion to the mean colour, of the predicted class's probability."""
    kernel = min(51, 2 * (min(x.shape[-2:]) // 2) - 1)
    blurred = metrics.gaussian_blur(x, kernel=kernel, sigma=kernel / 5)
    options: dict[str, Any] = {"steps": steps, "batch_size": SMALL_BATCH}
    found = {}
    with torch.no_grad():
        for name, one in maps.items():
            inserted = metrics.insertion(what.model, x, one[: len(x)], target, base=blurred, **options).score
            deleted = metrics.deletion(what.model, x, one[: len(x)], target, base="mean", **options).score
            found[name] = inserted - deleted
    return found


def compared(found: dict[str, list[Tensor]], draws: int) -> dict[str, Any]:
    """Mean of each map, and the class map of the read-out minus it, with bootstrap 95 % intervals."""
    scores = {name: torch.cat(parts) for name, parts in found.items()}
    scores[MAPS[5]] = torch.stack([scores.pop(f"{MAPS[5]}#{draw}") for draw in range(draws)]).mean(0)
    rows: dict[str, Any] = {}
    for name in MAPS:
        rows[name] = {"mean": float(scores[name].nanmean()), "pictures": len(scores[name])}
        if name != CLASS:
            rows[name]["class_minus_this"] = metrics.bootstrap_difference(scores[CLASS], scores[name])[:3]
    return rows


def tables(results: list[dict[str, Any]], *, markdown: bool) -> str:
    """All results for people."""
    draw = markdown_table if markdown else text_table
    head = [
        {
            "network": r["network"],
            "accuracy": f"{r['accuracy']:.3f}",
            "place": r["place"],
            "squeezed": " ".join(r["read_out"]["output"]["pools"].values()),
            "R² of the read-out": f"{r['read_out']['output']['r2']:.2f}",
            "predictions unchanged": f"{r['unchanged']:.3f}",
        }
        for r in results
    ]
    parts = [draw(head)]
    for kind in ("pointing", "insertion minus deletion"):
        shown = [r for r in results if kind in r["scores"]]
        if not shown:
            continue
        rows = []
        for name in MAPS:
            row: dict[str, Any] = {"map": name}
            for r in shown:
                one = r["scores"][kind][name]
                less = one.get("class_minus_this")
                row[f"{r['network']}, {one['pictures']}"] = f"{one['mean']:.3f}" + (
                    f"; {less[0]:+.3f} [{less[1]:+.3f}, {less[2]:+.3f}]" if less else ""
                )
            rows.append(row)
        parts.append(f"{kind}; then the class map minus this\n\n{draw(rows)}")
    return "\n\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--weights", type=Path, required=True, help="folder of the trained weights")
    parser.add_argument("--images", type=int, default=150, help="pictures for insertion and deletion")
    parser.add_argument("--steps", type=int, default=8, help="steps of the insertion and deletion curves")
    parser.add_argument("--draws", type=int, default=3, help="draws of random channels")
    parser.add_argument("--seed", type=int, default=0, help="of training, fit and draws")
    parser.add_argument("--json", metavar="FILE", help="write everything that was measured")
    parser.add_argument("--markdown", metavar="FILE", help="write the tables")
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    for name in given.networks:
        try:
            what = trained(name, given.weights, given.seed)
        except MissingMaterialError as error:
            print(f"{name}: skipped, {error}", file=sys.stderr)
            continue
        results.append(measure(what, given.images, given.steps, given.draws, given.seed))
        print(f"{name}: {results[-1]['data']}; {results[-1]['seconds']:.0f} s", file=sys.stderr, flush=True)
    if not results:
        return 1
    run = {"seed": given.seed, "steps": given.steps, "torch": torch.__version__, "python": platform.python_version()}
    print(tables(results, markdown=False))
    if given.json:
        write_json(given.json, {"run": run, "results": results})
    if given.markdown:
        write_text(given.markdown, tables(results, markdown=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
