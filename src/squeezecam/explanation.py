"""From one forward pass to the result object."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from squeezecam import heatmap, tree, vector
from squeezecam.block import IDENTITY_GATE
from squeezecam.errors import InputError
from squeezecam.head import Head
from squeezecam.tap import evaluating

if TYPE_CHECKING:
    from squeezecam.attach import Capture, Squeeze

Target = int | Sequence[int] | Sequence[Sequence[int]] | Tensor | Callable[[Any], Tensor] | None


@dataclass(frozen=True)
class Method:
    """A recipe for one map: channel score, keep rule, aggregation."""

    name: str
    score: str
    keep: str
    aggregate: str | None


METHODS = {
    "published": Method("published", "gate", "zscore", None),
    "contribution": Method("contribution", "contribution", "zscore", None),
    "class": Method("class", "class", "all", "class"),
}


@dataclass
class Explanation:
    """Heatmaps of a batch, with everything they were made of.

    Attributes:
        heatmap: ``(N, H, W)`` at the input's height and width, at least 0, not normalised (other ranks: ``(N, L)``, ``(N, T, H, W)``;
            several targets per sample: ``(N, K, H, W)``); ``{stream: tensor}`` where there are several streams.
        raw: the same on the native grid, signed for class maps.
        gates: SE vectors ``(N, C)``.
        kept: ``(N, C)`` bool, the channels that the map is made of.
        output: what the model returned.
        method: name of the method, with what was changed in it.
        status: per sample ``"ok"``, or what is doubtful and why.
        target: class per sample, ``(N,)`` or ``(N, K)``, where the method needs one or the output has classes.
        scores: the selected output's values ``(N, K)``, as returned by the model.

    """

    heatmap: Any
    raw: Any
    gates: Any
    kept: Any
    output: Any
    method: str
    status: list[str]
    target: Tensor | None = None
    scores: Tensor | None = None
    pictures: Tensor | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.status)

    def __getitem__(self, index: int) -> Explanation:
        """The explanation of one sample; the batch axis stays, with length 1."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        i, n = index % len(self), len(self)

        def part(value: Any) -> Any:
            for path, tensor in tree.leaves(value):
                if tensor.ndim and tensor.shape[0] == n:
                    value = tree.replace(value, path, tensor[i : i + 1])
            return value

        parts = {name: part(getattr(self, name)) for name in ("heatmap", "raw", "gates", "kept", "output", "target", "scores", "pictures")}
        return Explanation(method=self.method, status=[self.status[i]], **parts)

    def __iter__(self) -> Iterator[Explanation]:
        return (self[i] for i in range(len(self)))

    def streams(self) -> list[str]:
        """Names of the streams."""
        return list(self.heatmap) if isinstance(self.heatmap, dict) else ["map"]

    def overlay(self, pictures: Any = None, **options: Any) -> list[Any]:
        """Overlays as PIL images; see :func:`squeezecam.render.explained.overlays`."""
        from squeezecam.render.explained import overlays

        return overlays(self, pictures, **options)

    def plot(self, pictures: Any = None, **options: Any) -> Any:
        """One contact sheet as a PIL image, which a notebook shows."""
        from squeezecam.render.explained import sheet

        return sheet(self, pictures, **options)

    def save(self, folder: str | Path, pictures: Any = None, **options: Any) -> list[Path]:
        """Write overlays, raw maps (``.npz``) and a contact sheet into ``folder``; returns the paths."""
        from squeezecam.render.explained import save

        return save(self, folder, pictures, **options)


def explain(
    squeeze: Squeeze,
    inputs: Any,
    *,
    method: str | None = None,
    target: Target = None,
    output: str | None = None,
    score: str | None = None,
    keep: str | vector.KeepRule | None = None,
    aggregate: str | None = None,
    upsample: str = "bicubic",
    size: tuple[int, ...] | None = None,
) -> Explanation:
    """Explain a batch in one forward pass, without gradients, in evaluation mode.

    Args:
        squeeze: from :func:`squeezecam.attach`.
        inputs: what the model takes: a tensor, a tuple or a dict.
        method: ``"published"`` (SE vector, z-score rule, mean of the kept channels of the scaled map; arXiv 2412.05134),
            ``"contribution"`` (the same with ``s_c z_c`` as score) or ``"class"`` (signed evidence for the target). None: the class map
            where the classification layer is known exactly, else the published map.
        target: class to explain, for maps that depend on one: int, one per sample, a list of several per sample (one map each), or a
            function of the model's output that returns class indices. None: the predicted class.
        output: name of the output that scores and targets refer to, where there are several.
        score: channel score in place of the method's: ``"gate"``, ``"contribution"``, ``"class"``.
        keep: keep rule in place of the method's, see :func:`squeezecam.vector.keep_rule`.
        aggregate: ``"mean"``, ``"positive"``, ``"energy"`` or ``"class"`` in place of the method's.
        upsample: ``"bicubic"``, ``"linear"`` or ``"nearest"``.
        size: size of the heatmap; None: that of the input.

    Raises:
        InputError: an unknown name, a target out of range, a batch of the wrong form.

    """
    if method is not None and method not in METHODS:
        raise InputError(f"unknown method '{method}'; expected one of {', '.join(METHODS)}")
    with torch.no_grad(), evaluating(squeeze):
        result, captures = squeeze.capture(inputs)
        name = squeeze.output_name(output)
        values = squeeze.select(result, name)
        chosen = METHODS[method or default_method(squeeze, name)]
        targets, several = _targets(target, result, values)
        made = {
            stream: _maps(squeeze, stream, seen, name, chosen, targets, score, keep, aggregate) for stream, seen in captures.items()
        }
        heatmaps, raws = {}, {}
        for stream, (raw, _) in made.items():
            sizes = size or _input_size(squeeze, stream, inputs)
            heatmaps[stream] = _finish(raw, sizes, upsample, several)
            raws[stream] = raw if several else raw[:, 0]
        changed = [f"{key}={value}" for key, value in (("score", score), ("keep", keep), ("aggregate", aggregate)) if value is not None]
        status = _status(squeeze, captures, made, chosen, targets is not None, values)
    single = next(iter(made)) if len(made) == 1 else None

    def out(value: dict[str, Any]) -> Any:
        return value[single] if single is not None else value

    return Explanation(
        heatmap=out(heatmaps),
        raw=out(raws),
        gates=out({s: c.gates for s, c in captures.items()}),
        kept=out({s: kept.mask for s, (_, kept) in made.items()}),
        output=result,
        method=", ".join([chosen.name, *changed]),
        status=status,
        target=None if targets is None else (targets if several else targets[:, 0]),
        scores=values,
        pictures=_pictures(squeeze, inputs),
    )


