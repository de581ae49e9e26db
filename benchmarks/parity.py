"""Does a network lose anything when it is trained with the block, and what becomes of the gates and of the maps?

For each task the same network, from the same seeds, without the block, without it from another seed (the noise floor),
with the block trained in the path, and with the block computed without labels after training; with ``--variants`` also
ways to keep a trained block informative.

    python benchmarks/parity.py --task demo --out parity-out        # runs what the folder lacks, then tables
    python benchmarks/parity.py --task cifar --variants --out parity-out
    python benchmarks/parity.py --table accuracy --out parity-out   # or gates, maps, pointing, variants
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from parity_tables import TABLES, fill
from parity_tasks import TASKS, MissingError, Task
from squeezecam.files import plain, write_json
from squeezecam.parity.arms import STANDARD
from squeezecam.parity.result import ParityResult
from squeezecam.parity.running import STARTS, Plan, placed, run_all
from squeezecam.parity.variants import VARIANTS


def describe(name: str, task: Task, out: Path) -> None:
    """What the tables have to know of a task, as ``TASK.json``."""
    words = {
        "task": name, "words": task.words, "kind": task.kind, "unit": task.unit, "margin": task.margin,
        "resolution": 100 / task.test.labels.numel() if task.kind != "regression" else 0.0,
        "labels": {arm.name: arm.label for arm in (*STANDARD, *VARIANTS)},
        "recipes": {key: value.as_dict() for key, value in task.recipes.items()},
    }  # fmt: skip
    (out / name).mkdir(parents=True, exist_ok=True)
    write_json(out / f"{name}.json", plain(words))


def study(name: str, task: Task, seeds: int, variants: bool, out: Path, starts: list[str] | None) -> None:
    """All runs of one task that its folder in ``out`` does not hold yet."""
    arms = (*STANDARD, *(VARIANTS if variants else ()))
    for start, recipe in task.recipes.items():
        if starts and start not in starts:
            continue
        network = placed(task.network, start)
        plan = Plan(
            {start: recipe}, range(seeds), task.kind, task.output, arms,
            maps=task.maps, boxes=task.boxes, classes=task.classes,
        )  # fmt: skip
        run_all(
            network, plan, task.training, task.test,
            folder=out / name, progress=None, say=lambda line: print(line, file=sys.stderr, flush=True),
        )  # fmt: skip


def load(path: Path) -> tuple[str, ParityResult]:
    """A task's runs, finished or not: of each start those of the newest settings."""
    found = json.loads(path.read_text(encoding="utf-8"))
    runs: dict[str, Any] = {}
    for store in sorted(path.with_suffix("").glob("runs-*.jsonl"), key=lambda file: file.stat().st_mtime):
        head, *lines = [json.loads(line) for line in store.read_text(encoding="utf-8").splitlines()]
        runs[head["settings"]["start"]] = {line.pop("run"): line for line in lines}
    seeds = sorted({record["seed"] for records in runs.values() for record in records.values() if "seed" in record})
    return found["task"], ParityResult(
        {start: runs[start] for start in STARTS if start in runs}, found["labels"], tuple(seeds), found["margin"],
        found["unit"], found["kind"] != "regression", found["resolution"],
        about={key: found[key] for key in ("task", "words", "recipes")},
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0] if __doc__ else None, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--task", help=f"with commas: {', '.join(TASKS)}; or all; without: only show what is there")
    parser.add_argument("--start", help="scratch or fine-tune only")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--variants", action="store_true", help="also ways to keep a trained block informative")
    parser.add_argument("--table", choices=tuple(TABLES), help="only this one")
    parser.add_argument("--docs", type=Path, help="put the tables into this document, at its marks")
    parser.add_argument("--out", type=Path, default=Path("parity-out"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = list(TASKS) if options.task == "all" else options.task.split(",") if options.task else []
    for name in names:
        if name not in TASKS:
            parser.error(f"unknown task '{name}'; expected {', '.join(TASKS)}")
        try:
            task = TASKS[name]()
            describe(name, task, options.out)
            study(name, task, options.seeds, options.variants, options.out, [options.start] if options.start else None)
        except MissingError as reason:
            print(f"{name}: left out, {reason}", file=sys.stderr)
    results = dict(load(path) for path in sorted(options.out.glob("*.json")))
    ordered = {name: results[name] for name in TASKS if name in results}
    if options.docs:
        fill(options.docs, ordered)
        print(f"wrote {options.docs}")
        return
    for kind, table in TABLES.items():
        if options.table in (None, kind):
            print(f"{table(ordered)}\n")


if __name__ == "__main__":
    main()
