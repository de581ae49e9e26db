"""ROAD: remove and debias. Class score after marked pixels are imputed from their surroundings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from squeezecam.errors import InputError
from squeezecam.metrics.checks import finite_rows, maps_for_inputs, nan_where_not, per_sample
from squeezecam.metrics.curve import Curve
from squeezecam.metrics.imputation import linear_imputation
from squeezecam.metrics.metric import Metric
from squeezecam.metrics.predict import Outputs, Predict, scores_in_batches
from squeezecam.metrics.ranking import first_pixels, pixel_counts, pixel_ranks

REFERENCE = "Rong et al., A Consistent and Efficient Evaluation Strategy for Attribution Methods, ICML 2022"
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

METRIC = Metric(
    name="road",
    higher_is_better=False,
    category="faithfulness",
    reference=f"{REFERENCE}, arXiv 2202.00449",
    description="mean class probability after imputing the highest pixels first (MoRF); for LeRF higher is better",
)
METRIC_COMBINED = Metric(
    name="road_combined",
    higher_is_better=True,
    category="faithfulness",
    reference=f"{REFERENCE}, arXiv 2202.00449",
    description="half the difference of the mean class probability, lowest pixels imputed first less highest first",
)


def road(
    predict: Predict,
    inputs: Tensor,
    heatmap: Tensor,
    target: Tensor,
    *,
    order: Literal["morf", "lerf"] = "morf",
    shares: Sequence[float] = SHARES,
    noise: float = 0.01,
    seed: int = 0,
    outputs: Outputs = "logits",
    batch_size: int = 32,
) -> Curve:
    """Class score after removing shares of the pixels by noisy linear imputation; ``score`` is the mean of the curve.

    Only the order of the heatmap's pixels matters. Exactly ``round(share H W)`` pixels go; equal values go in a
    fixed irregular order (``morf``) or its reverse (``lerf``). A NaN heatmap gives NaN.

    Args:
        predict: model, inputs (B, C, H, W) to (B, K).
        inputs: (N, C, H, W), as the model takes them.
        heatmap: (N, H, W), raw values.
        target: (N,) classes.
        order: ``morf``, most relevant first (lower is better), or ``lerf``, least relevant first (higher is better).
        shares: shares of the pixels to remove, each in [0, 1].
        noise: standard deviation of the noise on imputed pixels, in the units of the inputs. One noise picture, made
            from ``seed``, serves all samples, so that a sample's result does not depend on the batch.
        seed: of that noise.
        outputs: ``logits`` (a softmax is applied), ``probabilities`` or ``scores``.
        batch_size: most pictures imputed and predicted at once.

    Raises:
        InputError: shapes that do not fit, no shares or shares out of range, an unknown order.
    """
    maps = maps_for_inputs(heatmap, inputs)
    samples = inputs.shape[0]
    target = per_sample(target, samples).to(inputs.device)
    if order not in ("morf", "lerf") or not len(shares):
        raise InputError(f"order is {order!r} with {len(shares)} shares, expected 'morf' or 'lerf' and at least one")
    pixels = maps.shape[1] * maps.shape[2]
    counts = pixel_counts(pixels, torch.tensor(list(shares), dtype=torch.float64)).to(inputs.device)
    ranks = pixel_ranks(maps, scattered=True).to(inputs.device)
    if order == "lerf":
        ranks = pixels - 1 - ranks
    picture = torch.randn(inputs.shape[1:], generator=torch.Generator().manual_seed(seed)).to(inputs) * noise

    def build(start: int, stop: int) -> Tensor:
        indices = torch.arange(start, stop, device=inputs.device)
        sample, point = indices // len(shares), indices % len(shares)
        removed = first_pixels(ranks[sample], counts[point])
        return linear_imputation(inputs[sample], ~removed) + picture * removed.unsqueeze(1)

    classes = target.repeat_interleave(len(shares))
    values = scores_in_batches(predict, build, classes, outputs=outputs, batch_size=batch_size)
    values = nan_where_not(values.view(samples, len(shares)), finite_rows(maps).to(values.device))
    return Curve(values.mean(dim=1), values, counts.to(values) / pixels)


def road_combined(
    predict: Predict,
    inputs: Tensor,
    heatmap: Tensor,
    target: Tensor,
    *,
    shares: Sequence[float] = SHARES,
    noise: float = 0.01,
    seed: int = 0,
    outputs: Outputs = "logits",
    batch_size: int = 32,
) -> Tensor:
    """``(LeRF - MoRF) / 2`` (N,) of the mean scores of :func:`road`, in [-0.5, 0.5] for probabilities.

    Higher is better. Arguments as for :func:`road`.
    """
    lerf, morf = (
        road(
            predict,
            inputs,
            heatmap,
            target,
            order=order,
            shares=shares,
            noise=noise,
            seed=seed,
            outputs=outputs,
            batch_size=batch_size,
        ).score
        for order in ("lerf", "morf")
    )
    return (lerf - morf) / 2
