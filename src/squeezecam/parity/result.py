"""What a study found: per arm mean, deviation and paired difference with its verdict, the gates, the maps."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from squeezecam.errors import InputError
from squeezecam.files import output_folder, write_json, write_picture, write_text
from squeezecam.parity.statistics import Paired, Verdict, judge, paired
from squeezecam.render.table import Row, csv_table, text_table

if TYPE_CHECKING:
    from PIL.Image import Image

GATE_COLUMNS = ("mean", "spread", "high", "low", "kept", "fallback", "between samples", "between classes")


@dataclass(frozen=True)
class ArmResult:
    """One arm of one start.

    Attributes:
        start, arm, label: which.
        seeds, scores: run by run.
        mean, deviation: of the scores (n - 1; 0 for a single run).
        difference, verdict: against the first arm, paired by seed; None for that arm, and with fewer than two pairs.
        failed: reasons of runs that have no score.

    """

    start: str
    arm: str
    label: str
    seeds: tuple[int, ...]
    scores: tuple[float, ...]
    mean: float
    deviation: float
    difference: Paired | None = None
    verdict: Verdict | None = None
    failed: tuple[str, ...] = ()


@dataclass
class ParityResult:
    """The outcome of :func:`squeezecam.parity`.

    Attributes:
        runs: ``{start: {"arm/seed": record}}``; a record has ``score``, ``loss`` and for arms with a block ``gates``.
        labels: ``{arm: words}``, in the order of the tables; the first is what the others are compared with.
        seeds: of the study.
        margin: in ``unit``; the loss that would not matter.
        unit: ``"points"`` of accuracy, or that of the labels.
        higher_is_better: False for errors.
        resolution: step between two possible scores, 100 / N points on N test samples; 0 for errors.
        controls: names of the arms that are trained from other seeds.
        about: model, data, recipes, versions.
        written: files, after :meth:`save`.

    """

    runs: dict[str, dict[str, dict[str, Any]]]
    labels: dict[str, str]
    seeds: tuple[int, ...]
    margin: float
    unit: str = "points"
    higher_is_better: bool = True
    resolution: float = 0.0
    controls: tuple[str, ...] = ("other",)
    about: dict[str, Any] = field(default_factory=dict)
    written: list[Path] = field(default_factory=list)

    @property
    def arms(self) -> list[ArmResult]:
        """All arms of all starts."""
        return [found for start in self.runs for found in self._of(start)]

    def arm(self, start: str, name: str) -> ArmResult:
        """One of them.

        Raises:
            InputError: there is none of that name.

        """
        for found in self.arms:
            if (found.start, found.arm) == (start, name):
                return found
        there = ", ".join(f"{a.start} {a.arm}" for a in self.arms)
        raise InputError(f"the study has no arm '{name}' of start '{start}'; it has {there}")

    def identical(self, start: str) -> bool | None:
        """Whether both arms gave the same weights, to the bit, with the block held at identity; None: not tried."""
        found = self.runs[start].get("check", {}).get("identical")
        return None if found is None else bool(found)

    def rows(self) -> list[Row]:
        """One row an arm, for tables."""
        return [_row(found) for found in self.arms]

    def gate_rows(self) -> list[Row]:
        """One row per start, arm and stream: the figures of the SE vectors, mean over the seeds."""
        return self._averaged("gates", GATE_COLUMNS, "stream")

    def map_rows(self) -> list[Row]:
        """One row per start, arm and method: what its maps measure, mean over the seeds; empty where not measured."""
        return self._averaged("maps", None, "map")

    def text(self) -> str:
        """Everything for people."""
        blocks = [str(self)]
        if gates := self.gate_rows():
            blocks.append(
                "SE vectors on the test data, mean over the seeds. spread: over the channels of a sample; high, low: "
                "share of gates above .95,\nbelow .05; kept, fallback: by the published rule; between samples: share "
                "of the gates' variance that is not the same for all samples;\nbetween classes: share of that which "
                f"lies between classes, chance taken off\n\n{text_table(gates, formats=_digits(gates))}"
            )
        if maps := self.map_rows():
            blocks.append(f"maps, mean over the seeds\n\n{text_table(maps, formats=_digits(maps))}")
        return "\n\n".join(blocks) + "\n"

    def __str__(self) -> str:
        """The verdicts."""
        better = (
            "" if self.higher_is_better else "; lower is better, and a difference is positive where the arm is better"
        )
        lines = [
            f"parity with and without the block: {len(self.seeds)} seeds, margin {self.margin:.3g} {self.unit}{better}",
            "difference to 'without', paired by seed, with the 95 % interval of the paired t over the seeds",
        ]
        for start in self.runs:
            same = self.identical(start)
            note = {None: "", True: "", False: " (pairing by seed is weak: the network does not repeat itself)"}[same]
            rows = [{k: v for k, v in row.items() if k != "start"} for row in self.rows() if row["start"] == start]
            formats = {"mean": ".2f", "deviation": ".2f", "difference": "+.2f"}
            lines += ["", f"{start}{note}", "", text_table(rows, formats=formats)]
        return "\n".join(lines)

    def csv(self) -> str:
        """One line per run, in full precision."""
        rows: list[Row] = []
        for start, records in self.runs.items():
            for record in self._sorted(records):
                row = {"start": start, "arm": record["arm"], "seed": record["seed"]}
                row |= {name: record.get(name) for name in ("score", "loss", "trained", "failed")}
                for stream, found in record.get("gates", {}).items():
                    row |= {f"{stream} {name}": value for name, value in found.items()}
                rows.append(row)
        return csv_table(rows)

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return {
            **self.about,
            "seeds": list(self.seeds),
            "margin": self.margin,
            "unit": self.unit,
            "higher_is_better": self.higher_is_better,
            "identical at identity": {start: self.identical(start) for start in self.runs},
            "arms": [_plain(found) for found in self.arms],
            "gates": self.gate_rows(),
            "maps": self.map_rows(),
            "runs": {start: self._sorted(records) for start, records in self.runs.items()},
        }

    def picture(self) -> Image:
        """Dots per seed with paired lines, and the differences with their intervals and the margin."""
        from squeezecam.parity.picture import draw

        return draw(self)

    def save(self, folder: str | Path) -> list[Path]:
        """Write ``parity.txt``, ``.csv``, ``.json`` and ``.png`` into ``folder``; returns the paths."""
        target = output_folder(folder)
        self.written += [
            write_text(target / "parity.txt", self.text()),
            write_text(target / "parity.csv", self.csv()),
            write_json(target / "parity.json", self.as_dict()),
            write_picture(target / "parity.png", self.picture()),
        ]
        return self.written

    def _sorted(self, records: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
        return [records[f"{arm}/{seed}"] for arm in self.labels for seed in self.seeds if f"{arm}/{seed}" in records]

    def _of(self, start: str) -> list[ArmResult]:
        records = self.runs[start]
        first = next(iter(self.labels))
        return [self._arm(start, name, records, first) for name in self.labels]

    def _arm(self, start: str, name: str, records: dict[str, dict[str, Any]], first: str) -> ArmResult:
        def scores(arm: str) -> dict[int, float]:
            found = {seed: records.get(f"{arm}/{seed}", {}).get("score") for seed in self.seeds}
            return {seed: float(value) for seed, value in found.items() if value is not None}

        own, other = scores(name), scores(first)
        failed = [records.get(f"{name}/{seed}", {}).get("failed") for seed in self.seeds]
        values = tuple(own.values())
        both = [seed for seed in own if seed in other]
        difference = None
        if name != first and len(both) >= 2:
            sign = 1 if self.higher_is_better else -1
            difference = paired(
                [sign * other[seed] for seed in both], [sign * own[seed] for seed in both], self.resolution
            )
        return ArmResult(
            start, name, self.labels[name], tuple(own), values,
            statistics.fmean(values) if values else float("nan"),
            statistics.stdev(values) if len(values) > 1 else 0.0,
            difference,
            judge(difference, self.margin, self.unit) if difference is not None else None,
            tuple(str(reason) for reason in failed if reason),
        )  # fmt: skip

    def _averaged(self, part: str, columns: Sequence[str] | None, kind: str) -> list[Row]:
        rows: list[Row] = []
        for start, records in self.runs.items():
            for name, label in self.labels.items():
                found = [records.get(f"{name}/{seed}", {}).get(part) for seed in self.seeds]
                there = [record for record in found if record]
                for key in dict.fromkeys(key for record in there for key in record):
                    cells = [record[key] for record in there if key in record]
                    names = columns or list(dict.fromkeys(n for cell in cells for n in cell))
                    rows.append({"start": start, "arm": label, kind: key, **{n: _mean(cells, n) for n in names}})
        return rows


def _mean(cells: Sequence[dict[str, Any]], name: str) -> float | None:
    values = [cell[name] for cell in cells if cell.get(name) is not None]
    return statistics.fmean(values) if values else None


def _row(found: ArmResult) -> dict[str, Any]:
    row: dict[str, Any] = {
        "start": found.start, "arm": found.label, "runs": len(found.scores), "mean": found.mean,
        "deviation": found.deviation, "difference": None, "95 % interval": None, "verdict": None,
    }  # fmt: skip
    if found.difference is not None and found.verdict is not None:
        row["difference"] = found.difference.mean
        row["95 % interval"] = f"{found.difference.low:+.2f} to {found.difference.high:+.2f}"
        row["verdict"] = found.verdict.sentence
    if found.failed:
        row["verdict"] = f"{len(found.failed)} runs failed: {found.failed[0]}"
    return row


def _plain(found: ArmResult) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "start": found.start, "arm": found.arm, "label": found.label, "mean": found.mean,
        "deviation": found.deviation, "scores": dict(zip(map(str, found.seeds), found.scores, strict=True)),
        "failed": list(found.failed),
    }  # fmt: skip
    if found.difference is not None and found.verdict is not None:
        plain["difference"] = vars(found.difference)
        plain["verdict"] = vars(found.verdict)
    return plain


def _digits(rows: Sequence[Row]) -> dict[str, str]:
    return {name: ".3f" for row in rows for name, value in row.items() if isinstance(value, float)}
