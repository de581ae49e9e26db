"""Predictions as people read them: a class name and a probability, or a value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from squeezecam import tree
from squeezecam.explanation import Explanation
from squeezecam.links import probabilities, said_alone
from squeezecam.models.labels import Labels, label_of
from squeezecam.module import Squeeze
from squeezecam.sides import SIDES, heat_of_value
from squeezecam.tap import evaluating


@dataclass(frozen=True)
class Prediction:
    """What the map of one sample is about.

    Attributes:
        target: class index, None for a regression.
        label: name of the class, or of the output.
        probability: of that class; None for a regression.
        value: the output's own number for it; of a binary output its logit.
        predicted: whether ``target`` is what the model itself says: the class that it gives most, or a label that it
            gives more than a half.
        label_alone: whether it is one of several independent labels.
        output: name of the output, where the model has several; else empty.
        heat: of a regression, what the heat says of the value; else empty.

    """

    target: int | None
    label: str
    probability: float | None
    value: float
    predicted: bool = True
    output: str = ""
    heat: str = ""
    label_alone: bool = False

    def title(self) -> str:
        """One line for a picture: ``tench · 98.2%``, ``gender: woman · 97.0%`` or ``age 41.3 (heat: ...)``."""
        if not math.isfinite(self.value if self.probability is None else self.probability):
            return "no prediction: the output is not finite"
        if self.probability is None:
            return f"{self.label} {self.value:.4g}" + (f" ({self.heat})" if self.heat else "")
        doubt = "the model says no" if self.label_alone else "asked for; not the top class"
        asked = "" if self.predicted else f" ({doubt})"
        prefix = f"{self.output}: " if self.output else ""
        return f"{prefix}{legible(self.label, self.target)} · {self.probability:.1%}{asked}"


def classes_of(squeeze: Squeeze, inputs: Any, output: str | None) -> int:
    """How many classes the scores of ``inputs`` are of; 1 for a single value."""
    args, kwargs = tree.as_call(inputs)
    with torch.no_grad(), evaluating(squeeze):
        values = squeeze.select(squeeze(*args, **kwargs), output)
    return values.shape[1] if values.ndim == 2 else 1


def legible(label: str, index: int | None) -> str:
    """A class name for a picture: with the class index before it where some of its letters cannot be drawn."""
    from squeezecam.render.text import drawable

    return label if index is None or drawable(label) else f"class {index}: {label}"


def prediction(
    squeeze: Squeeze, explanation: Explanation, index: int, labels: Labels | None, output: str | None
) -> Prediction:
    """The prediction that the map of sample ``index`` explains."""
    name = squeeze.output_name(output)
    assert explanation.scores is not None
    scores = explanation.scores[index].detach().float()
    if scores.ndim == 0 or scores.shape[0] == 1:
        called = name if name != "output" else "value"
        value = float(scores.reshape(-1)[0])
        return Prediction(None, called, None, value, heat=heat_of_value(explanation.method))
    target = int(explanation.target[index]) if explanation.target is not None else int(scores.argmax())
    likely = probabilities(scores, explanation.scores_are)
    binary, alone = name in squeeze.binary, said_alone(squeeze, name)
    named = label_of(labels, target, name)
    return Prediction(
        target,
        SIDES[target] if binary and named == f"class {target}" else named,
        float(likely[target]),
        float(scores[1] - scores[0] if binary else scores[target]),
        float(likely[target]) >= 0.5 if alone else target == int(scores.argmax()),
        name if len(squeeze.outputs) > 1 else "",
        label_alone=alone,
    )
