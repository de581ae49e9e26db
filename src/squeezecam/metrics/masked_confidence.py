"""Class probability of a picture and of the same picture seen through its heatmap: one pair, several metrics."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from squeezecam.errors import InputError
from squeezecam.metrics.checks import finite_rows, maps_for_inputs, nan_where_not, per_sample, same_shape, shape_of
from squeezecam.metrics.normalise import min_max
from squeezecam.metrics.predict import Outputs, Predict, scores_in_batches


class Confidence(NamedTuple):
    """Probabilities (N,) of the target class."""

    full: Tensor
    """of the picture itself"""
    masked: Tensor
    """of the picture times its heatmap"""


def mask_inputs(inputs: Tensor, heatmap: Tensor) -> Tensor:
    """Inputs (N, C, *S) times the min-max normalised heatmap (N, *S), in the units of the inputs.

    Where the map is 0 the input becomes 0: the mean colour of the data set for standardised inputs. A map that is not
    finite counts as 0 here; the metrics report NaN for it.
    """
    maps = min_max(maps_for_inputs(heatmap, inputs, rank=None)).nan_to_num(nan=0.0)
    return inputs * maps.unsqueeze(1).to(inputs)


def masked_confidence(
    predict: Predict,
    inputs: Tensor,
    heatmap: Tensor,
    target: Tensor,
    *,
    outputs: Outputs = "logits",
    batch_size: int = 64,
) -> Confidence:
    """Probability of the target class before and after masking, for average drop, increase, average gain and ADCC.

    Args:
        predict: model, inputs (B, C, *S) to (B, K).
        inputs: (N, C, *S), as the model takes them.
        heatmap: (N, *S), raw values; min-max normalised per map, a constant map to all zeros. NaN gives NaN.
        target: (N,) classes.
        outputs: ``logits`` (a softmax is applied) or ``probabilities``.
        batch_size: most pictures per call of ``predict``.

    Raises:
        InputError: shapes that do not fit, or ``outputs="scores"``, for which a relative drop has no meaning.
    """
    if outputs == "scores":
        raise InputError("outputs is 'scores', expected 'logits' or 'probabilities': drops are relative")
    maps = maps_for_inputs(heatmap, inputs, rank=None)
    target = per_sample(target, inputs.shape[0]).to(inputs.device)
    full, masked = (
        scores_in_batches(predict, build, target, outputs=outputs, batch_size=batch_size)
        for build in (lambda a, b: inputs[a:b], lambda a, b: mask_inputs(inputs[a:b], maps[a:b]))
    )
    return Confidence(full, nan_where_not(masked, finite_rows(maps).to(masked.device)))


def check_confidence(full: Tensor, masked: Tensor) -> None:
    """Raise unless both are probabilities of one shape (NaN allowed)."""
    same_shape(full, masked, ("full", "masked"))
    for name, value in (("full", full), ("masked", masked)):
        if bool(((value < 0) | (value > 1)).any()):
            raise InputError(f"{name}, of shape {shape_of(value)}, has values outside [0, 1]: expected probabilities")
