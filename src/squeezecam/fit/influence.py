"""How much each channel moves the scores of a clip: gradient times activation, at fit time only.

Where the output has scores for every frame, the head is recurrent or attends over time, takes a maximum over a face and
sums streams: no read-out of squeezed vectors says what a channel does there. What the block learns instead is the size
of its influence, ``sqrt |sum over positions of u_c d(margin)/du_c|`` averaged over the frames that are decided alike.
Its size, because a decision rests on what speaks for it and on what speaks against it; its root, because a few frames
would otherwise decide. Explaining stays without gradients. Ours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from squeezecam.fit.cache import Cache
from squeezecam.frames import fold_time, time_axis
from squeezecam.module import Squeeze
from squeezecam.tap import evaluating

AT_ONCE = 4
"""Clips of which gradients are kept at once."""


def influence(squeeze: Squeeze, cache: Cache, output: str, fitting: Tensor) -> dict[str, Tensor]:
    """``{stream: (K, C)}``: mean influence of every channel on frames decided for each of K classes.

    Two classes stand for a single output: above its mean, and below. A class that is never decided for takes the mean
    over all frames.
    """
    usual = cache.values[fitting].float().mean()
    count = max(2, cache.values.shape[-1])
    sums = {s: torch.zeros(count, squeeze.places[s].channels, device=usual.device) for s in cache.squeezed}
    frames = {s: torch.zeros(count, device=usual.device) for s in sums}
    for chunk in fitting.split(AT_ONCE):
        raws = {s: raw.detach().clone().requires_grad_(True) for s, raw in cache.raws(squeeze, chunk).items()}
        # A recurrent layer on a GPU gives no gradient in evaluation mode unless cuDNN is left out.
        with torch.enable_grad(), evaluating(squeeze), torch.backends.cudnn.flags(enabled=False):
            values = squeeze.select(cache.run(raws, chunk), output).float()
            gradients = torch.autograd.grad(_margin(values).sum(), list(raws.values()), allow_unused=True)
        decided = _decided(values.detach(), usual)
        for (stream, raw), gradient in zip(raws.items(), gradients, strict=True):
            if gradient is None:
                continue
            place = squeeze.places[stream]
            moved = place.layout.unpack((raw * gradient).detach().float(), len(chunk), place.grid)
            per_frame = time_axis(place.layout) is not None and moved.shape[time_axis(place.layout) or 0] == len(
                decided[0]
            )
            moved = fold_time(moved, place.layout) if per_frame else moved
            size = (moved.flatten(2).sum(2) if moved.ndim > 2 else moved).abs().sqrt()  # one vector a frame, or maps
            wanted = decided.flatten() if per_frame else decided.float().mean(1).round().long()
            sums[stream].index_add_(0, wanted, size)
            frames[stream].index_add_(0, wanted, torch.ones_like(size[:, 0]))
    return {stream: _means(sums[stream], frames[stream]) for stream in sums}


def _margin(values: Tensor) -> Tensor:
    """Score of the decided class over the mean of the others, for every frame; a single output as it is."""
    if values.shape[-1] == 1:
        return values
    best = values.amax(-1)
    return best - (values.sum(-1) - best) / (values.shape[-1] - 1)


def _decided(values: Tensor, usual: Tensor) -> Tensor:
    """``(n, T)`` class indices."""
    return (values[..., 0] <= usual).long() if values.shape[-1] == 1 else values.argmax(-1)


def _means(sums: Tensor, counts: Tensor) -> Tensor:
    overall = sums.sum(0) / counts.sum().clamp_min(1)
    return torch.where(counts[:, None] > 0, sums / counts[:, None].clamp_min(1), overall)