def default_method(squeeze: Squeeze, output: str | None = None) -> str:
    """The method that ``None`` stands for: the class map where the head is known, else the published one."""
    return "class" if squeeze.head(output) is not None else "published"


def _maps(
    squeeze: Squeeze,
    stream: str,
    seen: Capture,
    output: str,
    chosen: Method,
    targets: Tensor | None,
    score: str | None,
    keep: str | vector.KeepRule | None,
    aggregate: str | None,
) -> tuple[Tensor, vector.Kept]:
    """Native maps ``(N, K, *S)`` for K targets (1 where the map does not depend on one) and the kept channels of the first."""
    score, aggregate = score or chosen.score, aggregate or chosen.aggregate
    if score not in vector.SCORES:
        raise InputError(f"unknown score '{score}'; expected one of {', '.join(vector.SCORES)}")
    rule = vector.keep_rule(keep if keep is not None else chosen.keep)
    if aggregate is None:  # a plain mean of features that can be negative cancels
        aggregate = "positive" if squeeze.signed.get(stream) else "mean"
    head = squeeze.head(output)
    if "class" in (score, aggregate):
        if head is None:
            raise InputError(
                f"the class score needs a classification layer of a known form after the map; that of output '{output}' is not: "
                "use method='published' or 'contribution'"
            )
        if targets is None:
            raise InputError(f"the class score needs an output with classes; '{output}' has none")
    gates = seen.gates.to(heatmap.at_least_float32(seen.features).dtype)
    in_path = gates / IDENTITY_GATE if squeeze.apply_mode == "gate" else torch.ones_like(gates)
    maps, first = [], None
    for column in range(targets.shape[1] if targets is not None and "class" in (score, aggregate) else 1):
        goal = None if targets is None else targets[:, column]
        kept = rule(_score(squeeze, head, score, seen.features, gates, in_path, goal))
        first = first or kept
        if aggregate == "class":
            assert head is not None and goal is not None
            maps.append(_class_map(squeeze, head, seen.features, in_path, kept, goal))
        else:
            maps.append(heatmap.aggregate(seen.features, gates, kept.mask, aggregate))
    assert first is not None
    return torch.stack(maps, 1), first


def _score(
    squeeze: Squeeze, head: Head | None, score: str, features: Tensor, gates: Tensor, in_path: Tensor, goal: Tensor | None
) -> Tensor:
    if score == "gate":
        return gates
    if score == "contribution":
        squeezed = head.squeeze(features) if head is not None else heatmap.at_least_float32(features).flatten(2).mean(2)
        return gates * squeezed
    assert head is not None and goal is not None
    return head.channel_evidence(squeeze.model, _scaled(features, in_path), goal)


def _class_map(squeeze: Squeeze, head: Head, features: Tensor, in_path: Tensor, kept: vector.Kept, goal: Tensor) -> Tensor:
    if head.kind == "conv":
        return head.class_map(squeeze.model, _scaled(features, in_path * kept.mask), goal)
    weights = head.channel_weights(squeeze.model, _scaled(features, in_path), goal)
    return heatmap.weighted_sum(head.evidence_features(features), weights * in_path * kept.mask)


def _scaled(features: Tensor, factors: Tensor) -> Tensor:
    return heatmap.at_least_float32(features) * factors.view(*factors.shape, *[1] * (features.ndim - 2))


