"""What the model does after the map: the classification layer, where it is simple enough to be written down exactly.

A head is *verified on the model's own numbers*, never assumed: its formula, evaluated on the features of the probe, has
to give the model's output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from squeezecam import heatmap, tree
from squeezecam.block import squeeze_positions
from squeezecam.errors import InputError

Kind = Literal["linear", "norm-linear", "conv"]
LINKS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda logits: logits,
    "softmax": lambda logits: logits.softmax(-1),
    "log-softmax": lambda logits: logits.log_softmax(-1),
    "sigmoid": torch.sigmoid,
}
POOLS = ("mean", "relu-mean", "max", "relu-max")
"""As they are tried. Where every channel has a maximum above 0 the last two are the same: see :func:`told_apart`."""
STRAYED = 3.0
"""Tolerances that an output may be away from its formula when a model is used: rounding differs from call to call."""
_NORM_EPS = (1e-5, 1e-6, 1e-12)


@dataclass(frozen=True)
class Head:
    """A verified formula from canonical features ``u (N, C, *S)`` to the logits ``(N, K)`` of one output.

    ``linear``: ``W pool(u) + b``. ``norm-linear``: a LayerNorm between pooling and ``W``. ``conv``: ``pool(act(W u(x) +
    b))``, the 1x1 convolution before pooling of SqueezeNet and its kin.

    Attributes:
        pool: ``"mean"`` or ``"max"``; ``"relu-mean"`` and ``"relu-max"`` where a ReLU follows the map.
        activation: of a ``conv`` head: ``"none"`` or ``"relu"``.
        link: what stands between the logits and the output.
        weight, bias, scale, shift: names of the parameters, read from the model at each use, so that training is
            followed.
        columns: of a ``linear`` head whose layer takes more than this map (a vector of figures joined to it, another
            pooled map), the first column of ``W`` that belongs to the map and the one after the last; None: all do. The
            others give each sample a constant, see :meth:`constant`.
        sides: the layer has one row, which is read as two classes (:mod:`squeezecam.sides`).
        labels: its logits are those of independent labels, which do not compete.

    """

    output: str
    path: tree.Path
    kind: Kind
    pool: str
    activation: str
    link: str
    weight: str
    bias: str | None
    scale: str | None = None
    shift: str | None = None
    eps: float = 1e-5
    columns: tuple[int, int] | None = None
    sides: bool = False
    labels: bool = False

    @property
    def competing(self) -> bool:
        """Whether what is said for one class is said against the others, as a softmax has it."""
        return not self.labels and self.link != "sigmoid"

    @property
    def exact(self) -> bool:
        """Whether the mean of this head's signed class map over the positions, plus a constant, is the logit."""
        return self.pool in ("mean", "relu-mean")

    def describe(self) -> str:
        """One line for people."""
        pool = {
            "mean": "mean pooling", "relu-mean": "ReLU and mean pooling", "max": "max pooling",
            "relu-max": "ReLU and max pooling",
        }[self.pool]  # fmt: skip
        if self.kind == "conv":
            act = " and ReLU" if self.activation == "relu" else ""
            return f"1x1 convolution '{self.weight}'{act}, then {pool}"
        if self.columns is not None:
            first, end = self.columns
            return (
                f"{pool}, then columns {first} to {end - 1} of linear '{self.weight}' (what the others take does not "
                "depend on the map)"
            )
        norm = " and LayerNorm" if self.kind == "norm-linear" else ""
        return f"{pool}{norm}, then linear '{self.weight}'"

    def matrix(self, model: nn.Module) -> Tensor:
        """``W`` as ``(K, C)``, of the model as it is now; of its columns those of the map."""
        weight = _tensor(model, self.weight).flatten(1)
        return self._rows(heatmap.at_least_float32(weight if self.columns is None else weight[:, slice(*self.columns)]))

    def offsets(self, model: nn.Module) -> Tensor:
        """``b`` as ``(K,)``, zeros where the layer has none."""
        found = self._bias(model)
        return found if found is not None else torch.zeros_like(self.matrix(model)[:, 0])

    def evidence_features(self, features: Tensor) -> Tensor:
        """The features as the pooling sees them: rectified where a ReLU follows."""
        features = heatmap.at_least_float32(features)
        return features.relu() if self.pool.startswith("relu") else features

    def squeeze(self, features: Tensor) -> Tensor:
        """Pooled as the head pools: ``(N, C)``."""
        seen = self.evidence_features(features)
        return squeeze_positions(seen) if self.exact else seen.flatten(2).amax(2)

    def logits(self, model: nn.Module, features: Tensor, taken: Tensor | None = None) -> Tensor:
        """The formula itself: ``(N, K)``.

        Where the layer has other columns too, what they add is known from all that it takes, ``taken (N, J)``
        (``Capture.taken``); without it this is the share of the map, with the bias.
        """
        weight = self.matrix(model)
        bias = self._bias(model)
        if self.kind == "conv":
            maps = self._conv_maps(model, features)
            return squeeze_positions(maps) if self.exact else maps.flatten(2).amax(2)
        pooled = self.squeeze(features)
        if self.kind == "norm-linear":
            pooled = F.layer_norm(
                pooled, pooled.shape[1:], _optional(model, self.scale), _optional(model, self.shift), self.eps
            )
        found = F.linear(pooled.to(weight.dtype), weight, bias)
        return found if taken is None or self.columns is None else found + self._rest(model, taken)

    def channel_weights(self, model: nn.Module, features: Tensor, target: Tensor) -> Tensor:
        """Weights ``w (N, C)`` with ``logit = sum_c w_c pool(u)_c + const`` for class ``target (N,)`` at these
        features.
        """
        weight = self.matrix(model)[target]
        if self.kind != "norm-linear":
            return weight
        pooled = self.squeeze(features)
        scale = _optional(model, self.scale)
        weight = weight * scale if scale is not None else weight
        deviation = (pooled.var(1, correction=0, keepdim=True) + self.eps).sqrt()
        return (weight - weight.mean(1, keepdim=True)) / deviation

    def class_map(self, model: nn.Module, features: Tensor, target: Tensor) -> Tensor:
        """Signed evidence for ``target (N,)`` at every position, ``(N, *S)``; its mean is the logit less a constant."""
        if self.kind == "conv":
            found = heatmap.weighted_sum(self.evidence_features(features), self.matrix(model)[target])
            bias = self._bias(model)
            found = found if bias is None else found + bias[target].view(-1, *[1] * (found.ndim - 1))
            return found.relu() if self.activation == "relu" else found
        return heatmap.weighted_sum(self.evidence_features(features), self.channel_weights(model, features, target))

    def channel_evidence(self, model: nn.Module, features: Tensor, target: Tensor) -> Tensor:
        """What each channel contributes to the logit of ``target``, ``(N, C)``."""
        weights = self.channel_weights(model, features, target)
        if self.kind != "conv" or self.activation == "none":
            return weights * self.squeeze(features)
        open_positions = (self.class_map(model, features, target) > 0).to(weights.dtype)
        seen = self.evidence_features(features)
        return weights * squeeze_positions(seen * open_positions[:, None])

    def strays(
        self,
        model: nn.Module,
        features: Tensor,
        target: Tensor,
        values: Tensor,
        taken: Tensor | None = None,
        precision: torch.dtype = torch.float32,
    ) -> Tensor:
        """Whether the model's output for ``target (N,)`` is another than the formula gives, ``(N,)`` bool.

        What was verified when the block was attached may have changed since: a normalisation between pooling and layer
        that was the identity while it was fresh, a pooling with a learned exponent. ``features`` as the model has them,
        computed in ``precision``, ``values (N, K)``: the output.
        """
        if self.link in ("identity", "sigmoid"):  # the other classes have no say in it
            found = LINKS[self.link](self._logit(model, features, target, taken))
        else:
            found = LINKS[self.link](self.logits(model, features, taken)).gather(1, target[:, None])[:, 0]
        expected = heatmap.at_least_float32(values).gather(1, target[:, None])[:, 0]
        # What large parts of both signs leave is known no better than the parts are.
        parts = (self.channel_weights(model, features, target) * self.squeeze(features.abs())).abs().sum(1)
        size = torch.maximum(parts, heatmap.at_least_float32(values).abs().amax(1))
        on_cuda = features.is_cuda
        allowed = STRAYED * max(tolerance(precision, on_cuda), tolerance(values.dtype, on_cuda))
        return (found - expected).abs() > allowed * size

    def _logit(self, model: nn.Module, features: Tensor, target: Tensor, taken: Tensor | None) -> Tensor:
        """The formula for one class of each sample, ``(N,)``."""
        if self.kind == "conv":
            positions = self.class_map(model, features, target).flatten(1)
            return positions.mean(1) if self.exact else positions.amax(1)
        found = (self.channel_weights(model, features, target) * self.squeeze(features)).sum(1)
        return found + self.constant(model, features, target, taken)

    def constant(self, model: nn.Module, features: Tensor, target: Tensor, taken: Tensor | None = None) -> Tensor:
        """What the logit has beside the mean of the class map, ``(N,)``.

        Args:
            model: the model.
            features: canonical features ``(N, C, *S)``.
            target: classes ``(N,)``.
            taken: of a head with ``columns``, what its layer takes, ``(N, J)``: ``taken[output]`` of what was captured.

        Raises:
            InputError: ``taken`` is missing where the logit cannot be known without.

        """
        if self.columns is not None:
            if taken is None:
                raise InputError(
                    f"the layer '{self.weight}' takes more than the map, and what the rest adds differs from sample to "
                    "sample: give taken=seen[stream].taken[output], of output, seen = squeeze.capture(inputs)"
                )
            rest = self._rest(model, taken).gather(1, target[:, None])[:, 0]
            return rest + self.offsets(model)[target]
        if self.kind == "conv":
            return torch.zeros(target.shape[0], device=features.device)
        bias = self._bias(model)
        found: Tensor = bias[target] if bias is not None else torch.zeros(target.shape[0], device=features.device)
        shift = _optional(model, self.shift) if self.kind == "norm-linear" else None
        return found if shift is None else torch.add(found, self.matrix(model)[target] @ shift)

    def _rest(self, model: nn.Module, taken: Tensor) -> Tensor:
        """What the columns that do not belong to the map add, ``(N, K)``."""
        assert self.columns is not None
        first, end = self.columns
        others = torch.ones(taken.shape[1], dtype=torch.bool, device=taken.device)
        others[first:end] = False
        weight = heatmap.at_least_float32(_tensor(model, self.weight))
        return F.linear(taken.to(weight.dtype)[:, others], self._rows(weight[:, others]))

    def _bias(self, model: nn.Module) -> Tensor | None:
        found = _optional(model, self.bias)
        return None if found is None else self._rows(found)

    def _rows(self, rows: Tensor) -> Tensor:
        """The rows of the layer, or of its only one those of the two sides."""
        return torch.cat([-rows, rows]) / 2 if self.sides else rows

    def _conv_maps(self, model: nn.Module, features: Tensor) -> Tensor:
        seen = self.evidence_features(features)
        weight = self.matrix(model)
        maps: Tensor = torch.einsum("kc,ncx->nkx", weight, seen.flatten(2).to(weight.dtype)).unflatten(
            2, seen.shape[2:]
        )
        bias = self._bias(model)
        if bias is not None:
            maps = maps + bias.view(1, -1, *[1] * (maps.ndim - 2))
        return maps.relu() if self.activation == "relu" else maps


