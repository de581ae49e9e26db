"""From one forward pass to the result object."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from squeezecam import heatmap, tree, vector
from squeezecam.block import IDENTITY_GATE, full_precision
from squeezecam.errors import InputError
from squeezecam.frames import fold_time, time_axis, unfold_time, valid_frames
from squeezecam.head import Head
from squeezecam.status import statuses
from squeezecam.tap import evaluating
from squeezecam.targets import Target, class_targets

if TYPE_CHECKING:
    from squeezecam.anatomy import Place
    from squeezecam.attach import Capture, Squeeze


@dataclass(frozen=True)
class Method:
    """A recipe for one map: channel score, keep rule, aggregation (None: by the signs of the features)."""

    name: str
    score: str
    keep: str | vector.KeepRule
    aggregate: str | None

    @property
    def of_class(self) -> bool:
        """Whether the map depends on a class."""
        return "class" in (self.score, self.aggregate)


METHODS = {
    "published": Method("published", "gate", "zscore", None),
    "contribution": Method("contribution", "contribution", "zscore", None),
    "class": Method("class", "class", "all", "class"),
}


@dataclass(eq=False)
class Explanation:
    """Heatmaps of a batch, with everything they were made of.

    Attributes:
        heatmap: ``(N, H, W)`` at the input's height and width, at least 0, not normalised (other ranks: ``(N, L)``,
            ``(N, T, H, W)``; several targets per sample: ``(N, K, H, W)``); ``{stream: tensor}`` where there are
            several streams.
        raw: the same on the native grid, signed for class maps.
        gates: SE vectors ``(N, C)``.
        kept: ``(N, C)`` bool, the channels that the map (of the first target) is made of.
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

    def __getitem__(self, index: int | slice) -> Explanation:
        """The explanation of one sample, or of a slice of them; the batch axis stays."""
        n = len(self)
        if not isinstance(index, slice):
            if not -n <= index < n:
                raise IndexError(f"sample {index} of {n}")
            index = slice(index % n, index % n + 1)

        def part(value: Any) -> Any:
            for path, tensor in tree.leaves(value):
                if tensor.ndim and tensor.shape[0] == n:
                    value = tree.replace(value, path, tensor[index])
            return value

        names = ("heatmap", "raw", "gates", "kept", "output", "target", "scores", "pictures")
        parts = {name: part(getattr(self, name)) for name in names}
        return Explanation(method=self.method, status=self.status[index], **parts)

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
    size: int | tuple[int, ...] | None = None,
    lengths: Any = None,
    captured: tuple[Any, dict[str, Capture]] | None = None,
) -> Explanation:
    """Explain a batch in one forward pass, without gradients, in evaluation mode.

    Args:
        squeeze: from :func:`squeezecam.attach`.
        inputs: what the model takes: a tensor, a tuple or a dict.
        method: ``"published"`` (SE vector, z-score rule, mean of the kept channels of the scaled map; arXiv
            2412.05134), ``"contribution"`` (the same with ``s_c z_c`` as score) or ``"class"`` (signed evidence for the
            target).
            None: the published map once the block is fitted; before, and where a target is given, the class map if the
            classification layer is known exactly. Where features can be negative, the mean of the kept channels is that
            of their positive parts, and the result says so.
        target: class to explain, for maps that depend on one: int, one per sample, a list of several per sample (one
            map each), or a function of the model's output that returns class indices. None: the predicted class.
        output: name of the output that scores and targets refer to, where there are several.
        score: channel score in place of the method's: ``"gate"``, ``"contribution"``, ``"class"``.
        keep: keep rule in place of the method's, see :func:`squeezecam.vector.keep_rule`.
        aggregate: ``"mean"``, ``"positive"``, ``"energy"``, ``"peaks"`` or ``"class"`` in place of the method's.
        upsample: ``"bicubic"``, ``"linear"`` or ``"nearest"``.
        size: size of the heatmap, an int for all axes alike; None: that of the input.
        lengths: for padded clips, how many frames of each (in frames of the map) are no padding: the rest does not
            enter the squeeze, and its map is 0.
        captured: of :meth:`Squeeze.capture` on these inputs, where that was done already.

    Raises:
        InputError: an unknown name, a target out of range, a batch of the wrong form.

    """
    name = squeeze.output_name(output)
    chosen = _recipe(squeeze, name, method or default_method(squeeze, name, target), score, keep, aggregate)
    with torch.no_grad(), evaluating(squeeze):
        result, captures = captured or squeeze.capture(inputs, lengths)
        values = squeeze.select(result, name)
        targets, several = class_targets(target, result, values)
        heatmaps, raws, kept = {}, {}, {}
        with full_precision(values.device):
            for stream, seen in captures.items():
                maps = _frame_maps if squeeze.per_frame else _maps
                raw, kept[stream] = maps(squeeze, stream, seen, name, chosen, targets)
                raw = raw if lengths is None else _without_padding(raw, squeeze.places[stream], lengths)
                sizes = _size(size, squeeze.places[stream], squeeze.input_paths[stream], tree.as_call(inputs))
                heatmaps[stream] = _finish(raw, sizes, upsample)
                raws[stream] = raw
        status = _status(squeeze, raws, kept, values, targets, chosen, ignored=target is not None and method is None)

    def out(value: dict[str, Any], maps: bool = False) -> Any:
        value = {stream: tensor[:, 0] for stream, tensor in value.items()} if maps and not several else value
        return value if len(squeeze.places) > 1 else next(iter(value.values()))

    return Explanation(
        heatmap=out(heatmaps, maps=True),
        raw=out(raws, maps=True),
        gates=out({stream: seen.gates for stream, seen in captures.items()}),
        kept=out({stream: which.mask for stream, which in kept.items()}),
        output=result,
        method=chosen.name,
        status=status,
        target=targets if targets is None or several else targets[:, 0],
        scores=values,
        pictures=_pictures(inputs),
    )