def _finish(raw: Tensor, size: tuple[int, ...], mode: str, several: bool) -> Tensor:
    """Upsampled and cut at 0: cubic interpolation overshoots, and what is drawn of a class map is its positive part."""
    n, k = raw.shape[:2]
    if len(size) != raw.ndim - 2:
        size = tuple(raw.shape[2:])
    large = heatmap.upsample(raw.flatten(0, 1), size, mode).clamp_min(0).unflatten(0, (n, k))
    return large if several else large[:, 0]


def _targets(target: Target, result: Any, values: Tensor) -> tuple[Tensor | None, bool]:
    """Class indices ``(N, K)`` and whether the caller asked for several per sample."""
    n = len(values)
    classes = values.shape[-1] if values.ndim == 2 else 1
    if target is None:
        if values.ndim > 2:
            return None, False
        best = values.argmax(1) if values.ndim == 2 else torch.zeros(n, dtype=torch.long, device=values.device)
        return best[:, None], False
    if callable(target) and not isinstance(target, Tensor):
        target = target(result)
        if not isinstance(target, Tensor) or target.is_floating_point():
            raise InputError(
                "a target function must return class indices (an integer tensor): maps come from a forward pass, there is no gradient "
                "of a score to take"
            )
    wanted = torch.as_tensor(target, device=values.device)
    if wanted.is_floating_point() or wanted.dtype == torch.bool:
        raise InputError(f"targets must be class indices, got {wanted.dtype}")
    several = wanted.ndim == 2
    if wanted.ndim == 0:
        wanted = wanted.expand(n)
    if wanted.ndim > 2 or wanted.shape[0] != n:
        raise InputError(
            f"targets of shape {tuple(wanted.shape)} do not fit a batch of {n}: give one int, {n} ints, or {n} lists of ints"
        )
    wanted = wanted.long() if several else wanted.long()[:, None]
    if bool(((wanted < 0) | (wanted >= classes)).any()):
        raise InputError(f"targets must lie in 0..{classes - 1}, got {wanted.min().item()}..{wanted.max().item()}")
    return wanted, several


def _input_size(squeeze: Squeeze, stream: str, inputs: Any) -> tuple[int, ...]:
    """Height and width (length; frames, height and width) of the input that a stream's map is made of."""
    place = squeeze.places[stream]
    try:
        shape = tuple(tree.get(tree.as_call(inputs), squeeze.input_paths[stream]).shape)
    except (KeyError, IndexError, AttributeError, TypeError):
        return place.grid
    rank = len(place.grid)
    if rank == 3 and len(shape) == 5 and shape[2] in (1, 3) and shape[1] not in (1, 3):
        return (shape[1], *shape[3:])  # frames before channels
    if len(shape) == rank + 2 and shape[-1] in (1, 3, 4) and shape[1] not in (1, 3, 4):
        return shape[1:-1]  # channels last
    return shape[-rank:] if len(shape) > rank else place.grid


def _pictures(squeeze: Squeeze, inputs: Any) -> Tensor | None:
    """The input itself where it is a batch of pictures, kept for drawing."""
    for _, tensor in tree.leaves(tree.as_call(inputs)):
        if tensor.ndim == 4 and tensor.shape[1] in (1, 3):
            return tensor.detach()
    return None


def _status(
    squeeze: Squeeze,
    captures: dict[str, Capture],
    made: dict[str, tuple[Tensor, vector.Kept]],
    chosen: Method,
    has_classes: bool,
    values: Tensor,
) -> list[str]:
    n = len(values)
    said: list[list[str]] = [[] for _ in range(n)]
    fitted = squeeze.fitted
    finite_output = values.flatten(1).isfinite().all(1).tolist() if values.ndim > 1 else values.isfinite().tolist()
    for i in range(n):
        if not finite_output[i]:
            said[i].append("the model's output is not finite (NaN or infinity in the input or the weights)")
    for stream, (raw, kept) in made.items():
        prefix = f"{stream}: " if len(made) > 1 else ""
        finite = raw.flatten(1).isfinite().all(1)
        flat = raw.flatten(2).amax(2).amax(1) <= 0
        constant = (raw.flatten(2).amax(2) - raw.flatten(2).amin(2)).amax(1) == 0
        flags = torch.stack([finite, flat, constant, kept.fallback, kept.tied]).tolist()
        for i in range(n):
            if not flags[0][i]:
                said[i].append(f"{prefix}the map is not finite (NaN or infinity in the input or the weights)")
                continue
            if flags[1][i]:
                said[i].append(f"{prefix}no position speaks for this class: the map is blank" if chosen.name == "class" else f"{prefix}the map is blank: no kept channel is active")
            elif flags[2][i]:
                said[i].append(f"{prefix}the map is the same everywhere")
            if flags[3][i]:
                said[i].append(f"{prefix}no channel passed the keep rule: the top {vector.FALLBACK_SHARE:.0%} were taken")
            if flags[4][i] and fitted and chosen.score == "gate":
                said[i].append(f"{prefix}all gates are equal: every channel was kept")
    if not fitted:
        note = "block not fitted: " + (
            "the class map, which needs no fit, is shown" if chosen.name == "class" else "its gates select nothing, fit it first"
        )
        for lines in said:
            lines.append(note)
    return ["; ".join(lines) or "ok" for lines in said]
