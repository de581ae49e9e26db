"""Where maps of a smile and of gender land on real faces, beside the Grad-CAM family and four controls.

Two trained networks (``face_expression`` and ``age_gender`` of the material) keep their weights; the block is fitted,
without labels, on the even-numbered faces, with three seeds. Reported are odd-numbered faces. Parts of a face come from
five landmarks in ``faces_landmarks.csv`` (found by MTCNN, Zhang et al. 2016, in the faces enlarged to 192 pixels; faces
without a find, or with a landmark over 14 of 64 pixels from the median face, are left out) and the rectangles of
``squeezecam.data.face_regions``.

What the network itself looks at is measured apart from all maps: each part is painted over with the picture's mean
colour, and the fall of the probability noted.

    python benchmarks/faces.py [--only smile|gender] [--out FILE.json] [--pictures FOLDER]
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import material
from squeezecam import attach
from squeezecam.data.face_regions import REGIONS, region_mask
from squeezecam.files import write_json, write_picture
from squeezecam.metrics import bootstrap_difference, bootstrap_mean, energy_pointing_game, pointing_game
from squeezecam.module import Squeeze
from squeezecam.peers import MapMethod, choose
from squeezecam.render.compare import comparison_grid
from squeezecam.render.table import text_table

SIDE = 112  # of what both networks take
SEEDS = (0, 1, 2)
METHODS = "published,contribution,class,grad-cam,layercam,eigen-cam"
EARLIER = "published,contribution,grad-cam,layercam,eigen-cam"  # no exact class map before the last stage
BATCH = 31
DRAWS = 8  # of random controls
HAPPY = 1
PARTS = ("forehead", "brows", "eyes", "nose", "mouth", "lower face")


@dataclass
class Faces:
    """Faces to report on.

    Attributes:
        name: of the material's file.
        model: the network.
        fit: pictures (M, 3, 112, 112) of the even-numbered faces.
        report: (N, 3, 112, 112) of the odd-numbered ones that are reported on.
        points: landmarks (N, 5, 2) in pixels of the network's input.
        target: class per face (N,).
        output: name of the network's output.
        mapped: the region that is looked for.
        originals: pictures for people.
        earlier: the output of the stage before the last, 14 x 14 cells.
    """

    name: str
    model: nn.Module
    fit: Tensor
    report: Tensor
    points: np.ndarray
    target: Tensor
    output: str | None
    mapped: str
    originals: list[Image.Image]
    earlier: str

    def masks(self, region: str) -> Tensor:
        return torch.from_numpy(np.stack([face_mask(p) if region == "face" else part(p, region) for p in self.points]))


def part(points: np.ndarray, region: str) -> np.ndarray:
    return region_mask(points, region, SIDE, SIDE)


def face_mask(points: np.ndarray) -> np.ndarray:
    """An oval around brows, cheeks and chin, in the frame of the face: the background and most hair are outside."""
    across = points[1] - points[0]
    down = np.array([-across[1], across[0]])
    down = down * ((points[3:].mean(0) - points[:2].mean(0)) @ down) / (down @ down)
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] + 0.5
    centre = points[:2].mean(0) + 0.5 * down
    x = ((columns - centre[0]) * across[0] + (rows - centre[1]) * across[1]) / (across @ across)
    y = ((columns - centre[0]) * down[0] + (rows - centre[1]) * down[1]) / (down @ down)
    return np.asarray((x / 0.95) ** 2 + (y / 1.15) ** 2 <= 1)


def read_landmarks(name: str, side: int) -> dict[int, np.ndarray]:
    """``{index: (5, 2)}`` in pixels of the network's input."""
    with Path(__file__).with_name("faces_landmarks.csv").open() as file:
        rows = [row for row in csv.reader(file) if row[0] == name]
    return {int(row[1]): np.array(row[2:], float).reshape(5, 2) * SIDE / side for row in rows}


