"""Structural similarity of maps."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from squeezecam.errors import InputError
from squeezecam.metrics.baseline import gaussian_window
from squeezecam.metrics.checks import as_maps, same_shape
from squeezecam.metrics.normalise import min_max


def ssim(first: Tensor, second: Tensor, *, window: int = 11, sigma: float = 1.5) -> Tensor:
    """Mean structural similarity (N,) of two sets of maps (N, H, W): Wang et al., IEEE TIP 2004.

    Each map is min-max normalised (range 1, constants 0.01 and 0.03). A Gaussian window of ``window`` pixels, made
    smaller where a map is, moves over the places where it fits. NaN maps give NaN.
    """
    a, b = as_maps(first), as_maps(second)
    same_shape(a, b, ("first", "second"))
    size = min(window, *a.shape[1:])
    size -= 1 - size % 2
    if size < 1:
        raise InputError(f"window is {window}, expected at least 1")
    a, b = min_max(a).unsqueeze(1), min_max(b).unsqueeze(1)
    kernel = gaussian_window(size, sigma, a)

    def local_mean(values: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(values, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))

    mean_a, mean_b = local_mean(a), local_mean(b)
    var_a, var_b = local_mean(a * a) - mean_a**2, local_mean(b * b) - mean_b**2
    cov = local_mean(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    value = (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return value.flatten(1).mean(dim=1)
