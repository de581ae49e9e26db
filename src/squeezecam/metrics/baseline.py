"""What a removed pixel is replaced with: a blurred copy, the mean of the picture, or zero."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from squeezecam.errors import InputError
from squeezecam.metrics.checks import shape_of

Base = Literal["blur", "mean", "zero"]


def gaussian_window(size: int, sigma: float, like: Tensor) -> Tensor:
    """Gaussian (size,) that sums to 1, on the device and in the type of ``like``."""
    if size < 1 or size % 2 == 0 or not sigma > 0:
        raise InputError(f"kernel is {size} and sigma is {sigma}, expected an odd size and a positive sigma")
    offsets = torch.arange(size, device=like.device, dtype=like.dtype) - (size - 1) / 2
    window = torch.exp(-0.5 * (offsets / sigma) ** 2)
    return window / window.sum()


def gaussian_blur(inputs: Tensor, *, kernel: int = 11, sigma: float = 5.0) -> Tensor:
    """Separable Gaussian blur of (N, C, *S) along every spatial axis; the rim is continued outwards.

    The defaults (pixels) are those of Petsiuk et al. 2018, whose blur pads with zeros instead.
    """
    window = gaussian_window(kernel, sigma, inputs).view(1, 1, -1)
    blurred = inputs
    for axis in range(2, inputs.ndim):
        lines = blurred.movedim(axis, -1)
        padded = F.pad(lines.reshape(-1, 1, lines.shape[-1]), (kernel // 2, kernel // 2), mode="replicate")
        blurred = F.conv1d(padded, window).view(lines.shape).movedim(-1, axis)
    return blurred.contiguous()


def baseline(inputs: Tensor, base: Base | Tensor, *, kernel: int = 11, sigma: float = 5.0) -> Tensor:
    """Replacement picture for inputs (N, C, *S), of the same shape.

    ``mean`` is the mean of each picture and channel. ``zero`` is zero in the units of ``inputs``: the mean colour of
    the data set where inputs are standardised. A tensor is broadcast to the inputs. ``kernel`` and ``sigma`` (pixels)
    are for ``blur``.

    Raises:
        InputError: an unknown base, one that does not fit, inputs that are no floating-point numbers.

    """
    if not inputs.is_floating_point():
        raise InputError(f"inputs are {inputs.dtype}, expected floating point: preprocess them as the model takes them")
    if isinstance(base, Tensor):
        try:
            return base.to(inputs).expand_as(inputs)
        except RuntimeError as error:
            raise InputError(f"base has shape {shape_of(base)}, not fit for inputs {shape_of(inputs)}") from error
    if base == "blur":
        return gaussian_blur(inputs, kernel=kernel, sigma=sigma)
    if base == "mean":
        return inputs.mean(dim=tuple(range(2, inputs.ndim)), keepdim=True).expand_as(inputs)
    if base == "zero":
        return torch.zeros_like(inputs)
    raise InputError(f"base is {base!r}, expected 'blur', 'mean', 'zero' or a tensor")