def smile() -> Faces:
    model, preprocess = material.load("face_expression")
    data = np.load(material.folder() / "faces/smiles.npz")
    return _faces(
        "smiles", model, preprocess, data["images"], data["smiling"] == 1, lambda x: HAPPY, None, "mouth", "features_.2"
    )


def gender() -> Faces:
    model, preprocess = material.load("age_gender")
    data = np.load(material.folder() / "faces/utkface400.npz")
    right = data["gender"]
    return _faces(
        "utkface400", model, preprocess, data["images"], np.ones(len(right), bool), lambda i: int(right[i]), "gender",
        "face", "middle",
    )  # fmt: skip


def _faces(
    name: str, model: nn.Module, preprocess: Callable[[Image.Image], Tensor], images: np.ndarray, wanted: np.ndarray,
    target: Callable[[int], int], output: str | None, mapped: str, earlier: str,
) -> Faces:  # fmt: skip
    marks = read_landmarks(name, images.shape[1])
    shown = [i for i in range(1, len(images), 2) if i in marks and wanted[i]]
    pictures = [Image.fromarray(image).convert("RGB") for image in images]
    return Faces(
        name, model, torch.stack([preprocess(p) for p in pictures[::2]]),
        torch.stack([preprocess(pictures[i]) for i in shown]), np.stack([marks[i] for i in shown]),
        torch.tensor([target(i) for i in shown]), output, mapped, [pictures[i] for i in shown], earlier,
    )  # fmt: skip


def fitted(faces: Faces, seed: int, at: str | None) -> Squeeze:
    squeeze = attach(faces.model, faces.fit[:2], at=at)
    output = {"output": faces.output} if faces.output else {}
    squeeze.fit(list(faces.fit.split(50)), inputs=lambda batch: batch, seed=seed, progress=False, **output)
    return squeeze


def hidden_parts(faces: Faces) -> list[dict[str, Any]]:
    """Mean fall of the target's probability where a part is painted over with the picture's mean colour."""

    def probability(pictures: Tensor) -> Tensor:
        found = torch.cat([outputs(faces, x) for x in pictures.split(BATCH)])
        return found.softmax(1)[torch.arange(len(found)), faces.target]

    whole, rows = probability(faces.report), []
    for name in PARTS:
        mask = faces.masks(name)[:, None]
        mean = faces.report.mean((2, 3), keepdim=True)
        fall = bootstrap_mean(whole - probability(torch.where(mask, mean, faces.report)))
        area = float(mask.float().mean())
        rows.append(
            {
                "part": name,
                "area": area,
                "fall": fall.mean,
                "low": fall.low,
                "high": fall.high,
                "per area": fall.mean / area,
            }
        )
    return rows


def maps_of(faces: Faces, squeeze: Squeeze, method: MapMethod, seed: int = 0) -> Tensor:
    """Maps (N, 112, 112) of all faces."""
    found = []
    for start in range(0, len(faces.report), BATCH):
        inputs, target = faces.report[start : start + BATCH], faces.target[start : start + BATCH]
        seeds = [seed * 1_000_003 + start + i for i in range(len(inputs))]
        found.append(method(squeeze, inputs, target, output=faces.output, seeds=seeds).detach())
    return torch.cat(found)


def landing(maps: Tensor, masks: Tensor, offset: tuple[int, int]) -> dict[str, Tensor]:
    """Figures per face, of the maps as they are drawn and moved to where their cells look."""
    found = {}
    for moved, placed in (("", maps), (" moved", shifted(maps, *offset))):
        found[f"pointing{moved}"] = pointing_game(placed, masks).double()
        found[f"energy{moved}"] = energy_pointing_game(placed, masks).double()
    return found