def default_method(squeeze: Squeeze, output: str | None = None, target: Target = None) -> str:
    """What ``None`` stands for: the published map of a fitted block, the class map where the head is known otherwise.

    The class map needs no fit, and it is the one that a target changes.
    """
    if squeeze.head(output) is None:
        return "published"
    return "published" if target is None and squeeze.fitted else "class"


def _recipe(
    squeeze: Squeeze,
    output: str,
    method: str,
    score: str | None,
    keep: str | vector.KeepRule | None,
    aggregate: str | None,
) -> Method:
    """The method with what is put in its place, checked, and a name that says so."""
    if method not in METHODS:
        raise InputError(f"unknown method '{method}'; expected one of {', '.join(METHODS)}")
    chosen = METHODS[method]
    if aggregate is None and chosen.aggregate is None and squeeze.aggregate != "mean":
        aggregate = squeeze.aggregate  # a plain mean of features that can be negative cancels
    given = {"score": score, "keep": keep, "aggregate": aggregate}
    changed = {key: value for key, value in given.items() if value is not None}
    said = [f"{key}={getattr(value, '__name__', value)}" for key, value in changed.items()]
    recipe = replace(chosen, **changed, name=", ".join([chosen.name, *said]))  # type: ignore[arg-type]
    for kind, value, known in (
        ("score", recipe.score, vector.SCORES),
        ("aggregation", recipe.aggregate or "mean", (*heatmap.AGGREGATES, "class")),
    ):
        if value not in known:
            raise InputError(f"unknown {kind} '{value}'; expected one of {', '.join(known)}")
    vector.keep_rule(recipe.keep)
    if recipe.of_class and squeeze.head(output) is None:
        raise InputError(
            f"class evidence needs a classification layer of a known form after the map; that of output '{output}' is "
            "not: use method='published' or 'contribution'"
        )
    return recipe


