"""The class read-out: a linear guess at what comes after the map, for heads that cannot be written down.

Behind a class token, an attention pooling, a recurrent layer or a deep head there is no formula from the map to the
logits. So one is fitted: a ridge regression from squeezed vectors to the *model's own* logits, in closed form, on
cached features. How much of the logits it explains on data held out (R squared) is the trust that its class map
deserves, and is always said beside it.

What is squeezed. ``mean`` is the plain mean of each channel, as a head after pooling would see it. ``contrast`` is the
mean square of how far a channel rises above its own mean over the positions, and, as a second number, of how far it
falls below. Tokens of a transformer sit on a large offset that is the same everywhere, and attention hands what was
found in one place on to all others: a read-out of plain means explains the logits well and points elsewhere, one of
contrasts points at what stands out. So: ``contrast`` for features that are negative about as often as positive,
``mean`` for others; :func:`suited_pool`. Figures are in ``docs/readout.md``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from squeezecam import heatmap, tree
from squeezecam.block import squeeze_positions
from squeezecam.errors import FitError, InputError
from squeezecam.ridge import ridge

Pool = Literal["mean", "contrast"]
POOLS = ("mean", "contrast")
LOW_R2 = 0.5
"""Held-out R squared under which the class map is said to be doubtful."""
MINIMUM = 8
LEAST = {"mean": 0.0, "contrast": 1e-2}
"""Smallest penalties. What rises in one place and what falls in all others are nearly the same number: without a
penalty, a read-out of contrasts would live on the difference of the two, which says nothing about places.
"""
_HOLD_OUT = 0.2


@dataclass(frozen=True)
class Fitted:
    """A read-out: ``weight`` (K, C), ``bias`` (K,), both float32, ``r2`` on held-out data, and the penalty that was
    chosen.
    """

    weight: Tensor
    bias: Tensor
    r2: float
    penalty: float


def fit_readout(
    squeezed: Tensor, logits: Tensor, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor, float]:
    """Ridge regression from squeezed vectors to logits, in closed form: ``(weight (K, C), bias (K,), r2)``.

    See :func:`fit` for everything else that is known about it.
    """
    fitted = fit(squeezed, logits, generator)
    return fitted.weight, fitted.bias, fitted.r2


def fit(
    squeezed: Tensor,
    logits: Tensor,
    generator: torch.Generator | None = None,
    held: Tensor | None = None,
    pool: Pool = "mean",
) -> Fitted:
    """Ridge regression on standardised vectors; the penalty is chosen by leave-one-out error, R squared by data held
    out.

    Args:
        squeezed: ``(M, C)``, from :func:`squeeze_features`.
        logits: ``(M, K)`` or ``(M,)``, what the model itself said.
        generator: draws the fifth of the samples that is held out for R squared; all samples make the final weights.
        held: ``(M,)`` bool, the samples that are held out, in place of a draw; these never enter the weights.
        pool: what was squeezed: contrasts are scaled by their size, and have a smallest penalty.

    Raises:
        InputError: shapes that do not fit together.
        FitError: fewer than 8 samples with finite numbers.

    """
    logits = logits[:, None] if logits.ndim == 1 else logits
    if squeezed.ndim != 2 or logits.ndim != 2 or len(squeezed) != len(logits):
        raise InputError(
            f"a read-out needs vectors (M, C) and logits (M, K), got {tuple(squeezed.shape)} and {tuple(logits.shape)}"
        )
    given, wanted = squeezed.detach().double(), logits.detach().double()
    good = given.isfinite().all(1) & wanted.isfinite().all(1)
    given, wanted = given[good], wanted[good]
    if len(given) < MINIMUM:
        raise FitError(f"{len(given)} samples with finite numbers are too few for a read-out: give at least {MINIMUM}")
    if held is None:
        order = torch.randperm(len(given), generator=generator).to(given.device)
        apart = torch.zeros(len(given), dtype=torch.bool, device=given.device)
        apart[order[: max(2, round(len(given) * _HOLD_OUT))]] = True
    else:
        apart = held.to(given.device)[good]
    weight, offset, penalty = ridge(given[~apart], wanted[~apart], least=LEAST[pool], by_size=pool == "contrast")
    r2 = r_squared(given[apart] @ weight.t() + offset, wanted[apart])
    if held is None:
        weight, offset, penalty = ridge(given, wanted, penalty, by_size=pool == "contrast")
    return Fitted(weight.float(), offset.float(), r2, penalty)


def r_squared(predicted: Tensor, wanted: Tensor) -> float:
    """Share of the variance of ``wanted`` (M, K), over samples, that is explained; 0 where there is none to explain."""
    total = (wanted - wanted.mean(0)).square().sum()
    if not float(total) > 0:
        return 0.0
    return float(1 - (wanted - predicted).square().sum() / total)


def squeeze_features(features: Tensor, pool: Pool = "mean") -> Tensor:
    """Squeezed vectors of canonical features ``(N, C, *S)`` as the read-out takes them: ``(N, C)``, for ``contrast``
    ``(N, 2 C)``.
    """
    return squeeze_positions(position_features(features, pool))


def position_features(features: Tensor, pool: Pool = "mean") -> Tensor:
    """What of the features counts at each position: their value ``(N, C, *S)``; or ``(N, 2 C, *S)``, the square of how
    far it is above the channel's mean over the positions, for all channels, then of how far it is below.
    """
    features = heatmap.at_least_float32(features)
    if pool == "mean":
        return features
    if pool != "contrast":
        raise InputError(f"unknown pooling '{pool}' of a read-out; expected one of {', '.join(POOLS)}")
    centred = features - features.mean(tuple(range(2, features.ndim)), keepdim=True)
    return torch.cat([centred.relu().square(), (-centred).relu().square()], 1)


def suited_pool(features: Tensor) -> Pool:
    """What to squeeze for features ``(N, C, *S)`` like these: see the top of this module."""
    return pool_for(heatmap.suited_aggregate(features))


def pool_for(aggregate: str) -> Pool:
    """What to squeeze where kept channels are read by ``aggregate``."""
    return "contrast" if aggregate == "contrast" else "mean"


class ReadoutHead(nn.Module):
    """A fitted read-out of one stream, with the interface of :class:`squeezecam.head.Head`; ``model`` arguments are
    there for that and not used.

    Args:
        output: name of the output.
        path: where it is in what the model returns.
        weight: ``(K, C)``, for ``contrast`` ``(K, 2 C)``.
        bias: ``(K,)``.
        r2: R squared on held-out data.
        pool: what is squeezed, see :func:`position_features`.
        link: what stands between the logits that were fitted and the output: ``"identity"``, ``"softmax"`` or
            ``"sigmoid"``.

    Buffers are not in the state dict: a checkpoint of the blocks then fits a Squeeze with a read-out and one without.
    """

    weight: Tensor
    bias: Tensor
    kind = "readout"
    exact = False
    activation = "none"

    def __init__(
        self,
        output: str,
        path: tree.Path,
        weight: Tensor,
        bias: Tensor,
        r2: float,
        pool: Pool = "mean",
        link: str = "identity",
    ) -> None:
        super().__init__()
        if pool not in POOLS:
            raise InputError(f"unknown pooling '{pool}' of a read-out; expected one of {', '.join(POOLS)}")
        self.output, self.path, self.r2, self.link = output, path, r2, link
        self.labels = False
        self.pool: Pool = pool
        self.register_buffer("weight", weight.detach().clone(), persistent=False)
        self.register_buffer("bias", bias.detach().clone(), persistent=False)

    @property
    def competing(self) -> bool:
        """Whether what is said for one class is said against the others; not so where they are independent labels."""
        return not self.labels and self.link != "sigmoid"

    def describe(self) -> str:
        """One line for people."""
        fitted = f"fitted to the model's logits (R² {self.r2:.2f} on held-out data)"
        return f"read-out of the {self.pool} of each channel, {fitted}"

    def doubt(self) -> str | None:
        """What the status has to say about its class maps, or None."""
        if self.r2 >= LOW_R2:
            return None
        return f"the class read-out explains little of the model's logits (R² {self.r2:.2f}): its class map is doubtful"

    def matrix(self, model: nn.Module) -> Tensor:
        """``W`` as ``(K, C)``, for ``contrast`` ``(K, 2 C)``."""
        return heatmap.at_least_float32(self.weight)

    def offsets(self, model: nn.Module) -> Tensor:
        """``b`` as ``(K,)``."""
        return heatmap.at_least_float32(self.bias)

    def evidence_features(self, features: Tensor) -> Tensor:
        """The features as the read-out sees them."""
        return position_features(features, self.pool)

    def squeeze(self, features: Tensor) -> Tensor:
        """Pooled as the read-out pools, ``(N, C)``; for ``contrast`` the variance of each channel."""
        return self._per_channel(squeeze_features(features, self.pool))

    def logits(self, model: nn.Module, features: Tensor) -> Tensor:
        """The read-out itself: ``(N, K)``; of one stream of several only its share, with the whole constant."""
        squeezed = squeeze_features(features, self.pool)
        return squeezed @ self.weight.to(squeezed).t() + self.bias.to(squeezed)

    def channel_weights(self, model: nn.Module, features: Tensor, target: Tensor) -> Tensor:
        """Weights of the squeezed vector for class ``target (N,)``: ``(N, C)``, for ``contrast`` ``(N, 2 C)``."""
        return self.matrix(model)[target]

    def class_map(self, model: nn.Module, features: Tensor, target: Tensor) -> Tensor:
        """Signed evidence for ``target (N,)`` at every position, ``(N, *S)``; its mean is the read-out's logit less its
        bias.
        """
        return heatmap.weighted_sum(self.evidence_features(features), self.channel_weights(model, features, target))

    def channel_evidence(self, model: nn.Module, features: Tensor, target: Tensor) -> Tensor:
        """What each channel contributes to the read-out's logit of ``target``, ``(N, C)``."""
        squeezed = squeeze_features(features, self.pool)
        return self._per_channel(self.channel_weights(model, features, target).to(squeezed.dtype) * squeezed)

    def constant(self, model: nn.Module, features: Tensor, target: Tensor) -> Tensor:
        """What the read-out's logit has beside the mean of the class map, ``(N,)``."""
        return self.offsets(model).to(features.device)[target]

    def _per_channel(self, values: Tensor) -> Tensor:
        return values if self.pool == "mean" else values.unflatten(1, (2, -1)).sum(1)


class Readout(nn.Module):
    """The read-out of one output: one :class:`ReadoutHead` per stream, fitted together on the joined vectors.

    The logit is the sum over the streams of the means of their class maps, plus one constant: streams share one R
    squared, and each has its own map.
    """

    def __init__(self, heads: Mapping[str, ReadoutHead]) -> None:
        super().__init__()
        self.streams = nn.ModuleDict(dict(heads))

    def __getitem__(self, stream: str) -> ReadoutHead:
        head = self.streams[stream]
        assert isinstance(head, ReadoutHead)
        return head

    def __iter__(self) -> Iterator[str]:
        return iter(self.streams)

    def get(self, stream: str) -> ReadoutHead | None:
        """The head of ``stream``, or None."""
        return self[stream] if stream in self.streams else None

    @property
    def first(self) -> ReadoutHead:
        """The head of the first stream: output, R squared and constant are the same in all."""
        return self[next(iter(self.streams))]

    @property
    def output(self) -> str:
        """Name of the output."""
        return self.first.output

    @property
    def r2(self) -> float:
        """R squared on held-out data."""
        return self.first.r2

    def describe(self) -> str:
        """One line for people."""
        return self.first.describe()
