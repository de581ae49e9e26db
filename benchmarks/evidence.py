"""Tables for ``docs/evidence.md`` out of runs of ``squeezecam evaluate`` on the same pictures: joined by file name.

    python benchmarks/evidence.py OUT_A OUT_B ... [--subset hard] [--columns insertion_deletion,adcc]

Slow methods are measured apart from quick ones, and on fewer pictures; this joins what two or more runs measured, over
the pictures that all of them have. ``+`` and ``-``: better and worse than the best peer of the column, ``=``, where the
95 % bootstrap interval of the paired difference excludes 0.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from squeezecam.evaluation import COLUMNS
from squeezecam.evaluation.summary import ALL, Evaluation, Figure
from squeezecam.peers.registry import registry

SHORT = {
    "insertion": "ins", "deletion": "del", "insertion_deletion": "I-D", "average_drop": "drop", "adcc": "ADCC",
    "increase_in_confidence": "inc", "average_gain": "gain", "coherency": "coh", "pointing_game": "pointing",
    "energy_pointing_game": "energy", "max_box_acc": "MaxBoxAcc", "max_box_acc_v2": "MaxBoxAccV2", "map_area": "area",
}  # fmt: skip


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """Records by file name, of the newest run in a folder."""
    files = sorted(folder.glob("per_image-*.jsonl"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise SystemExit(f"{folder} holds no per_image-*.jsonl: run squeezecam evaluate --out {folder} first")
    lines = [json.loads(line) for line in files[-1].read_text(encoding="utf-8").splitlines()]
    return {Path(record["file"]).name: record for line in lines[1:] for record in line["records"]}


def joined(folders: list[Path]) -> list[dict[str, Any]]:
    """One record per picture that all runs have, with the methods of all; the first run that has a method counts."""
    runs = [read(folder) for folder in folders]
    records = []
    for name in runs[0]:
        if not all(name in run for run in runs):
            continue
        one = dict(runs[0][name], values={}, levels={})
        for run in runs:
            for key in ("values", "levels"):
                one[key] = {**run[name][key], **one[key]}
        records.append(one)
    return records


def evaluation(records: list[dict[str, Any]], names: list[str] | None) -> Evaluation:
    known = registry()
    measured = [name for name in known if name in records[0]["values"]]
    present = {*next(iter(records[0]["values"].values())), *next(iter(records[0]["levels"].values()))}
    columns = [c for c in COLUMNS.values() if c.name in present and (names is None or c.name in names)]
    return Evaluation(
        {name: (known[name].label, known[name].kind) for name in measured}, columns, records, [], [], {}, {}, ("hard",)
    )


def cell(figure: Figure, method: str, better_is_higher: bool | None) -> str:
    value = figure.value
    if value.mean != value.mean:
        return ""
    text = f"{value.mean:.3f}".replace("0.", ".", 1)
    if figure.reference == method:
        return text + "="
    if figure.difference is None or better_is_higher is None:
        return text
    low, high = figure.difference.low, figure.difference.high
    if low <= 0 <= high:
        return text
    return text + ("+" if (low > 0) == better_is_higher else "-")


def table(found: Evaluation, subset: str) -> list[str]:
    heads = [SHORT.get(c.name, c.name) for c in found.columns]
    lines = ["| method | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    figures = found.figures(subset)
    for name, (label, kind) in found.methods.items():
        cells = [cell(figures[name][c.name], name, c.higher_is_better) for c in found.columns]
        lines.append(f"| {f'*{label}*' if kind == 'control' else label} | " + " | ".join(cells) + " |")
    return lines


def differences(found: Evaluation, subset: str) -> list[str]:
    columns = [c for c in found.columns if c.higher_is_better is not None]
    heads = [SHORT.get(c.name, c.name) for c in columns]
    lines = ["| less the best peer | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    figures = found.figures(subset)
    for name, (label, kind) in found.methods.items():
        if kind != "own":
            continue
        cells = []
        for column in columns:
            gap = figures[name][column.name].difference
            cells.append("" if gap is None else f"{gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--subset", default=ALL)
    parser.add_argument("--columns", help="names with commas")
    arguments = parser.parse_args()
    records = joined(arguments.folders)
    found = evaluation(records, arguments.columns.split(",") if arguments.columns else None)
    count = sum(arguments.subset == ALL or arguments.subset in record.get("subsets", ()) for record in records)
    print(f"{count} pictures\n")
    print("\n".join(table(found, arguments.subset)))
    print()
    print("\n".join(differences(found, arguments.subset)))


if __name__ == "__main__":
    main()