def _maps(
    squeeze: Squeeze, stream: str, seen: Capture, output: str, chosen: Method, targets: Tensor | None
) -> tuple[Tensor, vector.Kept]:
    """Native maps ``(N, K, *S)`` for K targets, and the kept channels of the first."""
    if chosen.of_class and targets is None:
        raise InputError(f"class evidence needs an output with classes; '{output}' has none")
    rule, head = vector.keep_rule(chosen.keep), squeeze.head(output)
    gates = seen.gates.to(heatmap.at_least_float32(seen.features).dtype)
    in_path = gates / IDENTITY_GATE if squeeze.apply_mode == "gate" else torch.ones_like(gates)
    maps, kept = [], []
    goals = [None] if targets is None else list(targets.unbind(1))
    for goal in goals if chosen.of_class else goals[:1]:
        kept.append(rule(_score(squeeze, head, chosen.score, seen, gates, in_path, goal)))
        if chosen.aggregate == "class":
            assert head is not None
            assert goal is not None
            maps.append(_class_map(squeeze, head, seen.features, in_path, kept[-1], goal))
        else:
            maps.append(heatmap.aggregate(seen.features, gates, kept[-1].mask, chosen.aggregate or "mean"))
    stacked = torch.stack(maps, 1)  # a map that knows no classes is the same for all of them
    return stacked.expand(-1, len(goals), *stacked.shape[2:]), kept[0]


def _frame_maps(
    squeeze: Squeeze, stream: str, seen: Capture, output: str, chosen: Method, targets: Tensor | None
) -> tuple[Tensor, vector.Kept]:
    """The same where every frame has its own SE vector: each frame is a sample, and is put back into its clip."""
    layout = squeeze.places[stream].layout
    n, frames = seen.gates.shape[:2]
    one = replace(
        seen,
        features=fold_time(seen.features, layout),
        squeezed=seen.squeezed.flatten(0, 1),
        gates=seen.gates.flatten(0, 1),
    )
    again = targets.repeat_interleave(frames, 0) if targets is not None else None
    raw, kept = _maps(squeeze, stream, one, output, chosen, again)
    clips = torch.stack([unfold_time(of_one, layout, n) for of_one in raw.unbind(1)], 1)
    fallback, tied = (flags.unflatten(0, (n, frames)) for flags in (kept.fallback, kept.tied))
    return clips, vector.Kept(kept.mask.unflatten(0, (n, frames)), fallback.any(1), tied.all(1))


def _without_padding(raw: Tensor, place: Place, lengths: Any) -> Tensor:
    axis = time_axis(place.layout)
    assert axis is not None
    inside = valid_frames(lengths, len(raw), raw.shape[axis], raw.device)
    shape = [len(raw), *[1] * (raw.ndim - 1)]
    shape[axis] = raw.shape[axis]
    return torch.where(inside.reshape(shape), raw, 0.0)


def _score(
    squeeze: Squeeze, head: Head | None, score: str, seen: Capture, gates: Tensor, in_path: Tensor, goal: Tensor | None
) -> Tensor:
    if score == "gate":
        return gates
    if score == "contribution":
        return gates * (head.squeeze(seen.features) if head is not None else seen.squeezed.to(gates.dtype))
    assert head is not None
    assert goal is not None
    return head.channel_evidence(squeeze.model, _scaled(seen.features, in_path), goal)


def _class_map(
    squeeze: Squeeze, head: Head, features: Tensor, in_path: Tensor, kept: vector.Kept, goal: Tensor
) -> Tensor:
    if head.kind == "conv":
        return head.class_map(squeeze.model, _scaled(features, in_path * kept.mask), goal)
    weights = head.channel_weights(squeeze.model, _scaled(features, in_path), goal)
    return heatmap.weighted_sum(head.evidence_features(features), weights * in_path * kept.mask)


def _scaled(features: Tensor, factors: Tensor) -> Tensor:
    return heatmap.at_least_float32(features) * factors.view(*factors.shape, *[1] * (features.ndim - 2))