def find_head(
    model: nn.Module,
    features: Tensor,
    output: Tensor,
    name: str,
    path: tree.Path,
    names: tuple[str | None, str | None, str | None, str | None],
) -> Head | None:
    """The formula that reproduces ``output`` from ``features``, or None where none of those known does."""
    weight_name, bias, scale, shift = names
    if weight_name is None or not output.is_floating_point():
        return None
    weight = _tensor(model, weight_name)
    if not bool(weight.any()):  # every formula gives a zero: a fresh head, which proves nothing
        return None
    if weight.flatten(1).shape[1] != features.shape[1] or features.ndim < 3:
        return None
    expected = heatmap.at_least_float32(output.detach())
    expected = expected[:, None] if expected.ndim == 1 else expected
    if expected.ndim != 2:
        return None
    convolution = weight.ndim > 2
    kinds: list[tuple[Kind, str, float]] = [("conv", "none", 0.0), ("conv", "relu", 0.0)] if convolution else []
    kinds += [("linear", "none", 0.0)]
    if not convolution:
        kinds += [("norm-linear", "none", eps) for eps in _NORM_EPS if scale is not None]
    for pool in POOLS:
        for kind, activation, eps in kinds:
            for link in LINKS:
                head = Head(name, path, kind, pool, activation, link, weight_name, bias, scale, shift, eps)
                if _reproduces(head, model, features, expected):
                    return head
    return None


