"""Ridge regression in closed form, in float64: for the class read-out, and for what the fit of the gates needs."""

from __future__ import annotations

import torch
from torch import Tensor

PENALTIES = tuple(10.0**power for power in range(-6, 4))
"""Per sample, on standardised inputs; the one with the least leave-one-out error is taken."""
_RANK = 1e-7
"""Singular values under this share of the largest are rounding of the Gram matrix, and left out."""


def ridge(
    given: Tensor, wanted: Tensor, penalty: float | None = None, least: float = 0.0, *, by_size: bool = False
) -> tuple[Tensor, Tensor, float]:
    """``wanted ~ given @ weight.T + offset`` on scaled columns: weight (K, C), offset (K,), penalty; float64.

    Args:
        given: ``(M, C)``.
        wanted: ``(M, K)``.
        penalty: per sample; None: the one of ``PENALTIES`` with the least leave-one-out error, in closed form.
        least: penalties under this one are not tried.
        by_size: scale the columns by their root mean square, constant part included, in place of their standard
            deviation: a column that is large and hardly changes then gets no large weight.

    """
    given, wanted = given.double(), wanted.double()
    centre = given.mean(0)
    spread = given.square().mean(0).sqrt() if by_size else given.std(0, correction=0)
    spread = torch.where(spread > 1e-12 * given.abs().amax().clamp_min(1e-300), spread, torch.ones_like(spread))
    offset = wanted.mean(0)
    left, sizes, right = _decomposed((given - centre) / spread)
    along = left.t() @ (wanted - offset)
    if penalty is None:
        tried = [value for value in PENALTIES if value >= least]
        errors = [left_out(left, sizes, along, wanted - offset, value * len(given)) for value in tried]
        penalty = tried[min(range(len(errors)), key=errors.__getitem__)]
    shrunk = sizes / (sizes.square() + penalty * len(given))
    weight = (right @ (shrunk[:, None] * along)).t() / spread
    return weight, offset - weight @ centre, penalty


def through_origin(vectors: Tensor, target: Tensor, penalty: float = 1.0) -> Tensor:
    """``r (C,)`` or ``(C, K)`` with ``vectors @ r ~ target``, without an intercept and on the columns as they are.

    ``penalty`` is relative to the mean eigenvalue of ``E[z z^T]``. In the dtype of ``vectors``.
    """
    given, wanted = vectors.double(), target.double()
    gram = given.T @ given / len(given)
    level = gram.diagonal().mean().clamp_min(1e-12)
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    solved: Tensor = torch.linalg.solve(gram + penalty * level * identity, given.T @ wanted / len(given))
    return solved.to(vectors.dtype)


def left_out(left: Tensor, sizes: Tensor, along: Tensor, wanted: Tensor, penalty: float) -> float:
    """Mean square error of each sample under the fit to all others, in closed form."""
    share = sizes.square() / (sizes.square() + penalty)
    residual = wanted - left @ (share[:, None] * along)
    leverage = (left.square() @ share + 1 / len(wanted)).clamp(max=1 - 1e-9)
    return float((residual / (1 - leverage)[:, None]).square().mean())


def _decomposed(standard: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``left (M, R), sizes (R,), right (C, R)``; through the smaller of the two Gram matrices, which is much faster."""
    tall = len(standard) >= standard.shape[1]
    values, vectors = torch.linalg.eigh(standard.t() @ standard if tall else standard @ standard.t())
    kept = values > _RANK**2 * values.amax().clamp_min(1e-300)
    sizes, vectors = values[kept].sqrt(), vectors[:, kept]
    if tall:
        return standard @ vectors / sizes, sizes, vectors
    return vectors, sizes, standard.t() @ vectors / sizes
