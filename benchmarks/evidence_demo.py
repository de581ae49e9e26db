"""The study on the embedded default, where the truth is known: table, sanity check, pictures of ``docs/evidence.md``.

    python benchmarks/evidence_demo.py --out evidence-demo
    python benchmarks/evidence_demo.py --out evidence-demo --pictures docs/images

Block and refiner are fitted without labels on 600 drawn pictures; 150 pictures of digits that were never seen are
measured. Needs the ``peers`` extra for the other libraries' methods.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image

import squeezecam
from evidence import evaluation, table
from squeezecam.data.demo import DemoImages
from squeezecam.evaluation import randomise
from squeezecam.files import output_folder, write_picture
from squeezecam.models.demo import DEMO_LABELS, demo_model
from squeezecam.module import Squeeze
from squeezecam.peers import choose
from squeezecam.render.compare import comparison_grid

FITTING, TESTING, BATCH, STEP = 600, 150, 50, 24
METHODS = "own,grad-cam,grad-cam++,layercam,eigen-cam,fem,ablation-cam,score-cam"
SHOWN = ("published", "class", "refined", "focus", "grad-cam", "all-channel-mean")


def fitted(seed: int) -> Squeeze:
    torch.manual_seed(seed)
    model, _ = demo_model()
    data = DemoImages("train", FITTING, seed=seed + 1)
    batches = [data.batch(range(i, i + BATCH)).images for i in range(0, FITTING, BATCH)]
    squeeze = squeezecam.attach(model, batches[0][:2])
    print(squeeze.fit(batches, seed=seed))
    print(squeeze.refine(list(torch.cat(batches).split(STEP)), seed=seed))
    return squeeze


def figure(squeeze: Squeeze, images: torch.Tensor, order: list[int], energy: torch.Tensor, title: str) -> Image.Image:
    chosen = choose(SHOWN)
    shown = images[order]
    maps = [method(squeeze, shown, None, seeds=order) for method in chosen]
    with torch.no_grad():
        probabilities = squeeze(shown).softmax(1)
    best = probabilities.argmax(1).tolist()
    arrays = (shown * 255).round().byte().permute(0, 2, 3, 1).numpy()
    picture: Image.Image = comparison_grid(
        [Image.fromarray(array) for array in arrays],
        [[of_one[row].numpy() for of_one in maps] for row in range(len(order))],
        column_labels=[method.label for method in chosen],
        row_labels=[
            f"predicted {DEMO_LABELS[c]} · {float(probabilities[i, c]):.0%} · refined: "
            f"{float(energy[order[i]]):.2f} in the box"
            for i, c in enumerate(best)
        ],
        title=title,
        footer="Embedded default, digits never seen; last column is a control. Truth: the box of the digit.",
    )
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("evidence-demo"))
    parser.add_argument("--pictures", type=Path, help="folder for the document's pictures; default: that of --out")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    squeeze = fitted(arguments.seed)
    test = DemoImages("test", TESTING, seed=arguments.seed + 2).batch(range(TESTING))
    found = squeezecam.evaluate(
        squeeze, test.images, METHODS, "default,max_box_acc", boxes=[box[None].float() for box in test.boxes],
        seed=arguments.seed, out=arguments.out,
    )  # fmt: skip
    print("\n".join(table(evaluation(found.records, None), "all")))
    checked = randomise(squeeze, test.images, METHODS.replace(",score-cam", ""), sample=60, out=arguments.out)
    print(checked)
    folder = output_folder(arguments.pictures or arguments.out)
    energy = found.values("refined", "energy_pointing_game")
    order = energy.argsort().tolist()
    sheets = {
        "evidence-good.jpg": (order[-4:][::-1], "Where the refined map lies best"),
        "evidence-typical.jpg": (order[TESTING // 2 - 2 : TESTING // 2 + 2], "Around the median"),
        "evidence-bad.jpg": (order[:4], "Where it fails"),
    }
    for name, (chosen, title) in sheets.items():
        print(write_picture(folder / name, figure(squeeze, test.images, chosen, energy, title)))


if __name__ == "__main__":
    main()
