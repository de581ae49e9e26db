"""The result of the model randomisation check: tables, a chart, files."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from squeezecam.files import output_folder, write_json, write_picture, write_text
from squeezecam.metrics import Interval, bootstrap_mean
from squeezecam.render.table import MISSING, Row, csv_table, text_table
from squeezecam.wording import number_of

MEASURES = {"spearman": "rank correlation (Spearman)", "ssim": "structural similarity (SSIM)"}


@dataclass
class Randomisation:
    """How like the map of the trained model the maps are while its weights are destroyed from the head down.

    Attributes:
        methods: ``{name: (label, kind)}``, kind ``"own"``, ``"peer"`` or ``"control"``.
        stages: modules that are re-initialised at each stage, beside those of the stages before.
        names: of the stages.
        records: one dict per image: ``file``, ``target`` and ``values[method][measure]``, a figure per stage, None
            where it is not defined (a constant map has no ranks).
        failures: ``(file, reason)`` of images that could not be measured.
        settings: all that the figures depend on.
        about: command, versions and the like.
        seed: of the new weights and the bootstrap.
        written: files, after :meth:`save`.

    """

    methods: dict[str, tuple[str, str]]
    stages: list[list[str]]
    names: list[str]
    records: list[dict[str, Any]]
    failures: list[tuple[str, str]]
    settings: dict[str, Any]
    about: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    written: list[Path] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.records)

    def values(self, method: str, measure: str = "spearman") -> Tensor:
        """``(L, N)``, NaN where a figure is not defined; ``measure`` is ``"spearman"`` or ``"ssim"``."""
        rows = [
            [float("nan") if value is None else value for value in record["values"][method][measure]]
            for record in self.records
        ]
        return torch.tensor(rows, dtype=torch.float64).reshape(len(rows), len(self.stages)).T

    def figures(self, measure: str = "spearman") -> dict[str, list[Interval]]:
        """``{method: mean over the images with its 95 % bootstrap interval, per stage}``."""
        return {
            name: [bootstrap_mean(stage, seed=self.seed) for stage in self.values(name, measure)]
            for name in self.methods
        }

    def __str__(self) -> str:
        lines = [f"{key}: {value}" for key, value in self.about.items() if isinstance(value, (str, int, float))]
        lines += [
            f"{number_of(len(self), 'image')}; weights are drawn anew from the head down, each stage beside those "
            "before it:",
            *(f"  {i + 1}: {name}" for i, name in enumerate(self.names)),
            "similarity to the map of the trained model, mean over the images; a map that explains the model falls, "
            "controls show what one does that hardly looks at it; constant maps have no ranks and are left out there",
        ]
        if self.failures:
            lines.append(f"{number_of(len(self.failures), 'image')} could not be measured")
        for measure, words in MEASURES.items():
            rows: list[Row] = [
                {"method": self.methods[name][0], "kind": self.methods[name][1]}
                | {str(i + 1): f"{v.mean:.3f}" if v.samples else MISSING for i, v in enumerate(found)}
                for name, found in self.figures(measure).items()
            ]
            lines += ["", words, "", text_table(rows)]
        return "\n".join(lines)

    def csv(self) -> str:
        """One line per method, stage and measure, in full precision."""
        rows: list[Row] = []
        for measure in MEASURES:
            for name, found in self.figures(measure).items():
                label, kind = self.methods[name]
                rows += [
                    {"method": name, "label": label, "kind": kind, "stage": i + 1, "randomised": self.names[i],
                     "measure": measure, **_flat(value)}
                    for i, value in enumerate(found)
                ]  # fmt: skip
        return csv_table(rows)

    def as_dict(self) -> dict[str, Any]:
        """Everything but the figures per image."""
        return {
            **self.about,
            "images": len(self),
            "settings": self.settings,
            "stages": self.stages,
            "methods": {name: {"label": label, "kind": kind} for name, (label, kind) in self.methods.items()},
            "tables": {
                measure: {name: [_flat(value) for value in found] for name, found in self.figures(measure).items()}
                for measure in MEASURES
            },
            "failures": [{"file": file, "reason": reason} for file, reason in self.failures],
        }

    def plot(self, measure: str = "spearman") -> Any:
        """A line per method over the stages, as a PIL image; controls are gray and dashed."""
        from squeezecam.render.lines import line_chart

        labels = {name: label for name, (label, _) in self.methods.items()}
        found = {labels[name]: [v.mean for v in line] for name, line in self.figures(measure).items()}
        low = min((v for line in found.values() for v in line if v == v), default=0.0)
        return line_chart(
            {label: [1.0, *line] for label, line in found.items()},
            ["trained", *self.names],
            title=f"model randomisation: {MEASURES[measure]} to the map of the trained model",
            footer=f"{number_of(len(self), 'image')}. Weights are drawn anew from the head (left) down, one stage "
            "after the other. A map that explains the model falls; controls (dashed) hardly look at it.",
            limits=(0.25 * math.floor(min(low, 0.0) / 0.25), 1.0),
            quiet=[labels[name] for name, (_, kind) in self.methods.items() if kind == "control"],
        )

    def save(self, folder: str | Path) -> list[Path]:
        """Write ``randomisation.txt``, ``.csv``, ``.json`` and ``.png`` into ``folder``; returns the paths."""
        target = output_folder(folder)
        self.written += [
            write_text(target / "randomisation.txt", f"{self}\n"),
            write_text(target / "randomisation.csv", self.csv()),
            write_json(target / "randomisation.json", self.as_dict()),
            write_picture(target / "randomisation.png", self.plot()),
        ]
        return self.written


def _flat(value: Interval) -> dict[str, Any]:
    kept = {"mean": value.mean, "low": value.low, "high": value.high}
    return {**{key: number if number == number else None for key, number in kept.items()}, "samples": value.samples}
