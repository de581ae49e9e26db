"""A classification layer that takes the pooled map and something beside it, joined to one vector.

A picture with a vector of figures is the usual case: ``linear(cat([pool(u), g(m)]))``. Some columns of the layer belong
to the map, the others do not see it, so the logit is the evidence in the map plus a constant of each sample. Which
columns these are is read off the vector that the layer takes, and tried: the map is changed, and all the other columns
have to stay as they were.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from squeezecam import heatmap, tree
from squeezecam.head import LINKS, POOLS, Head, tolerance_of
from squeezecam.tap import Handler, tapped

if TYPE_CHECKING:
    from squeezecam.module import Squeeze


@contextlib.contextmanager
def layer_inputs(model: nn.Module, layers: Mapping[str, str]) -> Iterator[dict[str, Tensor]]:
    """What the layers with the weights ``{name: weight}`` take meanwhile in this thread, ``{name: (N, J)}``.

    Of a layer that runs several times it is the last call; other ranks are left out.
    """
    taken: dict[str, Tensor] = {}
    thread = threading.get_ident()

    def hook(name: str) -> Callable[[nn.Module, Any], None]:
        def keep(_: nn.Module, args: Any) -> None:
            if threading.get_ident() == thread and args and isinstance(args[0], Tensor) and args[0].ndim == 2:
                taken[name] = args[0].detach().clone()

        return keep

    with contextlib.ExitStack() as stack:
        for name, weight in layers.items():
            owner = model.get_submodule(weight.rpartition(".")[0])
            if isinstance(owner, nn.Linear):
                stack.enter_context(owner.register_forward_pre_hook(hook(name)))
        yield taken


def map_changed(
    squeeze: Squeeze,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    layers: Mapping[str, str],
    *,
    negative: bool = False,
) -> tuple[Tensor, dict[str, Tensor], Any]:
    """The model once more with its only map changed at random: those features, what the layers took then, the result.

    A map that is 0 everywhere is replaced by random numbers above 0; ``negative``: any, by random numbers below 0.
    """
    (stream, place), *_ = squeeze.places.items()
    seen: list[Tensor] = []

    def change(tensor: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        factor = (0.5 + torch.rand(tensor.shape, generator=generator)).to(tensor)  # signs stay, for a ReLU may follow
        seen.append(-factor if negative else tensor * factor if bool(tensor.any()) else factor)
        return seen[0].clone()

    handlers: dict[str, Handler] = {stream: change}
    with tapped(squeeze.model, squeeze.places, handlers), layer_inputs(squeeze.model, layers) as taken:
        result = squeeze.model(*args, **kwargs)
    return place.layout.unpack(seen[0], tree.batch_size(args, kwargs), place.grid), taken, result


def find_joined(
    model: nn.Module,
    features: Tensor,
    output: Tensor,
    name: str,
    path: tree.Path,
    names: tuple[str | None, str | None, str | None, str | None],
    taken: Tensor,
    again: Callable[[], tuple[Tensor, Tensor | None]],
) -> Head | None:
    """The head whose layer takes the pooled map as some of its columns, or None.

    Args:
        model: the model.
        features: canonical features ``(N, C, *S)`` of the probe.
        output: what the model returned for it.
        name, path: of the output.
        names: of weight and bias of its classification layer, and of a normalisation before it, which is not used.
        taken: what that layer took, ``(N, J)``.
        again: runs the model once more with the map changed; features and what the layer took then.

    """
    weight_name, bias_name = names[:2]
    assert weight_name is not None
    channels = features.shape[1]
    layer = model.get_submodule(weight_name.rpartition(".")[0])
    if not isinstance(layer, nn.Linear) or features.ndim < 3 or channels >= taken.shape[1]:
        return None
    link = _link(layer, taken, output, tolerance_of(features))
    if link is None:
        return None
    changed: tuple[Tensor, Tensor | None] | None = None
    for pool in POOLS:
        whole = Head(name, path, "linear", pool, "none", link, weight_name, bias_name)
        for first in _starts(taken, whole.squeeze(features), tolerance_of(features)):
            head = Head(
                name, path, "linear", pool, "none", link, weight_name, bias_name, columns=(first, first + channels)
            )
            if not bool(head.matrix(model).any()):
                continue
            changed = changed or again()
            if _alone(head, taken, *changed):
                return head
    return None


def _link(layer: nn.Linear, taken: Tensor, output: Tensor, tolerance: float) -> str | None:
    """What stands between the logits of ``layer`` and the output."""
    expected = heatmap.at_least_float32(output.detach())
    expected = expected[:, None] if expected.ndim == 1 else expected
    bias = None if layer.bias is None else heatmap.at_least_float32(layer.bias)
    weight = heatmap.at_least_float32(layer.weight)
    logits = F.linear(taken.to(weight.dtype), weight, bias)
    if logits.shape != expected.shape or not bool(expected.isfinite().all()):
        return None
    still = torch.zeros_like(logits) if bias is None else bias.expand_as(logits)
    for name, link in LINKS.items():
        found = link(logits)
        moved = (found - link(still)).abs().amax()
        rounding = 4 * torch.finfo(expected.dtype).eps * expected.abs().amax()
        if bool((found - expected).abs().amax() <= tolerance * moved + rounding):
            return name
    return None


def _starts(taken: Tensor, pooled: Tensor, tolerance: float) -> list[int]:
    """First columns of ``taken (N, J)`` from which on it holds ``pooled (N, C)``."""
    seen = heatmap.at_least_float32(taken)
    pooled, channels = pooled.to(seen.dtype), pooled.shape[1]
    near = tolerance * pooled.abs().amax()
    if not bool(near > 0):
        return []
    loudest = int(pooled.abs().amax(0).argmax())  # few other columns look like it
    shifts = seen[:, loudest : seen.shape[1] - channels + loudest + 1]
    tried = ((shifts - pooled[:, loudest, None]).abs() <= near).all(0).nonzero().flatten().tolist()
    return [start for start in tried if bool(((seen[:, start : start + channels] - pooled).abs() <= near).all())]


def _alone(head: Head, taken: Tensor, features: Tensor, changed: Tensor | None) -> bool:
    """Whether the columns of ``head`` follow the map when that is changed, and all others stay as they were."""
    if changed is None or changed.shape != taken.shape:
        return False
    assert head.columns is not None
    first, end = head.columns
    pooled = head.squeeze(features)
    tolerance = tolerance_of(features)
    follows = (changed[:, first:end].to(pooled) - pooled).abs().amax() <= tolerance * pooled.abs().amax()
    before, after = (torch.cat([x[:, :first], x[:, end:]], 1).double() for x in (taken, changed))
    stays = (after - before).abs().amax() <= 1e-6 * before.abs().amax()  # the same numbers by the same operations
    return bool(follows) and bool(stays)
