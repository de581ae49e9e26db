"""From figures per image to the table: means with intervals, and paired differences to the best peer."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from squeezecam.evaluation.columns import Column
from squeezecam.evaluation.doubting import counted, in_words
from squeezecam.files import output_folder, write_json, write_text
from squeezecam.metrics import Interval, bootstrap_difference, bootstrap_mean, max_box_acc, max_box_acc_v2
from squeezecam.render.table import Row, csv_table, text_table
from squeezecam.wording import number_of

ALL = "all"
NOT_APPLICABLE = "n/a"
_IOUS = (0.0, 0.3, 0.5, 0.7)


@dataclass(frozen=True)
class Figure:
    """One cell: the mean over the images, its 95 % bootstrap interval, and the paired difference to the best peer."""

    value: Interval
    difference: Interval | None = None
    reference: str | None = None


@dataclass
class Evaluation:
    """What was measured.

    Attributes:
        methods: ``{name: (label, kind)}``, kind ``"own"``, ``"peer"`` or ``"control"``.
        columns: of the table.
        records: one dict per image: ``file``, ``target``, ``confidence``, ``subsets``, ``values``, ``levels``, and
            ``doubts``: of squeezecam's own methods what is doubtful about the map.
        failures: ``(file, reason)`` of images that could not be measured.
        seconds: per batch the seconds for its maps by method; ``"forward"`` is the plain pass.
        settings: all that the figures depend on.
        about: command, versions and the like.
        subsets: names of the subsets reported beside all images.
        seed: of the bootstrap.
        written: files, after :meth:`save`.

    """

    methods: dict[str, tuple[str, str]]
    columns: list[Column]
    records: list[dict[str, Any]]
    failures: list[tuple[str, str]]
    seconds: list[dict[str, float]]
    settings: dict[str, Any]
    about: dict[str, Any]
    subsets: tuple[str, ...] = ()
    seed: int = 0
    written: list[Path] = field(default_factory=list)
    _cells: dict[str, dict[str, dict[str, Figure]]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.records)

    def figures(self, subset: str = ALL) -> dict[str, dict[str, Figure]]:
        """``{method: {column: figure}}`` over all images, or those of a subset."""
        if subset not in self._cells:
            records = [r for r in self.records if subset == ALL or subset in r.get("subsets", ())]
            self._cells[subset] = self._summarise(records)
        return self._cells[subset]

    def values(self, method: str, column: str, subset: str = ALL) -> Tensor:
        """Figures per image ``(N,)``, NaN where there is none; MaxBoxAcc at the best thresholds for these images."""
        records = [r for r in self.records if subset == ALL or subset in r.get("subsets", ())]
        return _values(records, method, next(c for c in self.columns if c.name == column))

    def doubts(self) -> dict[str, dict[str, int]]:
        """``{method: {doubt: number of images}}``, of squeezecam's own methods."""
        return counted({name: [line] for name, line in record.get("doubts", {}).items()} for record in self.records)

    def cost(self, method: str) -> float | None:
        """Time of a map in plain forward passes on the same batch: the median over the batches."""
        ratios = [s[method] / s["forward"] for s in self.seconds if method in s and s["forward"] > 0]
        return statistics.median(ratios) if ratios else None

    def text(self) -> str:
        """The tables for people."""
        blocks = [self._words()]
        for subset in (ALL, *self.subsets):
            count = sum(subset == ALL or subset in r.get("subsets", ()) for r in self.records)
            title = _title(subset, count)
            if not count:
                blocks.append(f"{title}")
                continue
            blocks.append(f"{title}; mean and half of the 95 % bootstrap interval\n\n{self._means(subset)}")
            differences = self._differences(subset)
            if differences:
                blocks.append(
                    f"{title}; paired difference to the best peer of each column, 95 % bootstrap interval; "
                    f"* it excludes 0\n\n{differences}"
                )
        return "\n\n".join(blocks) + "\n"

    def __str__(self) -> str:
        """The means alone, narrow enough for a terminal."""
        lines = [self._words()]
        if any(kind == "peer" for _, kind in self.methods.values()):
            lines.append(
                "= best peer of the column; + better and - worse than it, where the interval of the paired difference "
                "excludes 0"
            )
        for subset in (ALL, *self.subsets):
            count = sum(subset == ALL or subset in r.get("subsets", ()) for r in self.records)
            lines += ["", _title(subset, count)]
            lines += ["", self._compact(subset)] if count else []
        return "\n".join(lines)

    def _compact(self, subset: str) -> str:
        rows = []
        for method, cells in self.figures(subset).items():
            row: dict[str, Any] = {"method": self.methods[method][0]}
            for column in self.columns:
                figure = cells[column.name]
                row[column.label] = (
                    _marked(figure, method, column) if figure.value.samples else self._none(method, column)
                )
            row["forwards"] = self.cost(method)
            rows.append(row)
        return text_table(rows, formats={"forwards": ".2f"})

    def csv(self) -> str:
        """One line per subset, method and metric, in full precision."""
        rows: list[Row] = []
        for subset in (ALL, *self.subsets):
            for method, cells in self.figures(subset).items():
                label, kind = self.methods[method]
                for column in self.columns:
                    rows.append(  # noqa: PERF401
                        {
                            "subset": subset, "method": method, "label": label, "kind": kind, "metric": column.name,
                            "higher_is_better": column.higher_is_better, **_flat(cells[column.name]),
                            "forwards": self.cost(method),
                        }
                    )  # fmt: skip
        return csv_table(rows)

    def as_dict(self) -> dict[str, Any]:
        """Everything but the figures per image."""
        return {
            **self.about,
            "images": len(self.records),
            "settings": self.settings,
            "columns": [
                {"name": c.name, "label": c.label, "higher_is_better": c.higher_is_better} for c in self.columns
            ],
            "methods": {
                name: {
                    "label": label,
                    "kind": kind,
                    "seconds_per_image": sum(s.get(name, 0.0) for s in self.seconds) / max(1, len(self.records)),
                    "forwards": self.cost(name),
                }
                for name, (label, kind) in self.methods.items()
            },
            "tables": {
                subset: {
                    method: {name: _flat(figure) for name, figure in cells.items()}
                    for method, cells in self.figures(subset).items()
                }
                for subset in (ALL, *self.subsets)
            },
            "doubts": self.doubts(),
            "failures": [{"file": file, "reason": reason} for file, reason in self.failures],
        }

    def save(self, folder: str | Path) -> list[Path]:
        """Write ``evaluation.txt``, ``.csv`` and ``.json`` into ``folder``; returns the paths."""
        target = output_folder(folder)
        self.written += [
            write_text(target / "evaluation.txt", self.text()),
            write_text(target / "evaluation.csv", self.csv()),
            write_json(target / "evaluation.json", self.as_dict()),
        ]
        return self.written

    def _summarise(self, records: list[dict[str, Any]]) -> dict[str, dict[str, Figure]]:
        cells: dict[str, dict[str, Figure]] = {name: {} for name in self.methods}
        for column in self.columns:
            values = {name: _values(records, name, column) for name in self.methods}
            means = {name: bootstrap_mean(value, seed=self.seed) for name, value in values.items()}
            best = self._best(column, means)
            for name in self.methods:
                apart = None
                if best is not None and name != best:
                    apart = bootstrap_difference(values[name], values[best], seed=self.seed)
                cells[name][column.name] = Figure(means[name], apart, best)
        return cells

    def _best(self, column: Column, means: dict[str, Interval]) -> str | None:
        """The peer with the best mean; where there is no peer, there is nothing to compare with."""
        peers = [n for n, (_, kind) in self.methods.items() if kind == "peer" and means[n].samples]
        if column.higher_is_better is None or not peers:
            return None
        sign = 1 if column.higher_is_better else -1
        return max(peers, key=lambda name: sign * means[name].mean)

    def _words(self) -> str:
        lines = [f"{key}: {value}" for key, value in self.about.items() if isinstance(value, (str, int, float))]
        arrows = ", ".join(
            f"{c.label} {'^' if c.higher_is_better else 'v'}" for c in self.columns if c.higher_is_better is not None
        )
        lines.append(f"better is ^ higher, v lower: {arrows}")
        if any(c.name == "map_area" for c in self.columns):
            lines.append("area stands beside the rest: a broad map does well in drop, a tight one in energy")
        if any(c.own for c in self.columns):
            lines.append(f"{NOT_APPLICABLE}: not applicable, the method chooses no channels")
        labels = {name: label for name, (label, _) in self.methods.items()}
        lines += [f"in doubt: {line}" for line in in_words(self.doubts(), labels, len(self), "image")]
        if self.failures:
            lines.append(f"{number_of(len(self.failures), 'image')} could not be measured")
        return "\n".join(lines)

    def _means(self, subset: str) -> str:
        rows = []
        for method, cells in self.figures(subset).items():
            row: dict[str, Any] = {"method": self.methods[method][0], "kind": self.methods[method][1]}
            row |= {c.label: _mean(cells[c.name].value, c.digits) or self._none(method, c) for c in self.columns}
            row["forwards"] = self.cost(method)
            rows.append(row)
        return text_table(rows, formats={"forwards": ".2f"})

    def _none(self, method: str, column: Column) -> str | None:
        return NOT_APPLICABLE if column.own and self.methods[method][1] != "own" else None

    def _differences(self, subset: str) -> str:
        rows = []
        cells = self.figures(subset)
        directed = [c for c in self.columns if c.higher_is_better is not None]
        if not any(figure.reference for line in cells.values() for figure in line.values()):
            return ""
        for method, line in cells.items():
            row: dict[str, Any] = {"method": self.methods[method][0]}
            for column in directed:
                figure = line[column.name]
                row[column.label] = (
                    "(best peer)" if figure.reference == method else _difference(figure.difference, column.digits)
                )
            rows.append(row)
        return text_table(rows)


