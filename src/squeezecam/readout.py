"""The class read-out: a linear guess at what comes after the map, for heads that cannot be written down.

Behind a class token, an attention pooling, a recurrent layer or a deep head there is no formula from the map to the
logits. So one is fitted: a ridge regression from squeezed vectors to the *model's own* logits, in closed form, on
cached features. How much of the logits it explains on data held out (R squared) is the trust that its class map
deserves, and is always said beside it.

What is squeezed. ``mean`` is the plain mean of each channel, as a head after pooling would see it. ``contrast`` is the
mean square of what a channel differs from its own mean over the positions. Tokens of a transformer sit on a large
offset that is the same everywhere, and attention hands what was found in one place on to all others: a read-out of
plain means explains the logits very well (R squared .93 to 1.00) and points at the planted evidence in 11 to 14 % of
the pictures, one of contrasts a little less well (.81 to .86) and points at it in 65 % (two small vision transformers
trained on a planted texture, chance 5 %; a small ConvNeXt: 100 % with both). So: ``contrast`` for features that are
negative about as often as positive, ``mean`` for others; :func:`suited_pool`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from squeezecam import heatmap, tree
from squeezecam.block import squeeze_positions
from squeezecam.errors import FitError, InputError

Pool = Literal["mean", "contrast"]
POOLS = ("mean", "contrast")
LOW_R2 = 0.5
"""Held-out R squared under which the class map is said to be doubtful."""
MINIMUM = 8
_HOLD_OUT = 0.2
_PENALTIES = tuple(10.0**power for power in range(-6, 4))


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


def fit(squeezed: Tensor, logits: Tensor, generator: torch.Generator | None = None) -> Fitted:
    """Ridge regression on standardised vectors; the penalty is chosen by leave-one-out error, R squared by data held
    out.

    Args:
        squeezed: ``(M, C)``, from :func:`squeeze_features`.
        logits: ``(M, K)`` or ``(M,)``, what the model itself said.
        generator: draws the fifth of the samples that is held out for R squared; all samples make the final weights.

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
    order = torch.randperm(len(given), generator=generator).to(given.device)
    held = max(2, round(len(given) * _HOLD_OUT))
    weight, bias, penalty = _ridge(given[order[held:]], wanted[order[held:]], None)
    r2 = r_squared(given[order[:held]] @ weight.t() + bias, wanted[order[:held]])
    weight, bias, penalty = _ridge(given, wanted, penalty)
    return Fitted(weight.float(), bias.float(), r2, penalty)


def r_squared(predicted: Tensor, wanted: Tensor) -> float:
    """Share of the variance of ``wanted`` (M, K), over samples, that is explained; 0 where there is none to explain."""
    total = (wanted - wanted.mean(0)).square().sum()
    if not float(total) > 0:
        return 0.0
    return float(1 - (wanted - predicted).square().sum() / total)


def squeeze_features(features: Tensor, pool: Pool = "mean") -> Tensor:
    """Squeezed vectors ``(N, C)`` of canonical features ``(N, C, *S)``, as the read-out takes them."""
    return squeeze_positions(position_features(features, pool))


def position_features(features: Tensor, pool: Pool = "mean") -> Tensor:
    """What of the features counts at each position: their value, or the square of how far it is from the channel's
    mean.
    """
    features = heatmap.at_least_float32(features)
    if pool == "mean":
        return features
    if pool != "contrast":
        raise InputError(f"unknown pooling '{pool}' of a read-out; expected one of {', '.join(POOLS)}")
    return (features - features.mean(tuple(range(2, features.ndim)), keepdim=True)).square()


def suited_pool(features: Tensor) -> Pool:
    """What to squeeze for features ``(N, C, *S)`` like these: see the top of this module."""
    return "contrast" if heatmap.suited_aggregate(features) == "contrast" else "mean"


