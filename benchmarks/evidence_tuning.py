"""What was tried, on the tuning half: enlarging, forms of ``focus``, the refiner.

    python benchmarks/evidence_tuning.py --model mobilenet_v2 --adapter m.squeeze.safetensors
    python benchmarks/evidence_tuning.py --model squeezenet --place          # localisation alone, in a minute

120 ILSVRC training pictures, every eighth of each class, with boxes that we drew by eye (``tuning_boxes.csv``). An
adapter has to be fitted on the others (``--others`` lists them). In brackets: 95 % intervals of the paired difference
to the class map enlarged linearly, which is Grad-CAM where the head is pooling and a linear layer. Controls come last.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import squeezecam
from evidence import SHORT
from material import MissingMaterialError, folder, load
from squeezecam import heatmap, likeness
from squeezecam.focus import on_finer_grid, speaking_for
from squeezecam.metrics.statistics import bootstrap_difference
from squeezecam.module import Squeeze
from squeezecam.peers import MapMethod

BOXES = Path(__file__).with_name("tuning_boxes.csv")
FRAME = 224
PLACE = "pointing_game,energy_pointing_game,max_box_acc,max_box_acc_v2"
FIRST = "class, linear"


def pictures_of(every: int = 8, count: int = 24) -> tuple[list[Path], list[Path]]:
    """The pictures to choose by, and the others."""
    files = sorted((folder() / "imagenet" / "fit1000").iterdir())
    kinds: dict[str, list[Path]] = {}
    for file in files:
        kinds.setdefault(file.name.split("_")[0], []).append(file)
    chosen = [file for kind in kinds.values() for file in kind[: every * count : every]]
    return chosen, sorted(set(files) - set(chosen))


def boxes_of(files: Sequence[Path], size: int) -> list[Tensor]:
    found: dict[str, list[list[float]]] = {}
    with BOXES.open(encoding="utf-8") as opened:
        for row in csv.DictReader(opened):
            found.setdefault(row["file"], []).append([float(row[k]) * size / FRAME for k in ("x0", "y0", "x1", "y1")])
    return [torch.tensor(found[file.name]) for file in files]


def explained(name: str, method: str, upsample: str | None = None) -> MapMethod:
    def run(squeeze: Squeeze, inputs: Any, target: Tensor | None, **_: Any) -> Tensor:
        return squeeze.explain(inputs, method=method, target=target, upsample=upsample).heatmap

    return MapMethod(name, name, "own", run, lambda squeeze, shape: 1.0)


def formed(
    name: str, form: Callable[[Tensor, Tensor], Tensor], speaking: bool = False,
    walk: tuple[float, int] | None = None, close: float | None = None,
) -> MapMethod:  # fmt: skip
    """A form of class evidence, or of what speaks for the class, and of the principal component, both enlarged by
    splines and over their maxima; ``walk``: spread before, alike to this much of the others, in this many steps;
    ``close``: times the evidence, not spread, through a Gaussian of this share of the picture.
    """

    def run(squeeze: Squeeze, inputs: Any, target: Tensor | None, **_: Any) -> Tensor:
        with torch.no_grad():
            result, captures = squeeze.capture(inputs)
            features = next(iter(captures.values())).features
            goal = squeeze.select(result).argmax(1) if target is None else target
            head = squeeze.evidence()
            if speaking:
                evidence = speaking_for(head, squeeze.model, features, goal)
            else:
                evidence = head.class_map(squeeze.model, features, goal)
            maps = [evidence, heatmap.principal(features)]
            if walk is not None:
                alike = likeness.affinities(features, tuple(features.shape[2:]), alike=walk[0])
                maps = [likeness.spread(one, alike, walk[1]) for one in maps]
            found = form(*on_finer_grid(*maps))
            if close is not None:
                height, width = found.shape[1:]
                found = found * heatmap.over_maximum(heatmap.through_gaussian(evidence, (height, width), close))
            return heatmap.upsample(found, tuple(inputs.shape[-2:]), "spline")

    return MapMethod(name, name, "own", run, lambda squeeze, shape: 1.0)


def half(speaking: Tensor, component: Tensor) -> Tensor:
    return (speaking * (0.5 + component)) ** 2


def milder(speaking: Tensor, component: Tensor) -> Tensor:
    return (speaking * (0.5 + component)) ** 1.5


def variants(squeeze: Squeeze) -> list[MapMethod]:
    made = [
        explained(FIRST, "class", "linear"),
        explained("class, bicubic", "class", "bicubic"),
        explained("class, spline", "class"),
        formed("component, spline", lambda c, e: e),
        formed("c (0.3 + e)", lambda c, e: (c * (0.3 + e)) ** 1.4),
        formed("c (1 + e)", lambda c, e: (c * (1 + e)) ** 2),
        formed("f", lambda f, e: f, speaking=True),
        formed("f (0.3 + e)", lambda f, e: (f * (0.3 + e)) ** 1.4, speaking=True),
        formed("f (2 + e)", lambda f, e: (f * (2 + e)) ** 2, speaking=True),
        formed("f (1 + e)", lambda f, e: (f * (1 + e)) ** 2, speaking=True),
        formed("f (0.5 + e), squared", half, speaking=True),
        formed("f spread, .02, 2 steps", lambda f, e: f, speaking=True, walk=(0.02, 2)),
        formed("f (1 + e) spread, .02, 2 steps", lambda f, e: (f * (1 + e)) ** 2, speaking=True, walk=(0.02, 2)),
        formed("f (0.5 + e) spread, .02, 1 step", half, speaking=True, walk=(0.02, 1)),
        formed("f (0.5 + e) spread, .02, 3 steps", half, speaking=True, walk=(0.02, 3)),
        formed("f (0.5 + e) spread, .005, 2 steps", half, speaking=True, walk=(0.005, 2)),
        formed("f (0.5 + e) spread, .05, 2 steps", half, speaking=True, walk=(0.05, 2)),
        formed("f (0.5 + e) spread, .02, 2 steps", half, speaking=True, walk=(0.02, 2)),
        *(
            formed(f"the same to 1.5, times f through {share}", milder, speaking=True, walk=(0.02, 2), close=share)
            for share in (0.08, 0.15, 0.3)
        ),
    ]
    made.append(explained("focus" if squeeze.locator() is None else "focus, fitted locator", "focus"))
    if squeeze.fitted:
        made.append(explained("published", "published"))
    if squeeze.refiner() is not None:
        made += [explained(f"refined, {how}", "refined", how) for how in ("linear", "spline")]
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilenet_v2", choices=("mobilenet_v2", "squeezenet"))
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--place", action="store_true", help="localisation alone")
    parser.add_argument("--others", action="store_true", help="list the pictures to fit an adapter on, and stop")
    parser.add_argument("--sample", type=int)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    try:
        files, others = pictures_of()
        model, preprocess = load(arguments.model)
    except MissingMaterialError as error:
        raise SystemExit(f"skipped: {error}") from None
    if arguments.others:
        print("\n".join(str(file) for file in others))
        return
    images = torch.stack([preprocess(Image.open(file).convert("RGB")) for file in files])
    squeeze = squeezecam.attach(model, images[:2])
    if arguments.adapter is not None:
        squeeze = squeezecam.load(arguments.adapter, model, images[:2])
    found = squeezecam.evaluate(
        squeeze, images, variants(squeeze), PLACE if arguments.place else f"default,{PLACE}",
        boxes=boxes_of(files, images.shape[-1]), sample=arguments.sample, out=arguments.out,
    )  # fmt: skip
    columns = [c for c in found.columns if c.name not in ("insertion", "deletion", "average_gain")]
    print(f"{arguments.model}, {len(found.records)} pictures\n")
    print("| map | " + " | ".join(SHORT.get(c.name, c.name) for c in columns) + " |")
    print("|---|" + "---|" * len(columns))
    figures = found.figures("all")
    for name, (label, _) in found.methods.items():
        cells = []
        for column in columns:
            text = f"{figures[name][column.name].value.mean:.3f}".replace("0.", ".", 1)
            if name != FIRST and "levels" not in column.needs and column.higher_is_better is not None:
                gap = bootstrap_difference(found.values(name, column.name), found.values(FIRST, column.name), seed=0)
                text += f" [{gap.low:+.3f}, {gap.high:+.3f}]"
            cells.append(text)
        print(f"| {label} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
