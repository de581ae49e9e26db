"""``squeezecam demo``: the whole cycle on the embedded default: attach, fit, explain, measure, draw."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from squeezecam.attach import attach
from squeezecam.data.demo import DemoBatch, DemoImages
from squeezecam.evaluation.loading import picture_seed
from squeezecam.files import output_folder, write_json, write_picture, write_text
from squeezecam.metrics import boxes_to_mask, energy_pointing_game, pointing_game
from squeezecam.models.demo import DEMO_LABELS
from squeezecam.models.resolve import load_model
from squeezecam.module import Squeeze
from squeezecam.peers import choose
from squeezecam.render.compare import comparison_grid
from squeezecam.render.table import csv_table, text_table

FIT_PICTURES = 600
TEST_PICTURES = 300
SHOWN = 4
BATCH = 50
COLUMNS = ("method", "pointing in box", "energy in mask", "map area")


@dataclass
class DemoOutcome:
    """What the demo measured and wrote."""

    folder: Path
    report: str
    table: str
    written: list[Path]
    seconds: float


def run_demo(
    folder: Path, seed: int, say: Callable[[str], None], *, pictures: int = TEST_PICTURES, device: str = "cpu"
) -> DemoOutcome:
    """Fit on pictures of training sprites, explain and measure on sprites never seen, write figure, table, adapter."""
    started = time.perf_counter()
    target = output_folder(folder)
    torch.manual_seed(seed)
    model = load_model("demo", device=device).model
    fitting = DemoImages("train", FIT_PICTURES, seed=seed + 1)
    say(f"fitting one SE block on {FIT_PICTURES} pictures without labels ...")
    squeeze = attach(model, fitting.batch(range(2)).images.to(device))
    batches = (fitting.batch(range(i, min(i + BATCH, FIT_PICTURES))).images for i in range(0, FIT_PICTURES, BATCH))
    report = squeeze.fit(batches, seed=seed, progress=None)
    say(f"explaining {pictures} pictures of digits that neither the network nor the block has seen ...")
    test = DemoImages("test", pictures, seed=seed + 2)
    data = test.batch(range(pictures))
    maps = _maps(squeeze, data, seed)
    rows = [_row(label, of_one, data) for label, of_one in maps.items()]
    table = text_table(rows, COLUMNS, formats=dict.fromkeys(COLUMNS[1:], ".3f"))
    written = [
        write_picture(target / "demo.png", _figure(squeeze, data, maps)),
        write_text(target / "demo.txt", _words(report, table, seed, pictures)),
        write_text(target / "demo.csv", csv_table(rows, COLUMNS)),
        write_json(target / "demo.json", {"seed": seed, "pictures": pictures, "fit": report.as_dict(), "table": rows}),
    ]
    adapter = target / "demo.squeeze.safetensors"
    squeeze.save(adapter)
    written.append(adapter)
    return DemoOutcome(target, str(report), table, written, time.perf_counter() - started)


def _maps(squeeze: Squeeze, data: DemoBatch, seed: int) -> dict[str, Tensor]:
    """Maps ``(N, H, W)`` of what needs the block at most, and of the controls, by their labels, on the CPU."""
    device = squeeze.block().expand.weight.device
    methods = choose("published, contribution, class, focus, controls")
    found: dict[str, list[Tensor]] = {method.label: [] for method in methods}
    for start in range(0, len(data.images), BATCH):
        images = data.images[start : start + BATCH].to(device)
        seeds = [picture_seed(seed, start + i) for i in range(len(images))]
        for method in methods:
            found[method.label].append(method(squeeze, images, seeds=seeds).cpu())
    return {label: torch.cat(parts) for label, parts in found.items()}


def _row(name: str, maps: Tensor, data: DemoBatch) -> dict[str, Any]:
    height, width = maps.shape[1:]
    boxes = boxes_to_mask([box[None].float() for box in data.boxes], height, width)
    area = maps / maps.flatten(1).amax(1).clamp_min(1e-12)[:, None, None]
    return {
        "method": name,
        "pointing in box": float(pointing_game(maps, boxes).nanmean()),
        "energy in mask": float(energy_pointing_game(maps, data.masks).nanmean()),
        "map area": float(area.mean()),
    }


def _figure(squeeze: Squeeze, data: DemoBatch, maps: dict[str, Tensor]) -> Any:
    from PIL import Image

    shown = ("published", "class", "focus", "all-channel mean", "centred Gaussian")
    arrays = (data.images[:SHOWN] * 255).round().byte().permute(0, 2, 3, 1).numpy()
    with torch.no_grad():
        shown_images = data.images[:SHOWN].to(squeeze.block().expand.weight.device)
        probabilities = squeeze(shown_images).softmax(1).cpu()
    best = probabilities.argmax(1).tolist()
    return comparison_grid(
        [Image.fromarray(a) for a in arrays],
        [[maps[name][i].numpy() for name in shown] for i in range(SHOWN)],
        column_labels=[
            "published (SE)",
            "class",
            "focus",
            "control: all-channel mean",
            "control: centred Gaussian",
        ],
        row_labels=[f"predicted {DEMO_LABELS[c]} · {float(probabilities[i, c]):.1%}" for i, c in enumerate(best)],
        title="squeezecam demo: which part of the picture makes the digit?",
        footer="One forward pass per map. Handwritten digits among clutter, which network and block never saw.",
    )


def _words(report: object, table: str, seed: int, pictures: int) -> str:
    return (
        f"squeezecam demo --seed {seed}\n\n{report}\n\n"
        f"{pictures} test pictures; truth: the digit's box (pointing) and its strokes (energy); higher is better\n"
        f"except for the area, which is there because some metrics favour broad maps and others tight ones.\n\n"
        f"{table}\n"
    )