def _values(records: Sequence[dict[str, Any]], method: str, column: Column) -> Tensor:
    if "levels" not in column.needs:
        found = [record["values"][method].get(column.name) for record in records]
        return torch.tensor([float("nan") if v is None else v for v in found], dtype=torch.float64)
    return accuracies([record["levels"][method].get(column.name, "") for record in records], column.name)


def accuracies(levels: Sequence[str], name: str) -> Tensor:
    """Per image the share of the overlaps asked for that its box reaches at the best thresholds; mean: MaxBoxAcc (V2).

    ``levels``: one digit per threshold, how many of 0.3, 0.5 and 0.7 are reached; empty where there is no box.
    """
    known = [i for i, text in enumerate(levels) if text]
    result = torch.full((len(levels),), float("nan"), dtype=torch.float64)
    if not known:
        return result
    ious = torch.tensor([[_IOUS[int(digit)] for digit in levels[i]] for i in known], dtype=torch.float64)
    best = max_box_acc_v2(ious) if name == "max_box_acc_v2" else max_box_acc(ious)
    deltas = _IOUS[1:] if name == "max_box_acc_v2" else (0.5,)
    places = [round(threshold * ious.shape[1]) for threshold in best.thresholds]
    hits = torch.stack([(ious[:, place] >= delta).double() for place, delta in zip(places, deltas, strict=True)], 1)
    result[known] = hits.mean(1)
    return result


