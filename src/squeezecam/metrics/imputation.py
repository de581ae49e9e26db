"""Noisy linear imputation: removed pixels become weighted means of their neighbours, so that the cut does not show."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from squeezecam.errors import InputError
from squeezecam.metrics.checks import shape_of

_CHECK_EVERY = 10


def neighbour_sum(like: Tensor) -> Callable[[Tensor], Tensor]:
    """Function that sums the 8 neighbours of each pixel of (N, C, H, W), direct ones with 1/6, diagonal ones with 1/12.

    Outside counts as 0. The buffers are made once for the shape of ``like``, and the kernel is split into
    (1, 2, 1) x (1, 2, 1) / 12 less a third of the pixel itself: several times faster than a convolution on a CPU.
    """
    n, c, height, width = like.shape
    padded = like.new_zeros(n, c, height + 2, width + 2)
    rows = like.new_empty(n, c, height, width + 2)

    def apply(values: Tensor) -> Tensor:
        padded[..., 1:-1, 1:-1] = values
        torch.add(padded[..., :-2, :], padded[..., 2:, :], out=rows)
        rows.add_(padded[..., 1:-1, :], alpha=2)
        total = rows[..., :-2] + rows[..., 2:]
        return total.add_(rows[..., 1:-1], alpha=2).sub_(values, alpha=4).div_(12)

    return apply


def linear_imputation(inputs: Tensor, known: Tensor, *, tolerance: float = 1e-5, iterations: int = 5000) -> Tensor:
    """Replace the pixels of (N, C, H, W) that are not ``known`` (N, H, W).

    Every unknown pixel becomes the weighted mean of its neighbours (1/6 direct, 1/12 diagonal; at the rim the weights
    that are left are rescaled), unknown ones included: a symmetric positive definite sparse system for each picture and
    channel (Rong et al. 2022, section 4), solved here by conjugate gradients for the whole batch at once. A system
    that has converged is no longer changed, so a picture's result does not depend on the rest of the batch.

    Args:
        inputs: pictures, any floating type; solved in at least float32.
        known: bool, False where a pixel is to be replaced. A picture without any known pixel becomes its mean colour.
        tolerance: residual norm relative to that of the right-hand side; 1e-5 is about 1e-4 of the picture's range.
        iterations: most iterations.
    """
    if inputs.ndim != 4 or known.shape != (inputs.shape[0], *inputs.shape[2:]):
        raise InputError(
            f"inputs have shape {shape_of(inputs)} and known has shape {shape_of(known)}: "
            "expected (N, C, H, W) and (N, H, W)"
        )
    values = inputs.detach().to(torch.promote_types(inputs.dtype, torch.float32))
    keep = known.to(device=values.device, dtype=torch.bool).unsqueeze(1)
    # On a CPU one picture at a time: it stays in the cache, and an easy one does not wait for a hard one.
    size = 1 if values.device.type == "cpu" else max(1, values.shape[0])
    parts = [
        _solve(values[start : start + size], keep[start : start + size], tolerance, iterations)
        for start in range(0, values.shape[0], size)
    ]
    return torch.cat(parts).to(inputs.dtype) if parts else inputs


def _solve(values: Tensor, keep: Tensor, tolerance: float, iterations: int) -> Tensor:
    """The system of :func:`linear_imputation` for values (N, C, H, W) and keep (N, 1, H, W)."""
    missing = (~keep).to(values.dtype)
    degree = neighbour_sum(missing)(torch.ones_like(missing))
    near = neighbour_sum(values)

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(dim=(-2, -1), keepdim=True)

    # Solved for the difference to the mean colour: a good start, and the exact answer where nothing is known.
    level = values.mean(dim=(-2, -1), keepdim=True)
    residual = missing * near((values - level) * keep)
    # In units of the largest entry, so that faint pictures do not underflow when squared.
    scale = residual.abs().amax(dim=(-2, -1), keepdim=True)
    scale = scale.masked_fill(scale == 0, 1)
    residual = residual / scale
    solution, direction = torch.zeros_like(values), residual.clone()
    square = dot(residual, residual)
    goal = square * tolerance**2
    active = torch.ones_like(square, dtype=torch.bool)
    for iteration in range(iterations):
        active = active & (square > goal)
        # Asking the device whether all is done makes it wait: not at every step.
        if iteration % _CHECK_EVERY == 0 and not bool(active.any()):
            break
        product = missing * (degree * direction - near(direction))
        length = torch.where(active, square / dot(direction, product), 0)
        solution.addcmul_(length, direction)
        residual.addcmul_(length, product, value=-1)
        following = torch.where(active, dot(residual, residual), square)
        direction = torch.addcmul(residual, torch.where(active, following / square, 0), direction)
        square = following
    return torch.where(keep, values, solution * scale + level)
