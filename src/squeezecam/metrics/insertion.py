"""Insertion: how fast the class score rises while the marked pixels are put in."""

from __future__ import annotations

from torch import Tensor

from squeezecam.metrics.baseline import Base, baseline
from squeezecam.metrics.curve import Curve, exchange_curve
from squeezecam.metrics.metric import Metric
from squeezecam.metrics.predict import Outputs, Predict

METRIC = Metric(
    name="insertion",
    higher_is_better=True,
    category="faithfulness",
    reference="Petsiuk, Das, Saenko, RISE, BMVC 2018, arXiv 1806.07421",
    description="area under the class probability while pixels are inserted, highest heatmap value first",
)


def insertion(
    predict: Predict,
    inputs: Tensor,
    heatmap: Tensor,
    target: Tensor,
    *,
    steps: int = 32,
    base: Base | Tensor = "blur",
    outputs: Outputs = "logits",
    batch_size: int = 64,
    kernel: int = 11,
    sigma: float = 5.0,
    ranks: Tensor | None = None,
) -> Curve:
    """Insertion curve and its area (N,) in [0, 1] for probabilities. Higher is better.

    The heatmap is used for the order of its pixels only, so no normalisation matters; a NaN heatmap gives NaN.

    Args:
        predict: model, inputs (B, C, *S) to (B, K).
        inputs: (N, C, *S), as the model takes them.
        heatmap: (N, *S), raw values.
        target: (N,) classes.
        steps: portions in which the pixels are inserted; the paper uses one row of pixels per step (224).
        base: the picture to start from; the paper's is ``blur``, with ``kernel`` and ``sigma`` in pixels.
        outputs: ``logits`` (a softmax is applied), ``probabilities`` or ``scores``.
        batch_size: most pictures per call of ``predict``.
        ranks: ``pixel_ranks(heatmap, scattered=True)``, where it is at hand.

    Raises:
        InputError: shapes that do not fit, an unknown base, steps out of range.
    """
    start = baseline(inputs, base, kernel=kernel, sigma=sigma)
    return exchange_curve(
        predict, start, inputs, heatmap, target, steps=steps, outputs=outputs, batch_size=batch_size, ranks=ranks
    )
