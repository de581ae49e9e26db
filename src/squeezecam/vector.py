"""SE-vector manipulation: which channels count as influential, and what happens when they are changed. Pure functions on ``(N, C)``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from squeezecam.errors import InputError

TOP_10_PERCENT = 1.282
"""z-score above which a tenth of a normal distribution lies (25 %: 0.674, 5 %: 1.645)."""
FALLBACK_SHARE = 0.1
SCORES = ("gate", "contribution", "class")


@dataclass(frozen=True)
class Kept:
    """Channels kept per sample.

    Attributes:
        mask: ``(N, C)`` bool, at least one True per row of finite scores.
        fallback: ``(N,)`` bool, True where the rule itself kept nothing and the top tenth by the score was taken instead.
        tied: ``(N,)`` bool, True where all scores are equal, so that the choice says nothing and every channel is kept.

    """

    mask: Tensor
    fallback: Tensor
    tied: Tensor

    @property
    def share(self) -> Tensor:
        """Share of channels kept, ``(N,)``."""
        return self.mask.float().mean(1)


KeepRule = Callable[[Tensor], Kept]


def zscore(score: Tensor, threshold: float = TOP_10_PERCENT) -> Kept:
    """Keep channels with ``score > mean + threshold * std`` over the channels of one sample (population std).

    The published rule (arXiv 2412.05134; figures of the sibling work 2412.05150). Where nothing passes, which happens as soon as more
    than 37.8 % of the channels share the highest value, the top tenth is kept.
    """
    score = _checked(score)
    limit = score.mean(1, keepdim=True) + threshold * score.std(1, correction=0, keepdim=True)
    return _never_nothing(score, score > limit)


def quantile(score: Tensor, share: float = FALLBACK_SHARE) -> Kept:
    """Keep the top ``share`` of the channels (rounded up), ties at the limit included."""
    if not 0 < share <= 1:
        raise InputError(f"the share of channels to keep must lie in (0, 1], got {share}")
    return topk(score, math.ceil(share * _checked(score).shape[1]))


def topk(score: Tensor, k: int) -> Kept:
    """Keep the ``k`` channels with the highest score, ties at the limit included."""
    score = _checked(score)
    if k < 1:
        raise InputError(f"the number of channels to keep must be at least 1, got {k}")
    return _never_nothing(score, score >= _kth(score, k))


def keep_all(score: Tensor) -> Kept:
    """Keep every channel: the control without selection."""
    score = _checked(score)
    none = torch.zeros(len(score), dtype=torch.bool, device=score.device)
    return Kept(torch.ones_like(score, dtype=torch.bool), none, _is_tied(score))


def keep_rule(rule: str | KeepRule | None) -> KeepRule:
    """A rule from its name: ``"zscore"``, ``"zscore:0.674"``, ``"quantile:0.1"``, ``"topk:16"``, ``"all"``; callables pass through."""
    if rule is None:
        return zscore
    if callable(rule):
        return rule
    name, _, value = rule.partition(":")
    try:
        if name == "zscore":
            threshold = float(value or TOP_10_PERCENT)
            return lambda score: zscore(score, threshold)
        if name == "quantile":
            share = float(value or FALLBACK_SHARE)
            return lambda score: quantile(score, share)
        if name == "topk" and value:
            k = int(value)
            return lambda score: topk(score, k)
        if name == "all":
            return keep_all
    except ValueError as error:
        if not isinstance(error, InputError):
            raise InputError(f"keep rule '{rule}': '{value}' is not a number") from None
        raise
    raise InputError(f"unknown keep rule '{rule}'; expected zscore[:z], quantile[:share], topk:k or all")


def intervene(
    gates: Tensor, channels: Tensor, how: Literal["keep", "drop", "mean"] = "drop", *, rest: float = 0.0
) -> Tensor:
    """A changed SE vector.

    Args:
        gates: ``(N, C)`` SE vectors.
        channels: ``(N, C)`` or ``(C,)`` bool, the channels meant.
        how: ``"keep"``: only these, the others get ``rest``; ``"drop"``: these get ``rest``; ``"mean"``: these get the mean gate of
            their sample, so that they keep their mean strength and lose their say.
        rest: the value for what is taken away.

    """
    channels = channels.to(device=gates.device, dtype=torch.bool).expand_as(gates)
    if how == "keep":
        return torch.where(channels, gates, torch.full_like(gates, rest))
    if how == "drop":
        return torch.where(channels, torch.full_like(gates, rest), gates)
    if how == "mean":
        return torch.where(channels, gates.mean(1, keepdim=True), gates)
    raise InputError(f"unknown intervention '{how}'; expected keep, drop or mean")


def _checked(score: Tensor) -> Tensor:
    if score.ndim != 2 or score.shape[1] < 1:
        raise InputError(f"scores must have shape (samples, channels), got {tuple(score.shape)}")
    return score if score.dtype in (torch.float32, torch.float64) else score.float()


def _kth(score: Tensor, k: int) -> Tensor:
    return score.topk(min(k, score.shape[1]), dim=1).values[:, -1:]


def _is_tied(score: Tensor) -> Tensor:
    high, low = score.amax(1), score.amin(1)
    return high - low <= 8 * torch.finfo(score.dtype).eps * high.abs()


def _never_nothing(score: Tensor, mask: Tensor) -> Kept:
    tied = _is_tied(score)
    mask = mask | tied[:, None]
    empty = ~mask.any(1) & score.isfinite().all(1)
    top = score >= _kth(score, math.ceil(FALLBACK_SHARE * score.shape[1]))
    return Kept(torch.where(empty[:, None], top, mask), empty, tied)
