"""The tables of ``parity.py`` as Markdown, over all tasks that ran, and their places in a document."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from squeezecam.files import write_text
from squeezecam.parity.result import ParityResult
from squeezecam.render.table import Row, markdown_table

Results = dict[str, ParityResult]

OWN = {"published": "published", "contribution": "contribution", "class": "class"}
CONTROLS = {
    "all-channel-mean": "all-channel mean", "random-channels": "random 10 %", "random-map": "random map",
    "centred-gaussian": "Gaussian",
}  # fmt: skip
GATES = ("mean", "spread", "high", "low", "kept", "fallback", "between samples", "between classes")
VARIANTS = ("evidence", "spread", "gate-dropout", "refitted")


def accuracy_table(results: Results) -> str:
    """Mean, deviation, paired difference and verdict of the standard arms."""
    rows: list[Row] = [
        {"task": name, **row}
        for name, result in results.items()
        for row in result.rows()
        if row["runs"] and row["arm"] not in [result.labels.get(arm) for arm in VARIANTS]
    ]
    return _table(rows, {"mean": ".2f", "deviation": ".2f", "difference": "+.2f"})


def gate_table(results: Results) -> str:
    """What the SE vectors look like."""
    rows: list[Row] = [{"task": name, **row} for name, result in results.items() for row in result.gate_rows()]
    return _table(rows, dict.fromkeys(GATES, ".3f"))


def map_table(results: Results) -> str:
    """Insertion minus deletion per arm: ours and the controls side by side."""
    return _pivot(results, "insertion_deletion")


def pointing_table(results: Results) -> str:
    """The pointing game, where there are boxes."""
    return _pivot(results, "pointing_game")


def variant_table(results: Results) -> str:
    """Accuracy, gates and maps of every arm with a block, in one table."""
    rows: list[Row] = []
    for name, result in results.items():
        if not any(arm in result.labels for arm in VARIANTS):
            continue
        for arm in result.arms:
            gates = _mean_gates(result, arm.start, arm.arm)
            if arm.difference is None or arm.arm in result.controls or gates is None:
                continue
            row: dict[str, Any] = {
                "task": name,
                "start": arm.start,
                "arm": arm.label,
                "difference": arm.difference.mean,
            }
            row["95 % interval"] = f"{arm.difference.low:+.2f} to {arm.difference.high:+.2f}"
            row |= {key: gates[key] for key in ("high", "fallback", "between classes")}
            for metric, words in (("insertion_deletion", "I-D"), ("pointing_game", "pointing")):
                for method in ("published", "all-channel-mean"):
                    figures = _figures(result, arm.start, arm.arm, method, metric)
                    row[f"{words} {(OWN | CONTROLS)[method]}"] = _with_deviation(figures)
            rows.append(row)
    formats = {"difference": "+.2f", "high": ".3f", "fallback": ".3f", "between classes": ".3f"}
    return _table(rows, formats)


TABLES: dict[str, Callable[[Results], str]] = {
    "accuracy": accuracy_table, "gates": gate_table, "maps": map_table, "pointing": pointing_table,
    "variants": variant_table,
}  # fmt: skip


def fill(path: Path, results: Results) -> None:
    """Put the tables between the marks ``<!-- table: NAME -->`` and ``<!-- end -->`` of a document."""
    text = path.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        mark = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        made = table(results)
        text = mark.sub(lambda found, made=made: f"{found[1]}\n{made}\n\n{found[2]}", text)
    write_text(path, text)


def _table(rows: list[Row], formats: dict[str, str]) -> str:
    return markdown_table(rows, formats=formats) if rows else "Nothing has been measured for this table."


def _pivot(results: Results, metric: str) -> str:
    rows: list[Row] = []
    for name, result in results.items():
        for arm in result.arms:
            if arm.arm in result.controls:
                continue
            cells = {
                words: _with_deviation(_figures(result, arm.start, arm.arm, method, metric))
                for method, words in (OWN | CONTROLS).items()
            }
            if any(cells.values()):
                rows.append({"task": name, "start": arm.start, "arm": arm.label, **cells})
    return _table(rows, {})


def _figures(result: ParityResult, start: str, arm: str, method: str, metric: str) -> list[float]:
    found = [
        result.runs[start].get(f"{arm}/{seed}", {}).get("maps", {}).get(method, {}).get(metric) for seed in result.seeds
    ]
    return [value for value in found if value is not None]


def _with_deviation(values: list[float]) -> str | None:
    if not values:
        return None
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{spread}"


def _mean_gates(result: ParityResult, start: str, arm: str) -> dict[str, float | None] | None:
    """Mean over seeds and streams."""
    found = [
        stream
        for seed in result.seeds
        for stream in result.runs[start].get(f"{arm}/{seed}", {}).get("gates", {}).values()
    ]
    if not found:
        return None
    means: dict[str, float | None] = {}
    for key in GATES:
        values = [figures[key] for figures in found if figures.get(key) is not None]
        means[key] = statistics.fmean(values) if values else None
    return means