class ReadoutHead(nn.Module):
    """A fitted read-out with the interface of :class:`squeezecam.head.Head`; ``model`` arguments are there for that and
    not used.

    Args:
        output: name of the output.
        path: where it is in what the model returns.
        weight: ``(K, C)``.
        bias: ``(K,)``.
        r2: R squared on held-out data.
        pool: what is squeezed, see :func:`position_features`.

    """

    weight: Tensor
    bias: Tensor
    kind = "readout"
    exact = False
    activation = "none"
    link = "identity"

    def __init__(
        self, output: str, path: tree.Path, weight: Tensor, bias: Tensor, r2: float, pool: Pool = "mean"
    ) -> None:
        super().__init__()
        if pool not in POOLS:
            raise InputError(f"unknown pooling '{pool}' of a read-out; expected one of {', '.join(POOLS)}")
        self.output, self.path, self.r2 = output, path, r2
        self.pool: Pool = pool
        self.register_buffer("weight", weight.detach().clone())
        self.register_buffer("bias", bias.detach().clone())

    def describe(self) -> str:
        """One line for people."""
        fitted = f"fitted to the model's logits (R2 {self.r2:.2f} on held-out data)"
        return f"read-out of the {self.pool} of each channel, {fitted}"

    def doubt(self) -> str | None:
        """What the status has to say about its class maps, or None."""
        if self.r2 >= LOW_R2:
            return None
        return f"the class read-out explains little of the model's logits (R2 {self.r2:.2f}): its class map is doubtful"

    def matrix(self, model: nn.Module) -> Tensor:
        """``W`` as ``(K, C)``."""
        return self.weight

    def offsets(self, model: nn.Module) -> Tensor:
        """``b`` as ``(K,)``."""
        return self.bias

    def evidence_features(self, features: Tensor) -> Tensor:
        """The features as the read-out sees them."""
        return position_features(features, self.pool)

    def squeeze(self, features: Tensor) -> Tensor:
        """Pooled as the read-out pools: ``(N, C)``."""
        return squeeze_features(features, self.pool)

    def logits(self, model: nn.Module, features: Tensor) -> Tensor:
        """The read-out itself: ``(N, K)``."""
        squeezed = self.squeeze(features)
        return squeezed @ self.weight.to(squeezed).t() + self.bias.to(squeezed)

    def channel_weights(self, model: nn.Module, features: Tensor, target: Tensor) -> Tensor:
        """Weights ``(N, C)`` of the squeezed vector for class ``target (N,)``."""
        return self.weight.to(heatmap.at_least_float32(features))[target]

    def class_map(self, model: nn.Module, features: Tensor, target: Tensor) -> Tensor:
        """Signed evidence for ``target (N,)`` at every position, ``(N, *S)``; its mean is the read-out's logit less its
        bias.
        """
        return heatmap.weighted_sum(self.evidence_features(features), self.channel_weights(model, features, target))

    def channel_evidence(self, model: nn.Module, features: Tensor, target: Tensor) -> Tensor:
        """What each channel contributes to the read-out's logit of ``target``, ``(N, C)``."""
        return self.channel_weights(model, features, target) * self.squeeze(features)

    def constant(self, model: nn.Module, features: Tensor, target: Tensor) -> Tensor:
        """What the read-out's logit has beside the mean of the class map, ``(N,)``."""
        return self.bias.to(features.device)[target]


def _ridge(given: Tensor, wanted: Tensor, penalty: float | None) -> tuple[Tensor, Tensor, float]:
    """Weights, biases and penalty; the one with the least leave-one-out error where none is given."""
    centre, spread = given.mean(0), given.std(0, correction=0)
    spread = torch.where(spread > 1e-12 * given.abs().amax().clamp_min(1e-300), spread, torch.ones_like(spread))
    offset = wanted.mean(0)
    left, sizes, right = torch.linalg.svd((given - centre) / spread, full_matrices=False)
    along = left.t() @ (wanted - offset)
    if penalty is None:
        errors = [_left_out(left, sizes, along, wanted - offset, value * len(given)) for value in _PENALTIES]
        penalty = _PENALTIES[min(range(len(errors)), key=errors.__getitem__)]
    shrunk = sizes / (sizes.square() + penalty * len(given))
    weight = (right.t() @ (shrunk[:, None] * along)).t() / spread
    return weight, offset - weight @ centre, penalty


def _left_out(left: Tensor, sizes: Tensor, along: Tensor, wanted: Tensor, penalty: float) -> float:
    """Mean square error of each sample under the fit to all others, in closed form."""
    share = sizes.square() / (sizes.square() + penalty)
    residual = wanted - left @ (share[:, None] * along)
    leverage = (left.square() @ share + 1 / len(wanted)).clamp(max=1 - 1e-9)
    return float((residual / (1 - leverage)[:, None]).square().mean())