def _mean(value: Interval, digits: int) -> str | None:
    if not value.samples:
        return None
    half = (value.high - value.low) / 2
    return f"{value.mean:.{digits}f} ±{half:.{digits}f}"


def _marked(figure: Figure, method: str, column: Column) -> str:
    mark = "=" if figure.reference == method else " "
    if figure.difference is not None and figure.difference.samples:
        low, high = figure.difference.low, figure.difference.high
        if low > 0 or high < 0:
            mark = "+" if (low > 0) == column.higher_is_better else "-"
    return f"{figure.value.mean:.{column.digits}f}{mark}"


def _difference(value: Interval | None, digits: int) -> str | None:
    if value is None or not value.samples:
        return None
    clear = "*" if value.low > 0 or value.high < 0 else ""
    return f"{value.mean:+.{digits}f} [{value.low:+.{digits}f}, {value.high:+.{digits}f}]{clear}"


def _flat(figure: Figure) -> dict[str, Any]:
    value, apart = figure.value, figure.difference
    return {
        "mean": _finite(value.mean), "low": _finite(value.low), "high": _finite(value.high), "samples": value.samples,
        "best_peer": figure.reference,
        "difference": None if apart is None else _finite(apart.mean),
        "difference_low": None if apart is None else _finite(apart.low),
        "difference_high": None if apart is None else _finite(apart.high),
    }  # fmt: skip


def _finite(value: float) -> float | None:
    return value if value == value else None


def _title(subset: str, count: int) -> str:
    return number_of(count, "image") if subset == ALL else f"subset '{subset}': {number_of(count, 'image')}"