def told_apart(head: Head, model: nn.Module, features: Tensor, output: Tensor) -> Head:
    """A head of maximum pooling with the ReLU before it that the model has, if it has one: ``output`` is what it makes
    of ``features (N, C, *S)`` that are all negative.
    """
    expected = heatmap.at_least_float32(output.detach())
    expected = expected[:, None] if expected.ndim == 1 else expected
    return head if _reproduces(head, model, features, expected) else replace(head, pool="relu-max")


def _reproduces(head: Head, model: nn.Module, features: Tensor, expected: Tensor) -> bool:
    """Whether the formula gives the output, measured against the part of it that depends on the features."""
    link = LINKS[head.link]
    logits = head.logits(model, features)
    found = link(logits).to(expected.dtype)
    if found.shape != expected.shape or not expected.isfinite().all():
        return False
    still = head.offsets(model) if head.kind != "conv" else torch.zeros_like(logits[0])
    if head.kind == "norm-linear" and head.shift is not None:
        still = still + head.matrix(model) @ heatmap.at_least_float32(_tensor(model, head.shift))
    moved = (found - link(still).to(expected.dtype)).abs().amax()
    rounding = 4 * torch.finfo(expected.dtype).eps * expected.abs().amax()
    return bool(((found - expected).abs().amax() <= tolerance_of(features) * moved + rounding).item())


