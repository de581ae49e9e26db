"""Channel faithfulness: do the channels that a method keeps carry the model's decision?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from squeezecam.errors import InputError
from squeezecam.metrics.checks import per_sample, shape_of
from squeezecam.metrics.correlation import spearman
from squeezecam.metrics.metric import Metric
from squeezecam.metrics.predict import Outputs, Predict, scores_in_batches
from squeezecam.metrics.ranking import pixel_ranks

METRIC = Metric(
    name="channel_faithfulness",
    higher_is_better=True,
    category="channels",
    reference="squeezecam's own",
    description="loss of the class score when the kept channels are dropped, beside as many random or lowest ones",
)
METRIC_OPPOSING = Metric(
    name="opposing_share",
    higher_is_better=False,
    category="channels",
    reference="squeezecam's own",
    description="share of the kept channels that vote against the class",
)


class ChannelFaithfulness(NamedTuple):
    """Figures per sample (N,); drops are of the target's score, positive where it falls."""

    kept_drop: Tensor
    """kept channels set to 0"""
    random_drop: Tensor
    """as many random channels set to 0, mean over the draws"""
    lowest_drop: Tensor
    """as many of the lowest-scored channels set to 0"""
    correlation: Tensor
    """Spearman, channel score against the effect of setting the channel (or group) alone to 0; NaN if undefined"""
    full: Tensor
    """score of the target with all channels"""


def channel_faithfulness(
    head: Predict,
    features: Tensor,
    kept: Tensor,
    score: Tensor,
    target: Tensor,
    *,
    draws: int = 4,
    groups: int = 64,
    seed: int = 0,
    outputs: Outputs = "logits",
    batch_size: int = 64,
) -> ChannelFaithfulness:
    """Ablate channels and re-run only the head.

    Args:
        head: features (B, C, *S) to (B, K).
        features: (N, C, *S), the head's input; ablated channels are 0 there.
        kept: (N, C) bool, the channels that the method keeps.
        score: (N, C), the scores that it ranks channels by; ties go by channel number, lower first as higher.
        target: (N,) classes.
        draws: random sets of channels; a sample without finite scores gives NaN.
        groups: most single ablations per sample. Where C is larger, channels are sorted by score and cut into
            this many groups of nearly equal size, and a group's mean score is compared with its ablation's effect per
            channel. Groups average noise out, so correlations are comparable for equal ``groups`` only.
        seed: of the random channels; the same random order serves every sample.
        outputs: ``logits`` (drops of probability), ``probabilities`` or ``scores`` (drops of the logit itself).
        batch_size: most feature maps per call of ``head``.

    Raises:
        InputError: shapes that do not fit.
    """
    samples, channels = features.shape[:2] if features.ndim >= 2 else (0, 0)
    if features.ndim < 2 or kept.shape != (samples, channels) or score.shape != (samples, channels):
        raise InputError(
            f"features have shape {shape_of(features)}, kept {shape_of(kept)} and score {shape_of(score)}: "
            "expected (N, C, *S), (N, C) and (N, C)"
        )
    if draws < 1 or groups < 1:
        raise InputError(f"draws is {draws} and groups is {groups}: expected at least 1 of each")
    device = features.device
    target = per_sample(target, samples).to(device)
    kept, score = kept.to(device).bool(), score.detach().to(device)
    score = score.to(torch.promote_types(score.dtype, torch.float32))
    ranks = pixel_ranks(score)
    size = kept.sum(dim=1, keepdim=True)

    generator = torch.Generator().manual_seed(seed)
    random_ranks = [torch.randperm(channels, generator=generator).to(device).expand_as(kept) for _ in range(draws)]
    plans = [torch.zeros_like(kept), kept, ranks >= channels - size, *(order < size for order in random_ranks)]
    count = min(groups, channels)
    member = (ranks * count).div(channels, rounding_mode="floor")
    # (N, plans + groups) rows of channels to drop, made one batch at a time: N C^2 booleans would be too many.
    fixed = torch.stack(plans, dim=1)
    rows = fixed.shape[1] + count

    def build(start: int, stop: int) -> Tensor:
        indices = torch.arange(start, stop, device=device)
        sample, plan = indices // rows, indices % rows
        grouped = member[sample] == (plan - fixed.shape[1]).unsqueeze(1)
        drop = torch.where(
            (plan < fixed.shape[1]).unsqueeze(1), fixed[sample, plan.clamp_max(fixed.shape[1] - 1)], grouped
        )
        return features[sample].masked_fill(drop.view(*drop.shape, *([1] * (features.ndim - 2))), 0)

    values = scores_in_batches(
        head, build, target.repeat_interleave(rows), outputs=outputs, batch_size=batch_size
    ).view(samples, rows)
    full, kept_value, lowest_value = values[:, 0], values[:, 1], values[:, 2]
    random_value = values[:, 3 : 3 + draws].mean(dim=1)
    members = torch.zeros(samples, count, device=device, dtype=score.dtype)
    sizes = members.scatter_add(1, member, torch.ones_like(score))
    group_score = members.scatter_add(1, member, score) / sizes
    effect = (full[:, None] - values[:, fixed.shape[1] :]) / sizes
    undefined = ~score.isfinite().all(dim=1)
    result = (full - kept_value, full - random_value, full - lowest_value, spearman(group_score, effect), full)
    return ChannelFaithfulness(*(value.masked_fill(undefined, float("nan")) for value in result))


def channel_evidence(squeezed: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """``W_yc z_c`` (N, C): what each channel adds to the logit of its sample's class, for a linear head.

    ``squeezed`` (N, C) is what reaches the linear layer, ``weight`` (K, C) its weight, ``target`` (N,) the classes.
    """
    if squeezed.ndim != 2 or weight.ndim != 2 or squeezed.shape[1] != weight.shape[1]:
        raise InputError(
            f"squeezed has shape {shape_of(squeezed)} and weight has shape {shape_of(weight)}: "
            "expected (N, C) and (K, C)"
        )
    return weight.detach().to(squeezed.device)[per_sample(target, squeezed.shape[0]).to(squeezed.device)] * squeezed


def opposing_share(kept: Tensor, evidence: Tensor) -> Tensor:
    """Share (N,) in [0, 1] of the kept channels (N, C) whose evidence (N, C) is negative; NaN if none is kept.

    ``evidence`` is signed, for the class in question: :func:`channel_evidence`, or gradient times activation. A sample
    whose evidence is not finite gives NaN.
    """
    if kept.ndim != 2 or kept.shape != evidence.shape:
        raise InputError(f"kept has shape {shape_of(kept)} and evidence {shape_of(evidence)}: expected the same (N, C)")
    kept = kept.to(evidence.device).bool()
    against = (kept & (evidence < 0)).sum(dim=1)
    share = against / kept.sum(dim=1)
    return share.masked_fill(~evidence.isfinite().all(dim=1), float("nan"))