def _finish(raw: Tensor, size: tuple[int, ...], mode: str) -> Tensor:
    """Upsampled and cut at 0: cubic interpolation overshoots, and what is drawn of a class map is its positive part."""
    large = heatmap.upsample(raw.flatten(0, 1), size, mode).clamp_min(0)
    return large.view(*raw.shape[:2], *size)


def _size(size: int | tuple[int, ...] | None, place: Place, path: tree.Path, call: Any) -> tuple[int, ...]:
    if size is None:
        return input_size(place, path, call)
    rank = len(place.grid)
    sizes = (size,) * rank if isinstance(size, int) else tuple(size)
    if len(sizes) != rank or min(sizes) < 1:
        raise InputError(f"size={size} does not fit a map of {rank} axes: give {rank} sizes of at least 1, or one int")
    return sizes


def input_size(place: Place, path: tree.Path, call: Any) -> tuple[int, ...]:
    """Height and width (length; frames, height and width) of the input that the map at ``place`` is made of.

    The input is that at ``path`` of ``(args, kwargs)``; where the call has none there, as when a keyword became
    positional, the one with the most axes. An input of too few axes (token ids) gives the native grid.
    """
    try:
        shape = tuple(tree.get(call, path).shape)
    except (KeyError, IndexError, AttributeError, TypeError):
        shape = max((tuple(tensor.shape) for _, tensor in tree.leaves(call)), key=len, default=())
    rank = len(place.grid)
    if place.layout.positions == ("f", "t") and len(shape) == 3:
        return spectrogram_size(place.grid, shape[1:])
    if rank == 3 and len(shape) == 5 and shape[2] in (1, 3) and shape[1] not in (1, 3):
        return (shape[1], *shape[3:])  # frames before channels
    if len(shape) == rank + 2 and shape[-1] in (1, 3, 4) and shape[1] not in (1, 3, 4):
        return shape[1:-1]  # channels last
    return shape[-rank:] if len(shape) > rank else place.grid


def spectrogram_size(grid: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Frequencies and time steps of an input ``(N, a, b)``, whichever comes first, for a map with ``grid`` ``(F, T)``.

    Strides only make maps smaller, and by whole numbers: of the two ways to read the input, the one in which the map is
    nowhere larger than the input and the strides come out evenly.
    """

    def oddness(frequencies: int, steps: int) -> float:
        ratios = (frequencies / grid[0], steps / grid[1])
        return sum(1.0 if ratio < 1 else abs(ratio - round(ratio)) / ratio for ratio in ratios)

    return min((tuple(shape), tuple(shape[::-1])), key=lambda read: oddness(*read))


def _pictures(inputs: Any) -> Tensor | None:
    """The input itself where it is a batch of pictures, kept for drawing."""
    for _, tensor in tree.leaves(tree.as_call(inputs)):
        if tensor.ndim == 4 and tensor.shape[1] in (1, 3):
            return tensor.detach()
    return None


def _status(
    squeeze: Squeeze,
    raws: dict[str, Tensor],
    kept: dict[str, vector.Kept],
    values: Tensor,
    targets: Tensor | None,
    chosen: Method,
    *,
    ignored: bool,
) -> list[str]:
    fitted, of_class = squeeze.fitted, chosen.aggregate == "class"
    absent = [stream for stream in squeeze.places if stream not in raws]
    said = statuses(raws, kept, values, targets, of_class=of_class, gated=fitted and chosen.score == "gate")
    if not fitted:
        shown = "the class map, which needs no fit, is shown" if of_class else "its gates select nothing, fit it first"
        for lines in said:
            lines.append(f"block not fitted: {shown}")
    for lines in said:
        lines += [f"{stream}: not run in this call (no input?), so there is no map of it" for stream in absent]
    if ignored and not chosen.of_class:  # a class was asked for, and no method that knows classes was to be had
        for lines in said:
            lines.append("the map is the same for every class: the classification layer is of no known form")
    return ["; ".join(lines) or "ok" for lines in said]