def tolerance_of(features: Tensor) -> float:
    """How far numbers computed from these features may be apart and still count as the same, as a share of them."""
    return tolerance(features.dtype, features.is_cuda)


def tolerance(precision: torch.dtype, on_cuda: bool) -> float:
    """The same of numbers in this precision."""
    exact = 5e-3 if on_cuda else 1e-3  # convolutions there multiply with the digits of float16, as TF32
    return {torch.float16: 2e-2, torch.bfloat16: 5e-2}.get(precision, exact)


def as_used(model: nn.Module, name: str) -> str:
    """The name of the weight that a layer computes with, where ``name`` is a parameter of a layer with weight norm.

    That parameter is a direction, and the weight only while the layer is fresh: training moves its scale.
    """
    owner, _, leaf = name.rpartition(".")
    layer, _, weight = owner.rpartition(".parametrizations.")
    if layer and leaf in ("original0", "original1"):
        return f"{layer}.{weight}"
    plain = leaf.removesuffix("_v")  # the older form, which puts the weight beside it before each pass
    module = model.get_submodule(owner)
    computed = plain != leaf and plain not in module._parameters and isinstance(getattr(module, plain, None), Tensor)
    return f"{owner}.{plain}" if computed else name


def _tensor(model: nn.Module, name: str) -> Tensor:
    owner, _, leaf = name.rpartition(".")
    try:
        found = getattr(model.get_submodule(owner), leaf)
    except AttributeError:
        found = None
    if not isinstance(found, Tensor):
        raise InputError(
            f"the model has no '{name}' any more, which its classes were read off when the block was attached: attach "
            "again"
        )
    return found


def _optional(model: nn.Module, name: str | None) -> Tensor | None:
    return None if name is None else heatmap.at_least_float32(_tensor(model, name))
