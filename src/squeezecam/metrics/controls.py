"""The four controls that stand beside every result: maps that know nothing of the model's decision."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from squeezecam.errors import InputError
from squeezecam.metrics.checks import shape_of


def all_channel_mean(features: Tensor) -> Tensor:
    """Mean (N, *S) over all channels of features (N, C, *S): no selection at all, a strong control."""
    _check_features(features)
    return features.detach().to(torch.promote_types(features.dtype, torch.float32)).mean(dim=1)


def random_channels(features: Tensor, share: float = 0.1, generator: torch.Generator | None = None) -> Tensor:
    """Mean (N, *S) of a random share of the channels of (N, C, *S), drawn anew for each sample.

    ``share`` in (0, 1] is rounded to whole channels, at least one. ``generator`` makes it repeatable; drawn on its own
    device (the CPU without one), so the channels are the same wherever the features lie.
    """
    _check_features(features)
    if not 0 < share <= 1:
        raise InputError(f"share is {share}, expected more than 0 and at most 1")
    samples, channels = features.shape[:2]
    count = min(channels, max(1, math.floor(share * channels + 0.5)))
    device = generator.device if generator is not None else torch.device("cpu")
    order = torch.rand(samples, channels, generator=generator, device=device).argsort(dim=1)[:, :count]
    order = order.to(features.device)
    chosen = features.detach()[torch.arange(samples, device=features.device)[:, None], order]
    return chosen.to(torch.promote_types(features.dtype, torch.float32)).mean(dim=1)


def random_map(n: int, grid: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
    """Uniform random maps (n, *grid) in [0, 1), on the generator's device.

    ``grid`` is that of the model's feature map, (height, width) or with frames before: upsampled like any other map, a
    random map is smooth.
    """
    device = generator.device if generator is not None else None
    return torch.rand(n, *grid, generator=generator, device=device)


def centred_gaussian(n: int, *size: int, sigma: float = 0.25, device: torch.device | None = None) -> Tensor:
    """The same Gaussian (n, *size) about the centre, maximum at most 1; ``size`` is height and width of a picture,
    frames, height and width of a clip.

    ``sigma`` is the standard deviation as a share of each side.
    """
    if not size or min(size) < 1 or not sigma > 0:
        raise InputError(f"size and sigma are {size} and {sigma}: expected positive values")
    distance = torch.zeros((), device=device)
    for side in size:
        place = (torch.arange(side, device=device) + 0.5) / side - 0.5
        distance = distance[..., None] + place.square()
    return torch.exp(-distance / (2 * sigma**2)).expand(n, *size).clone()


def _check_features(features: Tensor) -> None:
    if features.ndim < 3 or features.shape[1] < 1:
        raise InputError(f"features have shape {shape_of(features)}, expected (N, C, *S) with at least one channel")
