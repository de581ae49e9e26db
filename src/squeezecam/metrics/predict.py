"""The one way in which metrics call a model: in batches, without gradients, one score per sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, get_args

import torch
from torch import Tensor

from squeezecam.errors import InputError
from squeezecam.metrics.checks import shape_of

Predict = Callable[[Tensor], Tensor]
Outputs = Literal["logits", "sigmoid", "probabilities", "scores"]
ROUNDING = 1e-6


def class_scores(outputs: Tensor, target: Tensor, kind: Outputs = "logits") -> Tensor:
    """Score (N,) of the target class from outputs (N, K).

    ``logits`` are put through a softmax, ``sigmoid`` are logits of independent labels and put through that;
    ``probabilities`` are taken as they are and must lie in [0, 1] but for rounding; ``scores`` are taken as they are.

    Raises:
        InputError: shapes or classes that do not fit, probabilities that are none, a softmax of one value.

    """
    if kind not in get_args(Outputs):
        raise InputError(f"outputs is {kind!r}, expected {', '.join(map(repr, get_args(Outputs)))}")
    if outputs.ndim != 2 or outputs.shape[0] != target.shape[0]:
        raise InputError(f"the model gave shape {shape_of(outputs)}, expected ({target.shape[0]}, K): one row a sample")
    target = target.to(outputs.device)
    if target.numel() and not 0 <= int(target.min()) <= int(target.max()) < outputs.shape[1]:
        raise InputError(
            f"target has classes {int(target.min())} to {int(target.max())}, the model gave shape {shape_of(outputs)}: "
            f"expected classes from 0 to {outputs.shape[1] - 1}"
        )
    values = outputs.detach().to(torch.promote_types(outputs.dtype, torch.float32))
    if kind == "logits":
        if outputs.shape[1] == 1:
            raise InputError(
                "the model gave one value a sample, whose softmax is 1 whatever it is; pass outputs='sigmoid' where it "
                "is the logit of a decision, outputs='scores' to take it as it is"
            )
        values = values.softmax(dim=1)
    picked = values.gather(1, target[:, None])[:, 0]
    if kind == "sigmoid":
        picked = picked.sigmoid()
    if kind == "probabilities" and bool(((picked < -ROUNDING) | (picked > 1 + ROUNDING)).any()):
        raise InputError("the model's outputs are outside [0, 1]; pass outputs='logits' to have a softmax applied")
    return picked if kind == "scores" else picked.clamp(0, 1)  # a softmax may add up to a little more than 1


def scores_in_batches(
    predict: Predict, build: Callable[[int, int], Tensor], target: Tensor, *, outputs: Outputs, batch_size: int
) -> Tensor:
    """Scores (M,) of M model inputs that are built when they are needed.

    Args:
        predict: model, inputs to (N, K).
        build: makes the inputs from number ``start`` to before ``stop``. Only one batch exists at a time.
        target: class (M,) of each input.
        outputs: what ``predict`` returns, see :func:`class_scores`.
        batch_size: most inputs per call of ``predict``.
    """
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}, expected at least 1")
    total = target.shape[0]
    parts = []
    with torch.no_grad():
        for start in range(0, total, batch_size):
            stop = min(start + batch_size, total)
            parts.append(class_scores(predict(build(start, stop)), target[start:stop], outputs))
    return torch.cat(parts) if parts else torch.zeros(0, device=target.device)


def segments(start: int, stop: int, rows: int) -> Iterator[tuple[int, int, int]]:
    """Cut ``start`` to ``stop`` of samples with ``rows`` inputs each into (sample, first row, row after the last)."""
    while start < stop:
        sample, first = divmod(start, rows)
        last = min(rows, first + stop - start)
        yield sample, first, last
        start += last - first
