"""Deletion: how fast the class score falls while the marked pixels are taken out."""

from __future__ import annotations

from torch import Tensor

from squeezecam.metrics.baseline import Base, baseline
from squeezecam.metrics.curve import Curve, exchange_curve
from squeezecam.metrics.metric import Metric
from squeezecam.metrics.predict import Outputs, Predict

METRIC = Metric(
    name="deletion",
    higher_is_better=False,
    category="faithfulness",
    reference="Petsiuk, Das, Saenko, RISE, BMVC 2018, arXiv 1806.07421",
    description="area under the class probability while pixels are deleted, highest heatmap value first",
)


def deletion(
    predict: Predict,
    inputs: Tensor,
    heatmap: Tensor,
    target: Tensor,
    *,
    steps: int = 32,
    base: Base | Tensor = "zero",
    outputs: Outputs = "logits",
    batch_size: int = 64,
    kernel: int = 11,
    sigma: float = 5.0,
    ranks: Tensor | None = None,
) -> Curve:
    """Deletion curve and its area (N,) in [0, 1] for probabilities. Lower is better.

    Arguments and errors as for :func:`~squeezecam.metrics.insertion`; ``base`` is what deleted pixels become, in the
    paper zero in the units of the (standardised) inputs. Only the order of the heatmap's pixels matters; a NaN heatmap
    gives NaN.
    """
    end = baseline(inputs, base, kernel=kernel, sigma=sigma)
    return exchange_curve(
        predict, inputs, end, heatmap, target, steps=steps, outputs=outputs, batch_size=batch_size, ranks=ranks
    )
