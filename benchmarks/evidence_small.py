"""The study on small trained networks, with every peer: CIFAR-10 pictures and smiling faces.

    python benchmarks/evidence_small.py --models cifar_resnet20 face_expression --out evidence-small

Block (with ``--tune`` tuned as well) and refiner are fitted without labels on the tuning half, and faithfulness is
measured on pictures of the other. There are no boxes. Needs the material (see ``material.py``) and the ``peers`` extra.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import squeezecam
from evidence import differences, evaluation, table
from material import MissingMaterialError, subject

MODELS = ("cifar_resnet20", "face_expression")
METHODS = "own,grad-cam,grad-cam++,hirescam,xgrad-cam,layercam,eigen-cam,fem,ablation-cam,score-cam"
FITTING, BATCH, TUNED, REFINED = 1000, 20, 4, 24


def study(name: str, pictures: int, seed: int, out: Path, tune: bool) -> None:
    what = subject(name)
    torch.manual_seed(seed)
    every = torch.randperm(len(what.tuning), generator=torch.Generator().manual_seed(seed)).tolist()
    indices = [what.tuning[i] for i in every[:FITTING]]
    batches = [what.inputs(indices[i : i + BATCH]) for i in range(0, len(indices), BATCH)]
    squeeze = squeezecam.attach(what.model, batches[0][:2])
    print(squeeze.fit(batches, seed=seed))
    mixed = torch.cat(batches)
    if tune:
        print(squeeze.tune(list(mixed.split(TUNED)), seed=seed))
    print(squeeze.refine(list(mixed.split(REFINED)), seed=seed))
    order = torch.randperm(len(what.reporting), generator=torch.Generator().manual_seed(seed)).tolist()[:pictures]
    test = what.inputs([what.reporting[i] for i in sorted(order)])
    found = squeezecam.evaluate(squeeze, test, METHODS, "default", seed=seed, out=out / name)
    joined = evaluation(found.records, None)
    print(f"\n{name}, {len(test)} pictures ({what.data})\n")
    print("\n".join([*table(joined, "all"), "", *differences(joined, "all")]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--tune", action="store_true", help="tune the fitted block")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("evidence-small"))
    arguments = parser.parse_args()
    try:
        for name in arguments.models:
            study(name, arguments.pictures, arguments.seed, arguments.out, arguments.tune)
    except MissingMaterialError as error:
        raise SystemExit(f"skipped: {error}") from None


if __name__ == "__main__":
    main()
