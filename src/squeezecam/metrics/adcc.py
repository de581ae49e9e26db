"""ADCC: average drop, coherency and complexity in one figure, which no all-ones map can win."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from squeezecam.errors import InputError
from squeezecam.metrics.average_drop import average_drop
from squeezecam.metrics.checks import same_shape
from squeezecam.metrics.coherency import coherency
from squeezecam.metrics.complexity import complexity
from squeezecam.metrics.masked_confidence import mask_inputs, masked_confidence
from squeezecam.metrics.metric import Metric
from squeezecam.metrics.predict import Outputs, Predict

METRIC = Metric(
    name="adcc",
    higher_is_better=True,
    category="faithfulness",
    reference="Poppi et al., Revisiting the Evaluation of Class Activation Mapping, CVPRW 2021, arXiv 2104.10252",
    description="harmonic mean of coherency, 1 - complexity and 1 - average drop",
)


class AdccParts(NamedTuple):
    """ADCC (N,) and what it is made of, each (N,)."""

    adcc: Tensor
    coherency: Tensor
    complexity: Tensor
    drop: Tensor


def adcc(drop: Tensor, coherency: Tensor, complexity: Tensor) -> Tensor:
    """``3 / (1 / coherency + 1 / (1 - complexity) + 1 / (1 - drop))`` per sample; all in [0, 1].

    0 where any of the three terms is 0 (the limit of the harmonic mean). NaN stays NaN.
    """
    same_shape(drop, coherency, ("drop", "coherency"))
    same_shape(drop, complexity, ("drop", "complexity"))
    terms = (coherency, 1 - complexity, 1 - drop)
    for name, term in zip(("coherency", "complexity", "drop"), terms, strict=True):
        if bool(((term < 0) | (term > 1)).any()):
            raise InputError(f"{name} has values outside [0, 1]")
    # 1 / 0 is infinite, and 3 / infinite is the 0 that is wanted.
    return 3 / (1 / terms[0] + 1 / terms[1] + 1 / terms[2])


def adcc_parts(
    predict: Predict,
    explain: Callable[[Tensor], Tensor],
    inputs: Tensor,
    target: Tensor,
    *,
    heatmap: Tensor | None = None,
    outputs: Outputs = "logits",
    batch_size: int = 64,
) -> AdccParts:
    """ADCC of a method: explains the inputs, then the inputs seen through that map, for the same classes.

    Args:
        predict: model, inputs (B, C, *S) to (B, K).
        explain: inputs (N, C, *S) to raw heatmaps (N, *S), for the same ``target`` both times.
        inputs: (N, C, *S), as the model takes them.
        target: (N,) classes.
        heatmap: ``explain(inputs)`` where it is already at hand.
        outputs: ``logits`` (a softmax is applied) or ``probabilities``.
        batch_size: most pictures per call of ``predict``; ``explain`` gets all N at once.
    """
    first = explain(inputs) if heatmap is None else heatmap
    full, masked = masked_confidence(predict, inputs, first, target, outputs=outputs, batch_size=batch_size)
    second = explain(mask_inputs(inputs, first))
    parts = (coherency(first, second), complexity(first), average_drop(full, masked).to(first.device))
    return AdccParts(adcc(parts[2], parts[0], parts[1]), *parts)
