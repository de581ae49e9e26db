"""SE-vector manipulation: which channels count as influential, and what happens when they are changed.

Pure functions on tensors ``(N, C)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from squeezecam.errors import InputError

TOP_10_PERCENT = 1.282
"""z-score above which a tenth of a normal distribution lies (25 %: 0.674, 5 %: 1.645)."""
FALLBACK_SHARE = 0.1
SCORES = ("gate", "contribution", "class")


@dataclass(frozen=True, eq=False)
class Kept:
    """Channels kept per sample.

    Attributes:
        mask: ``(N, C)`` bool, at least one True per row of finite scores.
        fallback: ``(N,)`` bool, True where the rule itself kept nothing and the top tenth by the score was taken.
        tied: ``(N,)`` bool, True where all scores are equal, so that the choice says nothing: every channel is kept.

    """

    mask: Tensor
    fallback: Tensor
    tied: Tensor

    @property
    def share(self) -> Tensor:
        """Share of channels kept, ``(N,)``."""
        return self.mask.float().mean(1)


KeepRule = Callable[[Tensor], Kept | Tensor]
"""Scores ``(N, C)`` to what is kept: a :class:`Kept`, or a plain bool mask ``(N, C)``."""


def zscore(score: Tensor, threshold: float = TOP_10_PERCENT) -> Kept:
    """Keep channels with ``score > mean + threshold * std`` over the channels of one sample (population std).

    The published rule (arXiv 2412.05134; figures of the sibling work 2412.05150). Where nothing passes, as when at
    least 37.8 % of the channels share the highest of two values, the top tenth is kept.
    """
    if math.isnan(threshold):
        raise InputError("the threshold of the z-score rule must be a number, got nan")
    score = _checked(score)
    mean = score.mean(1, keepdim=True)
    std = (score - mean).square().mean(1, keepdim=True).sqrt()
    return _never_nothing(score, score > mean + threshold * std)


def quantile(score: Tensor, share: float = FALLBACK_SHARE) -> Kept:
    """Keep the top ``share`` of the channels (rounded up), ties at the limit included."""
    if not 0 < share <= 1:
        raise InputError(f"the share of channels to keep must lie in (0, 1], got {share}")
    return topk(score, _count(share, _checked(score).shape[1]))


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


def keep_rule(rule: str | KeepRule | None) -> Callable[[Tensor], Kept]:
    """A rule from its name, or a function of the scores; None is the z-score rule.

    Names: ``"zscore"``, ``"zscore:0.674"``, ``"quantile:0.1"``, ``"topk:16"``, ``"all"``. A function takes scores and
    returns a bool mask (both ``(N, C)``) or a :class:`Kept`; where the mask keeps nothing, the fallback of
    :func:`zscore` holds.

    Raises:
        InputError: an unknown name, or a number that does not fit it.

    """
    if rule is None:
        return zscore
    if callable(rule):
        return partial(_own_rule, rule)
    name, colon, text = rule.partition(":") if isinstance(rule, str) else (None, "", "")
    try:
        if name == "zscore":
            return partial(zscore, threshold=float(text) if colon else TOP_10_PERCENT)
        if name == "quantile":
            return partial(quantile, share=float(text) if colon else FALLBACK_SHARE)
        if name == "topk" and colon:
            return partial(topk, k=int(text))
        if name == "all" and not colon:
            return keep_all
    except ValueError:
        raise InputError(f"keep rule '{rule}': '{text}' is not a number that '{name}' takes") from None
    names = "'zscore[:z]', 'quantile[:share]', 'topk:k' or 'all'"
    kinds = names if isinstance(rule, str) else f"a function, or one of the names {names}"
    raise InputError(f"unknown keep rule {rule!r}; expected {kinds}")


def _own_rule(rule: KeepRule, score: Tensor) -> Kept:
    kept = rule(score)
    if isinstance(kept, Kept):
        return kept
    if not isinstance(kept, Tensor) or kept.dtype != torch.bool or kept.shape != score.shape:
        given = f"{kept.dtype} {tuple(kept.shape)}" if isinstance(kept, Tensor) else type(kept).__name__
        raise InputError(f"a keep rule must return a bool mask of shape {tuple(score.shape)}, got {given}")
    return _never_nothing(_checked(score), kept)


def intervene(
    gates: Tensor, channels: Tensor, how: Literal["keep", "drop", "mean"] = "drop", *, rest: float = 0.0
) -> Tensor:
    """A changed SE vector ``(N, C)``.

    Args:
        gates: ``(N, C)`` SE vectors.
        channels: ``(N, C)`` or ``(C,)`` bool, the channels meant.
        how: ``"keep"``: only these, the others get ``rest``; ``"drop"``: these get ``rest``; ``"mean"``: these get the
            mean gate of their sample, so that they keep their mean strength and lose their say.
        rest: the value for what is taken away.

    Raises:
        InputError: an unknown ``how``, or channels that are not a bool mask of that shape (indices, say).

    """
    if channels.dtype != torch.bool or channels.shape not in (gates.shape, gates.shape[1:]):
        raise InputError(
            f"channels must be a bool mask of shape {tuple(gates.shape)} or {tuple(gates.shape[1:])}, "
            f"got {channels.dtype} {tuple(channels.shape)}"
        )
    channels = channels.to(gates.device).expand_as(gates)
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


def _count(share: float, channels: int) -> int:
    """``share`` of the channels, rounded up, but not for the last digit of a product: 0.07 of 100 are 7."""
    return math.ceil(share * channels * (1 - 1e-9))


def _kth(score: Tensor, k: int) -> Tensor:
    return score.topk(min(k, score.shape[1]), dim=1).values[:, -1:]


def _is_tied(score: Tensor) -> Tensor:
    low, high = torch.aminmax(score, dim=1)
    return _equal(low, high)


def _equal(low: Tensor, high: Tensor) -> Tensor:
    return high - low <= 8 * torch.finfo(high.dtype).eps * high.abs()


def _never_nothing(score: Tensor, mask: Tensor) -> Kept:
    low, high = torch.aminmax(score, dim=1)
    tied = _equal(low, high)
    mask = mask | tied[:, None]
    empty = ~mask.any(1) & (low > -math.inf) & (high < math.inf)  # not so where a score is NaN
    top = score >= _kth(score, _count(FALLBACK_SHARE, score.shape[1]))
    return Kept(mask | (empty[:, None] & top), empty, tied)