def shifted(maps: Tensor, across: int, down: int) -> Tensor:
    """Maps moved right and down by whole pixels; what comes in at the edge repeats it."""
    y = (torch.arange(maps.shape[1]) - down).clamp(0, maps.shape[1] - 1)
    x = (torch.arange(maps.shape[2]) - across).clamp(0, maps.shape[2] - 1)
    return maps[:, y][:, :, x]


def outputs(faces: Faces, pictures: Tensor) -> Tensor:
    with torch.no_grad():
        found = faces.model(pictures)
    return found[faces.output] if faces.output else found


def field_offset(faces: Faces, squeeze: Squeeze) -> tuple[int, int]:
    """How far right and down of the middle of its cell the middle cell of the map really looks, in pixels.

    The centre of gravity of the gradient of that cell's features, over 32 of the faces that were fitted on. Strided
    convolutions that pad right and below only, as these networks have, move it by half a cell in all.
    """
    place = next(iter(squeeze.places.values()))
    seen: list[Tensor] = []

    def keep(*given: Any) -> None:
        seen.append(given[-1] if isinstance(given[-1], Tensor) else given[-1][0])

    layer = faces.model.get_submodule(place.site.module)  # type: ignore[arg-type]
    output = place.site.when == "output"
    hook = layer.register_forward_hook(keep) if output else layer.register_forward_pre_hook(keep)
    pictures = faces.fit[:32].clone().requires_grad_(True)
    try:
        faces.model(pictures)
    finally:
        hook.remove()
    features = seen[0]
    rows, columns = features.shape[2:]
    (gradient,) = torch.autograd.grad(features[:, :, rows // 2, columns // 2].sum(), pictures)
    weight = gradient.abs().sum((0, 1)).double()
    pixels = torch.arange(SIDE) + 0.5
    x, y = (float((weight.sum(axis) * pixels).sum() / weight.sum()) for axis in (0, 1))
    return round(x - (columns // 2 + 0.5) * SIDE / columns), round(y - (rows // 2 + 0.5) * SIDE / rows)


def run(faces: Faces, pictures: Path | None) -> dict[str, Any]:
    called = torch.cat([outputs(faces, x).argmax(1) for x in faces.report.split(BATCH)]) == faces.target
    found = {
        "faces": len(faces.report), "fitted on": len(faces.fit), "region": faces.mapped,
        "area": float(faces.masks(faces.mapped).float().mean()), "called": int(called.sum()),
        "hidden": hidden_parts(faces),
    }  # fmt: skip
    for place, at, names in (("last", None, METHODS), ("earlier", faces.earlier, EARLIER)):
        squeezes = [fitted(faces, seed, at) for seed in SEEDS]
        print(f"{faces.name}, {place}: {next(iter(squeezes[0].places.values())).describe()}", flush=True)
        found[place] = table(faces, squeezes, names, called)
        if pictures is not None:
            draw(faces, squeezes[0], names, pictures / f"{faces.name}_{place}.png")
    return found


def table(faces: Faces, squeezes: list[Squeeze], names: str, called: Tensor) -> dict[str, Any]:
    masks, first = faces.masks(faces.mapped), squeezes[0]
    offset = field_offset(faces, first)
    figures: dict[str, dict[str, Tensor]] = {}
    rows = []
    for name, method in {m.name: m for m in choose([*names.split(","), "controls"])}.items():
        place = (0, 0) if name in ("random-map", "centred-gaussian") else offset  # these two look nowhere
        if name in ("published", "contribution"):
            runs = [landing(maps_of(faces, squeeze, method), masks, place) for squeeze in squeezes]
        else:
            draws = DRAWS if name in ("random-channels", "random-map") else 1
            runs = [landing(maps_of(faces, first, method, seed), masks, place) for seed in range(draws)]
        figures[name] = {key: torch.stack([one[key] for one in runs]).mean(0) for key in runs[0]}
        row: dict[str, Any] = {"map": method.label, "kind": method.kind}
        for key, values in figures[name].items():
            row |= {key: bootstrap_mean(values), f"{key} called": float(values[called].mean())}
        row["seeds"] = [float(one["pointing"].mean()) for one in runs] if len(runs) == len(SEEDS) else []
        row["parts"] = shares(faces, shifted(maps_of(faces, first, method), *place))
        rows.append(row)
    for row, own in zip(rows, figures.values(), strict=True):
        for key, values in own.items():
            for other in ("all-channel-mean", "grad-cam"):
                row[f"{key} - {other}"] = bootstrap_difference(values, figures[other][key])
    return {"offset": offset, "rows": rows}


def shares(faces: Faces, maps: Tensor) -> dict[str, float]:
    """Energy of maps in each part, over the area of the part: 1 is what an even map has."""
    row = {}
    maps = maps - maps.amin((1, 2), keepdim=True)
    for name in PARTS:
        mask = faces.masks(name)
        energy = (maps * mask).sum((1, 2)) / maps.sum((1, 2)).clamp_min(1e-12)
        row[name] = float((energy / mask.float().mean((1, 2)).clamp_min(1e-6)).mean())
    return row


def draw(faces: Faces, squeeze: Squeeze, names: str, path: Path) -> None:
    count = 8
    methods = choose([*names.split(","), "all-channel-mean"])
    inputs, target = faces.report[:count], faces.target[:count]
    maps = [m(squeeze, inputs, target, output=faces.output, seeds=range(count)).detach().numpy() for m in methods]
    rows = [[column[i] for column in maps] for i in range(count)]
    figure = comparison_grid(faces.originals[:count], rows, column_labels=[m.label for m in methods], size=112)
    path.parent.mkdir(parents=True, exist_ok=True)
    print(f"wrote {write_picture(path, figure)}", flush=True)


def show(name: str, result: dict[str, Any]) -> None:
    print(
        f"\n{name}: {result['faces']} odd-numbered faces, {result['called']} of them called so by the network; "
        f"fitted on {result['fitted on']} even-numbered; looked for: {result['region']}, {result['area']:.1%} of the "
        "picture\n"
    )
    hidden = result["hidden"]
    print(text_table(hidden, formats={key: ".3f" for key in hidden[0] if key != "part"}))
    for place in ("last", "earlier"):
        print(f"\n{place} stage; its cells look {result[place]['offset']} px right and below of where they are drawn\n")
        for moved in ("", " moved"):
            rows = [{"map": row["map"], **_cells(row, moved)} for row in result[place]["rows"]]
            print(text_table(rows), "\n")
        rows = [
            {"map": row["map"], **{k: f"{v:.2f}" for k, v in row["parts"].items()}} for row in result[place]["rows"]
        ]
        print("energy over area, moved maps\n\n" + text_table(rows), flush=True)


def _cells(row: dict[str, Any], moved: str) -> dict[str, str]:
    cells = {}
    for key in (f"pointing{moved}", f"energy{moved}"):
        mean, apart = row[key], [row[f"{key} - {other}"] for other in ("all-channel-mean", "grad-cam")]
        cells[key] = f"{mean.mean:.3f} [{mean.low:.3f}, {mean.high:.3f}]"
        for word, d in zip(("all-channel mean", "Grad-CAM"), apart, strict=True):
            cells[f"{key} - {word}"] = f"{d.mean:+.3f} [{d.low:+.3f}, {d.high:+.3f}]"
        cells[f"{key} called"] = f"{row[f'{key} called']:.3f}"
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", choices=("smile", "gender"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--pictures", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    assert set(PARTS) <= set(REGIONS)
    found = {}
    try:
        for name, make in (("smile", smile), ("gender", gender)):
            if options.only in (None, name):
                found[name] = run(make(), options.pictures)
                show(name, found[name])
    except material.MissingMaterialError as error:
        print(f"skipped: {error}")
        return
    if options.out:
        print(f"wrote {write_json(options.out, found)}")


if __name__ == "__main__":
    main()
