"""The label-free objective: gates that rank channels by their evidence for the model's own prediction.

The published block, ``s = sigmoid(W2 relu(W1 z))``, can hold a copy of what the classifier knows: hidden unit k fires
where the model votes for class k, and column k of ``W2`` lists the channels that speak for k. Both follow in closed
form from the classification layer and a few hundred squeezed vectors, so the block also knows the classes that the fit
never saw, and there is nothing to train. The logits of the
gates are then shrunk until predictions stay what they were: the published rule uses only their order, which shrinking
leaves alone. Ours; ``docs/fit.md`` says what else was tried, with figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from squeezecam.block import SEBlock
from squeezecam.fit.cache import Cache
from squeezecam.fit.influence import influence
from squeezecam.fit.report import cut_of, gated_values, gated_windows, same_prediction
from squeezecam.frames import squeeze_stream, time_axis
from squeezecam.head import Head
from squeezecam.links import MULTI_LABEL, last_of
from squeezecam.module import Squeeze
from squeezecam.ridge import ridge, through_origin

LADDER = ((0.2, 0.5), (0.4, 1.0), (0.6, 2.0), (0.8, 4.0), (0.9, 8.0))
"""Thresholds as shares of the winner's logit, with slopes: units per class where classes are few; convex."""
PAIR = ((0.0, 1.0),)
"""Two opposite rows: whichever speaks, one of them fires; the winner's logit is no linear function of ``z`` there."""
CLEARLY = 2.0
"""Logit from which on a label of several independent ones is said as clearly as it can be."""
SINGLE = ((0.7, 1.0),)
"""The one unit per class where classes are many."""
FEW_UNITS = 256
POWER = 0.5
"""Weight of a channel's usual strength: ``W2 = W * mean(z) ** POWER``."""
WIDEST, STEPS = 0.02, 7
"""Largest standard deviation of the gates' logits; steps of the bisection below it."""
MARGIN = 0.25
"""Share of the widest amplitude that is used: gates of classes that were not in the data spread 2 to 4 times wider."""
TIMED = 16
"""Clips whose maps are unpacked at once."""
TRIED = 1000
"""Samples on which an amplitude is tried."""


def fit_blocks(
    squeeze: Squeeze,
    cache: Cache,
    output: str,
    task: str,
    fitting: Tensor,
    *,
    hidden: int | None,
    agreement: float,
    advance: Callable[[int], None],
) -> dict[str, Any]:
    """Replace every block by a fitted one and return the settings that were found.

    Args:
        squeeze, cache, output, task: what is fitted, on what, for which output.
        fitting: indices of the samples to compute the block from and to try its amplitude on.
        hidden: most hidden units; None: as many as the classes ask for.
        agreement: share of predictions on these (whole maps and windows of them) that must stay.
        advance: told of every step.

    """
    settings: dict[str, Any] = {"hidden": {}}
    vectors_of, values = samples(squeeze, cache, fitting)
    moved = influence(squeeze, cache, output, fitting) if cache.values.ndim == 3 else {}
    for stream, vectors in vectors_of.items():
        weight, bias = readout(squeeze, vectors_of, values, stream, output, task)
        strengths = moved[stream] if stream in moved else contrasts(squeeze, cache, stream, output, task)
        if strengths is None and _rectified(squeeze.heads.get(output)) and task == "classification":
            strengths = weight * usual_strength(vectors) ** POWER
            weight, bias = corrected(weight, bias, vectors, values)
        if hidden is not None and hidden < len(weight) and not moved:
            rows = torch.cat([weight, bias[:, None]], 1)
            weight, bias = merged(weight, bias, hidden)
            if strengths is not None:
                strengths = _merged_alike(strengths, rows, torch.cat([weight, bias[:, None]], 1))
        first, second = detectors(weight, bias, vectors, strengths, alone=task == MULTI_LABEL and values.shape[1] > 1)
        squeeze.blocks[stream] = _block(squeeze.block(stream), first, second, vectors)
        settings["hidden"][stream] = len(first)
        advance(1)
    amplitude = MARGIN * _widest(squeeze, cache, output, task, fitting[:TRIED], agreement, advance)
    for stream in cache.squeezed:
        with torch.no_grad():
            squeeze.block(stream).expand.weight.mul_(amplitude)
    settings["amplitude"] = amplitude
    return settings


