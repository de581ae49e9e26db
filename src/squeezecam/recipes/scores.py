"""How good a classifier is, class by class: pure functions on outputs and targets."""

from __future__ import annotations

import torch
from torch import Tensor

from squeezecam.errors import InputError


def correct(outputs: Tensor, targets: Tensor, cut: float = 0.0) -> Tensor:
    """Share (N,) of decisions that are right, per picture.

    Args:
        outputs: logits or probabilities (N, K).
        targets: class indices (N,), the highest value decides; or 0 and 1 (N, K), each value against ``cut``.
        cut: 0 for logits, a half for probabilities.
    """
    if targets.ndim == 1:
        return (outputs.argmax(1) == targets).double()
    return ((outputs > cut) == (targets > 0)).double().mean(1)


def per_class(outputs: Tensor, targets: Tensor, cut: float = 0.0) -> Tensor:
    """Accuracy (K,): of an attribute over all pictures, of a class over its own; NaN for a class without any."""
    if targets.ndim == 2:
        return ((outputs > cut) == (targets > 0)).double().mean(0)
    right = (outputs.argmax(1) == targets).double()
    return torch.stack([right[targets == k].mean() for k in range(outputs.shape[1])])


def majority(targets: Tensor, classes: int) -> Tensor:
    """Accuracy (K,) of always giving an attribute's more frequent value; of classes, the share (K,) of each."""
    if targets.ndim == 2:
        share = targets.double().mean(0)
        return torch.maximum(share, 1 - share)
    return torch.bincount(targets, minlength=classes).double() / len(targets)


def average_precision(scores: Tensor, truth: Tensor) -> Tensor:
    """Area under the precision-recall curve, as a sum over the positives (no interpolation): a number for (N,), (N,).

    Equal scores count together: none of them is ranked before another. NaN without positives.

    Raises:
        InputError: shapes that differ.
    """
    if scores.shape != truth.shape or scores.ndim != 1:
        raise InputError(f"scores have shape {tuple(scores.shape)} and truth {tuple(truth.shape)}, expected (N,) both")
    positive = truth > 0
    order = scores.argsort(descending=True)
    ranked, hits = scores[order], positive[order].double()
    last = torch.cat([ranked[1:] != ranked[:-1], torch.ones(min(1, len(ranked)), dtype=torch.bool)])
    found = hits.cumsum(0)[last]
    precision = found / (last.nonzero()[:, 0] + 1)
    gained = torch.diff(found, prepend=found.new_zeros(1))
    return (precision * gained).sum() / positive.sum()
