"""What was measured of the streams: one value per clip, stream and measure."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

MEASURES = ("mean gate", "top gates", "mass")
ABLATIONS = ("zero", "mean gates", "still", "top only")
WORDS = {
    "mean gate": "mean gate",
    "top gates": "share of the globally top gates",
    "mass": "share of the mass sum s_c |z_c|",
    "zero": "score lost when the stream is set to zero",
    "mean gates": "score lost when its gates are set to their mean (gates in the path)",
    "still": "score lost when it is held still: its mean over time in place of every frame",
    "top only": "score lost when only its top gates are kept",
}


ROUNDING = 1e-5
"""Difference of two means, as a share of the values that they are made of, that rounding in float32 may make."""


@dataclass(eq=False)
class StreamImportance:
    """Importance of S streams for N clips, measure by measure.

    Attributes:
        names: of the streams (or segments).
        channels: channels of each: what its share of the top gates would be if the gates said nothing.
        measures: ``{name: (N, S)}`` from the SE vectors; names are in ``MEASURES``.
        ablation: ``{name: (N, S)}``, how much the score falls; names are in ``ABLATIONS``; NaN where it cannot be done.
        score: ``(N,)`` logit of the target less the mean of the other logits (a single output: its value), mean over
            the frames.
        target: ``(N,)`` class indices, or None.
        curve: ``(N, T)`` score of every frame where the output has frames.
        moments: ``{"zero" | "mass": (N, T, S)}``: the score that every frame loses, and the shares of its mass.

    """

    names: list[str]
    channels: list[int]
    measures: dict[str, Tensor]
    ablation: dict[str, Tensor]
    score: Tensor
    target: Tensor | None = None
    curve: Tensor | None = None
    moments: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.score)

    def rows(self) -> list[dict[str, Any]]:
        """One row per measure, with the mean over the clips for every stream and the ranking that it gives.

        ``face = audio`` where the two means differ by no more than rounding.
        """
        found = []
        for name, values in (*self.measures.items(), *self.ablation.items()):
            mean = values.double().mean(0)
            # what a score loses is a difference of scores, and is as exact as these are
            scale = self.score.double().abs().max().to(mean) if name in self.ablation else mean.new_zeros(())
            near = ROUNDING * float(torch.maximum(mean.abs().max(), scale))
            ranked = _ranked(self.names, mean.tolist(), near) if mean.isfinite().all() else None
            found.append({"measure": WORDS[name], **dict(zip(self.names, mean.tolist(), strict=True)), "order": ranked})
        return found

    def __str__(self) -> str:
        from squeezecam.render.table import text_table

        return text_table(self.rows(), formats=dict.fromkeys(self.names, ".4f"))


def _ranked(names: list[str], values: list[float], near: float) -> str:
    """``face > audio``, the largest first, with ``=`` in place of ``>`` where two are no more than ``near`` apart."""
    order = sorted(range(len(names)), key=lambda i: -values[i])
    groups = [order[:1]]
    for i, j in pairwise(order):
        if values[i] - values[j] <= near:
            groups[-1].append(j)
        else:
            groups.append([j])
    return " > ".join(" = ".join(names[i] for i in sorted(group)) for group in groups)