def samples(squeeze: Squeeze, cache: Cache, fitting: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Squeezed vectors ``{stream: (M, C)}`` and the model's values ``(M, K)`` to fit a read-out on.

    Where the output has scores for every frame, ``(M, T, K)``, and the cached maps have those frames too, each frame is
    a sample: a read-out that holds for frames holds for their mean, and there are T times as many. Otherwise the mean
    score over the frames stands for the clip.
    """
    vectors = {stream: z[fitting].float() for stream, z in cache.squeezed.items()}
    values = cache.values[fitting].float()
    if values.ndim != 3:
        values = values.reshape(len(values), -1)
        flat = {s: z.flatten(0, -2) for s, z in vectors.items()}
        each = len(next(iter(flat.values()))) // len(values)  # frames, where they have gates of their own
        return flat, values.repeat_interleave(each, 0)
    frames = values.shape[1]
    layouts = {stream: squeeze.places[stream].layout for stream in vectors}
    if cache.maps and all(time_axis(layout) is not None for layout in layouts.values()):
        for stream, layout in layouts.items():
            grid = squeeze.places[stream].grid
            parts = []
            for chunk in fitting.split(TIMED):
                features = layout.unpack(cache.whole(squeeze, stream, chunk), len(chunk), grid)
                parts.append(squeeze_stream(features, layout, per_frame=True))
            vectors[stream] = torch.cat(parts)
        if all(z.shape[1] == frames for z in vectors.values()):
            return {s: z.flatten(0, 1) for s, z in vectors.items()}, values.flatten(0, 1)
    return {s: z if z.ndim == 2 else z.mean(1) for s, z in vectors.items()}, values.mean(1)


def readout(
    squeeze: Squeeze, vectors_of: dict[str, Tensor], values: Tensor, stream: str, output: str, task: str
) -> tuple[Tensor, Tensor]:
    """Rows ``w_k (K, C)`` and offsets ``(K,)`` with ``logit_k ~ w_k z + b_k``: the classifier's own, or by ridge on
    cached vectors, of all streams together.

    For classification the mean over the classes is taken out, which a softmax does not see. A single output becomes a
    pair, above and below its mean.
    """
    head = squeeze.heads.get(output)
    vectors = vectors_of[stream]
    if head is not None and head.pool == "mean" and head.kind in ("linear", "conv"):
        weight = head.matrix(squeeze.model).detach().float()
        bias = head.offsets(squeeze.model).detach().float()
        if head.columns is not None:  # what goes past the map, as it usually is
            bias = (unlinked(values, head.link) - vectors @ weight.T).mean(0)
    else:
        if task == MULTI_LABEL and last_of(squeeze, output) == "sigmoid":
            values = unlinked(values, "sigmoid")  # what is nearly certain is not all the same
        joined = ridge(torch.cat(list(vectors_of.values()), 1), values)[0].float()
        weights = joined.split([z.shape[1] for z in vectors_of.values()], 1)
        weight = dict(zip(vectors_of, weights, strict=True))[stream]
        bias = values.mean(0) - weight @ vectors.mean(0)
    if len(weight) == 1:
        offset = -(vectors @ weight[0]).mean()
        return torch.cat([weight, -weight]), torch.stack([offset, -offset])
    if task == "classification":
        return weight - weight.mean(0), bias - bias.mean()
    return weight, bias


def unlinked(values: Tensor, link: str) -> Tensor:
    """The logits ``(M, K)`` that ``values`` were made of; of a softmax up to what is the same for all classes."""
    if link == "softmax":
        return values.clamp_min(torch.finfo(values.dtype).tiny).log()
    return torch.logit(values, torch.finfo(values.dtype).eps) if link == "sigmoid" else values


def contrasts(squeeze: Squeeze, cache: Cache, stream: str, output: str, task: str) -> Tensor | None:
    """What every channel says for each class ``(K, C)`` by the read-out of contrasts, or None where there is none.

    Features that are negative as often as positive are shown by their contrast, so that is what the gates have to rank
    them by: a channel whose plain mean tells the class need not stand out where the evidence is.
    """
    found = squeeze.readouts.get(output)
    head = None if found is None else found.get(stream)
    if head is None or head.pool != "contrast":
        return None
    usual = torch.cat([z.flatten(0, -2) for z in cache.evidence.vectors[stream]]).float().abs().mean(0)
    usual = usual.clamp_min(0.05 * usual.mean())
    weight = head.weight - head.weight.mean(0) if task == "classification" and len(head.weight) > 1 else head.weight
    rows = (weight.float() * usual**POWER).unflatten(1, (2, -1)).sum(1)
    return torch.cat([rows, -rows]) if len(rows) == 1 else rows


def detectors(
    weight: Tensor, bias: Tensor, vectors: Tensor, strengths: Tensor | None = None, *, alone: bool = False
) -> tuple[Tensor, Tensor]:
    """``W1 (H, C)`` and ``W2 (C, H)`` in closed form from a read-out ``(K, C)``, ``(K,)`` and squeezed vectors ``(M,
    C)``.

    The block has no biases, so offsets and thresholds ride on directions of ``z``: the offset on one that is nearly
    constant, the threshold on a linear estimate of the winner's logit, so that it scales with the input. ``strengths
    (K, C)`` stand in for what the read-out says about the channels. ``alone``: the rows are independent labels, so
    there is no winner: two units a label, the second held against the first, see to it that one that is said with a
    logit of 20 does not outweigh one that is said with :data:`CLEARLY`.
    """
    vectors = vectors.float()
    constant = through_origin(vectors, vectors.new_ones(len(vectors)))
    rows = weight + bias[:, None] * constant
    columns = (weight * usual_strength(vectors) ** POWER).T if strengths is None else strengths.T
    columns = columns - columns.mean(0)  # logits with mean 0: the features keep their overall scale
    if alone:
        return torch.cat([rows, rows - CLEARLY * constant]), torch.cat([columns, -columns], 1)
    winner = through_origin(vectors, (vectors @ rows.T).amax(1))
    ladder = _ladder(len(weight))
    first = torch.cat([slope * (rows - threshold * winner) for threshold, slope in ladder])
    return first, columns.repeat(1, len(ladder))


def _ladder(rows: int) -> tuple[tuple[float, float], ...]:
    """Thresholds and slopes of the units that each row of the read-out gets."""
    return PAIR if rows == 2 else LADDER if len(LADDER) * rows <= FEW_UNITS else SINGLE


def units_for(classes: int, *, alone: bool = False) -> int:
    """Hidden units of a block that is fitted without labels to an output of so many values; ``alone``: labels."""
    if alone:
        return 2 * classes
    rows = max(2, classes)  # a single value becomes the pair above and below its mean
    return len(_ladder(rows)) * rows


def usual_strength(vectors: Tensor) -> Tensor:
    """Mean magnitude of every channel ``(C,)`` over squeezed vectors ``(M, C)``, with a floor for those at rest."""
    strength = vectors.float().abs().mean(0)
    return strength.clamp_min(0.05 * strength.mean())


def corrected(weight: Tensor, bias: Tensor, vectors: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and offsets with what a ReLU before the pooling takes from ``logit_k ~ w_k z + b_k`` added, by ridge.

    Every picture has a value for every class, so classes that no picture shows are corrected too.
    """
    rest = values - values.mean(1, keepdim=True) - (vectors @ weight.T + bias)
    more, offset, _ = ridge(vectors, rest)
    return weight + more.to(weight.dtype), bias + offset.to(bias.dtype)


def _rectified(head: Head | None) -> bool:
    """Whether a ReLU stands between the classifier's rows and the pooling, and its logits are the output."""
    return head is not None and head.kind == "conv" and head.activation == "relu" and head.link == "identity"


def merged(weight: Tensor, bias: Tensor, count: int, rounds: int = 25) -> tuple[Tensor, Tensor]:
    """Classes merged to ``count`` groups of alike rows (spherical k-means from evenly spaced rows): a smaller block."""
    rows = torch.cat([weight, bias[:, None]], 1)
    centres = rows[torch.linspace(0, len(rows) - 1, count, device=rows.device).round().long()].clone()
    directions = torch.nn.functional.normalize(rows, dim=1)
    for _ in range(rounds):
        nearest = (directions @ torch.nn.functional.normalize(centres, dim=1).T).argmax(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, rows)
        sizes = torch.bincount(nearest, minlength=count).to(rows)[:, None]
        centres = torch.where(sizes > 0, sums / sizes.clamp_min(1), centres)
    return centres[:, :-1], centres[:, -1]


def _merged_alike(strengths: Tensor, rows: Tensor, centres: Tensor) -> Tensor:
    """``strengths (K, C)`` averaged over the groups that ``rows`` fall into."""
    normalised = torch.nn.functional.normalize
    nearest = (normalised(rows, dim=1) @ normalised(centres, dim=1).T).argmax(1)
    sums = strengths.new_zeros(len(centres), strengths.shape[1]).index_add_(0, nearest, strengths)
    return sums / torch.bincount(nearest, minlength=len(centres)).to(sums).clamp_min(1)[:, None]


def _block(old: SEBlock, first: Tensor, second: Tensor, vectors: Tensor) -> SEBlock:
    """A block with these layers, whose logits have standard deviation 1 over the channels of a sample, on average."""
    block = SEBlock(old.channels, hidden=len(first)).to(old.reduce.weight)
    with torch.no_grad():
        inside = torch.relu(vectors.float() @ first.T)
        first = first / inside.square().sum(1).mean().sqrt().clamp_min(1e-12)
        block.reduce.weight.copy_(first)
        block.expand.weight.copy_(second)
        spread = block.logits(vectors).std(1, correction=0).mean()
        block.expand.weight.div_(spread.clamp_min(1e-12))
    return block


def _widest(
    squeeze: Squeeze,
    cache: Cache,
    output: str,
    task: str,
    tried: Tensor,
    agreement: float,
    advance: Callable[[int], None],
) -> float:
    """The widest amplitude up to ``WIDEST`` that keeps ``agreement`` of the predictions, by logarithmic bisection."""
    reference = [(gated_values, cache.values[tried])]
    if cache.windows:
        reference.append((gated_windows, gated_windows(squeeze, cache, output, tried, 0.0)))

    cut = cut_of(squeeze, output) if task == MULTI_LABEL else 0.0

    def keeps(amplitude: float) -> bool:
        advance(1)
        same = [
            same_prediction(before, run(squeeze, cache, output, tried, amplitude), task, cut)
            for run, before in reference
        ]
        return float(torch.cat(same).float().mean()) >= agreement

    if keeps(WIDEST):
        return WIDEST
    low, high = WIDEST / 1000, WIDEST
    for _ in range(STEPS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return low
