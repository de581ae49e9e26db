"""From one forward pass to the result object."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from squeezecam import heatmap, tree, vector
from squeezecam.block import IDENTITY_GATE, full_precision
from squeezecam.change import AGGREGATE as CHANGE
from squeezecam.change import FEWEST, spread_by_change
from squeezecam.errors import InputError
from squeezecam.frames import scaled_features, time_axis
from squeezecam.links import score_kind
from squeezecam.methods import Method, default_method, frame_maps, native_maps, recipe_for
from squeezecam.origin import FIT, LOCATE, REFINE
from squeezecam.readout import ReadoutHead
from squeezecam.sizes import enlarged, map_size, without_padding
from squeezecam.status import NO_FIT_NEEDED, Doubts, Lines, doubts_about
from squeezecam.tap import evaluating
from squeezecam.targets import Target, class_targets
from squeezecam.wording import number_of

if TYPE_CHECKING:
    from squeezecam.metrics.predict import Outputs
    from squeezecam.module import Capture, Squeeze


@dataclass(eq=False, repr=False)
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
        status: per sample ``"ok"``, or what is doubtful and why; read from the device when first looked at.
        target: class per sample, ``(N,)`` or ``(N, K)``, where the method needs one or the output has classes.
        scores: the selected output's values ``(N, K)``, as returned by the model; of a binary output ``v`` the scores
            ``-v/2`` and ``v/2`` of no and yes, ``(N, 2)``.
        scores_are: ``"logits"`` of classes, ``"sigmoid"``: logits of independent labels, or ``"probabilities"``.

    """

    heatmap: Any
    raw: Any
    gates: Any
    kept: Any
    output: Any
    method: str
    status: Lines = Lines()  # noqa: RUF009
    target: Tensor | None = None
    scores: Tensor | None = None
    pictures: Tensor | dict[str, Tensor] | None = None
    scores_are: Outputs = "logits"

    def __repr__(self) -> str:
        """What a notebook or a debugger shows: no tensors, but what they are."""
        heat = self.heatmap if isinstance(self.heatmap, dict) else {"heatmap": self.heatmap}
        raw = self.raw if isinstance(self.raw, dict) else {"heatmap": self.raw}
        lines = [f"Explanation of {number_of(len(self), 'sample')}", f"method: {self.method}"]
        lines += [f"{name}: {_size(maps)}, on the native grid {_size(raw[name])}" for name, maps in heat.items()]
        if self.target is not None:
            lines.append(f"target: class {_few([str(one).strip('[]') for one in self.target.tolist()])}")
        counted = {status: self.status.count(status) for status in dict.fromkeys(self.status)}
        lines.append(f"status: {_few([f'{count} {said}' for said, count in counted.items()], '; ', most=4) or 'none'}")
        return "\n  ".join(lines)

    def __len__(self) -> int:
        return len(tree.leaves(self.heatmap)[0][1])  # not that of the status, for which a device has to be done

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
        return Explanation(method=self.method, status=self.status[index], scores_are=self.scores_are, **parts)

    def __iter__(self) -> Iterator[Explanation]:
        return (self[i] for i in range(len(self)))

    def streams(self) -> list[str]:
        """Names of the streams."""
        return list(self.heatmap) if isinstance(self.heatmap, dict) else ["map"]

    def overlay(self, pictures: Any = None, **options: Any) -> Any:
        """Overlays as PIL images, one per sample; see :func:`squeezecam.render.explained.overlays`.

        Of several streams ``{stream: [one per sample]}``.
        """
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


def _size(maps: Tensor) -> str:
    return " x ".join(str(length) for length in maps.shape[1:]) or "one value"


def _few(words: list[str], between: str = ", ", most: int = 10) -> str:
    """The first of them, and how many more there are."""
    return between.join(words[:most]) + (f"{between}and {len(words) - most} more" if len(words) > most else "")


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
    upsample: str | None = None,
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
            target), ``"focus"`` (where the object of the class is; :func:`squeezecam.focus.focus_map`, or what a
            locator learned, :meth:`Squeeze.locate`), and with a refiner (:meth:`Squeeze.refine`) ``"refined"`` (the
            class map as a mask).
            None: the refined map where there is a refiner; else the class map if the classification layer is of a
            known form or has a fitted read-out, which ``method`` of the result then names with its R²; else the
            published map. That is shown also, once the block is fitted and unless a target is given, where there are
            several streams or gates for every frame, where the read-out explains little, and where ``score``, ``keep``
            or ``aggregate`` is given. Where features can be negative, the mean of the kept channels is that of their
            positive parts, and the result says so.
        target: class to explain, for maps that depend on one: int, one per sample, a list of several per sample (one
            map each), or a function of the model's output that returns class indices. None: the predicted class.
        output: name of the output that scores and targets refer to, where there are several.
        score: channel score in place of the method's: ``"gate"``, ``"contribution"``, ``"class"``.
        keep: keep rule in place of the method's, see :func:`squeezecam.vector.keep_rule`.
        aggregate: ``"mean"``, ``"positive"``, ``"energy"``, ``"peaks"`` or ``"class"`` in place of the method's.
            ``"change"``: the method's map, in each frame weighted by how much the kept channels change around it
            (:func:`squeezecam.change.spread_by_change`; ours). It is the default, with ``method`` left out as well, of
            models with several streams and scores for every frame, from 8 frames on.
        upsample: ``"bicubic"``, ``"linear"``, ``"nearest"`` or ``"spline"``; None: bicubic as published, spline for
            class evidence, which is cut at 0 before.
        size: size of the heatmap, an int for all axes alike; None: that of the input.
        lengths: for padded clips, how many frames of each (in frames of the map) are no padding, or a bool mask
            ``(N, T)`` of those that are none: the rest does not enter the squeeze, and its map is 0.
        captured: of :meth:`Squeeze.capture` on these inputs, where that was done already.

    Raises:
        InputError: an unknown name, a target out of range, a batch of the wrong form.

    """
    name = squeeze.output_name(output)
    given = None if aggregate == CHANGE else aggregate
    altered = not (score is None and keep is None and aggregate is None)
    default = default_method(squeeze, name, target, altered=altered)
    chosen = recipe_for(squeeze, name, method or default, score, keep, given)
    fitted = squeeze.fitted  # read before the pass, while there is nothing on the device to wait for
    if aggregate == CHANGE and chosen.of_class:
        raise InputError(f"aggregate='{CHANGE}' lays out heat, not evidence for a class: use method='published'")
    with torch.no_grad(), evaluating(squeeze):
        result, captures = captured or squeeze.capture(inputs, lengths, finer=chosen.looks_closer)
        values = squeeze.select(result, name)
        targets, several = class_targets(target, result, values)
        left_open = method is None and aggregate is None and not chosen.of_class
        spread = aggregate == CHANGE or (left_open and _over_time(squeeze, captures, values))
        heatmaps, raws, kept = {}, {}, {}
        with full_precision(values.device):
            for stream, seen in captures.items():
                maps = frame_maps if squeeze.per_frame else native_maps
                raw, kept[stream] = maps(squeeze, stream, seen, name, chosen, targets, values)
                if spread:
                    mask, layout = kept[stream].mask, squeeze.places[stream].layout
                    raw = spread_by_change(raw, seen.features, seen.gates, mask, layout, lengths)
                raw = raw if lengths is None else without_padding(raw, squeeze.places[stream], lengths)
                sizes = map_size(size, squeeze, stream, tree.as_call(inputs))
                heatmaps[stream] = enlarged(raw, sizes, upsample or chosen.upsample)
                raws[stream] = raw
            strayed = None
            if chosen.of_class and targets is not None and lengths is None:
                strayed = _strayed(squeeze, captures, name, targets[:, 0], values)
        status = _status(
            squeeze, raws, kept, values, targets, chosen, name, fitted, asked=target is not None, strayed=strayed
        )

    def out(value: dict[str, Any], maps: bool = False) -> Any:
        value = {stream: tensor[:, 0] for stream, tensor in value.items()} if maps and not several else value
        return value if len(squeeze.places) > 1 else next(iter(value.values()))

    return Explanation(
        heatmap=out(heatmaps, maps=True),
        raw=out(raws, maps=True),
        gates=out({stream: seen.gates for stream, seen in captures.items()}),
        kept=out({stream: which.mask for stream, which in kept.items()}),
        output=result,
        method=f"{chosen.name}, aggregate={CHANGE}" if spread else chosen.name,
        status=status,
        target=targets if targets is None or several else targets[:, 0],
        scores=values,
        scores_are=score_kind(squeeze, name),
        pictures=_pictures(
            squeeze, inputs, list(captures), clip=not several and next(iter(heatmaps.values())).ndim == 5
        ),
    )


def _over_time(squeeze: Squeeze, captures: dict[str, Capture], values: Tensor) -> bool:
    """Whether several streams are seen over time and scored for every frame: then their change tells where."""
    if len(squeeze.places) < 2 or values.ndim != 3 or values.shape[1] < FEWEST:
        return False
    return all(
        time_axis(squeeze.places[stream].layout) is not None and seen.features.ndim > 3
        for stream, seen in captures.items()
    )


def _pictures(squeeze: Squeeze, inputs: Any, streams: list[str], *, clip: bool) -> Tensor | dict[str, Tensor] | None:
    """The input itself where it is a batch of pictures or clips, kept for drawing; of several streams that of each."""
    if len(squeeze.places) > 1:
        found = {stream: _input_of(squeeze, stream, inputs) for stream in streams}
        return {stream: tensor for stream, tensor in found.items() if tensor is not None} or None
    if clip:
        found_clip = _input_of(squeeze, streams[0], inputs)
        return found_clip if found_clip is not None and found_clip.ndim in (4, 5) else None
    for _, tensor in tree.leaves(tree.as_call(inputs)):
        if tensor.ndim == 4 and tensor.shape[1] in (1, 3):
            return tensor.detach()
    return None


def _input_of(squeeze: Squeeze, stream: str, inputs: Any) -> Tensor | None:
    try:
        found = tree.get(tree.as_call(inputs), squeeze.input_paths[stream])
    except (KeyError, IndexError, AttributeError, TypeError):  # given in another way than the example was
        return None
    return found.detach() if isinstance(found, Tensor) and found.ndim > 2 else None


def _strayed(
    squeeze: Squeeze, captures: dict[str, Capture], output: str, target: Tensor, values: Tensor
) -> Tensor | None:
    """Of which samples the classification layer no longer does what its formula says, ``(N,)``; None without one."""
    head = squeeze.heads.get(output)
    if head is None or len(captures) != 1 or values.ndim != 2:
        return None
    ((stream, seen),) = captures.items()
    if head.columns is not None and output not in seen.taken:
        return None
    features = heatmap.at_least_float32(seen.features)
    if squeeze.apply_mode == "gate":
        features = scaled_features(features, squeeze.places[stream].layout, seen.gates / IDENTITY_GATE)
    return head.strays(squeeze.model, features, target, values, seen.taken.get(output), seen.features.dtype)


def _status(
    squeeze: Squeeze,
    raws: dict[str, Tensor],
    kept: dict[str, vector.Kept],
    values: Tensor,
    targets: Tensor | None,
    chosen: Method,
    output: str,
    fitted: bool,
    *,
    asked: bool,
    strayed: Tensor | None = None,
) -> Doubts:
    absent = [stream for stream in squeeze.places if stream not in raws]
    always = _of_every_map(squeeze, chosen, output, fitted=fitted, asked=asked)
    always += [f"{stream}: not run in this call (no input?), so there is no map of it" for stream in absent]
    of_class, gated = chosen.aggregate in ("class", "refined", "focus"), fitted and chosen.score == "gate"
    moved = squeeze.origins.moved(squeeze, _fitted_parts(squeeze, chosen, output, fitted))
    return doubts_about(
        raws, kept, values, targets, of_class=of_class, gated=gated, always=always, moved=moved, strayed=strayed
    )


def standing_doubts(squeeze: Squeeze, method: str, output: str, target: int | None = None) -> list[str]:
    """What is doubtful about every map of a method, whatever the picture, one line each."""
    chosen, fitted = recipe_for(squeeze, output, method, None, None, None), squeeze.fitted
    found = _of_every_map(squeeze, chosen, output, fitted=fitted, asked=target is not None)
    return found + squeeze.origins.lines(squeeze, *_fitted_parts(squeeze, chosen, output, fitted))


def _of_every_map(squeeze: Squeeze, chosen: Method, output: str, *, fitted: bool, asked: bool) -> list[str]:
    of_class, found = chosen.aggregate == "class", []
    evidence = squeeze.evidence(output) if chosen.of_class else None
    if isinstance(evidence, ReadoutHead):
        doubt = evidence.doubt()
        found += [doubt] if doubt is not None else []
    elif not fitted and (of_class or chosen.score != "class"):
        found.append(
            f"{NO_FIT_NEEDED}, which needs no fit, is shown"
            if of_class
            else "block not fitted: its gates select nothing, fit it first"
        )
    if asked and not chosen.of_class:  # a class was asked for, of a map that knows none
        found.append(f"the map is the same for every class: {_why_no_class(squeeze, chosen, output)}")
    return found


def _fitted_parts(squeeze: Squeeze, chosen: Method, output: str, fitted: bool) -> list[str]:
    """What of that which was fitted the map is made by."""
    by_gates = fitted and not chosen.of_class
    by_readout = chosen.of_class and isinstance(squeeze.evidence(output), ReadoutHead)
    by_locator = chosen.aggregate == "focus" and squeeze.locator(output) is not None
    used = {FIT: by_gates or by_readout, REFINE: chosen.needs_refiner, LOCATE: by_locator}
    return [what for what, is_used in used.items() if is_used]


def _why_no_class(squeeze: Squeeze, chosen: Method, output: str) -> str:
    """Why a map says nothing about the class that was asked for, and what would."""
    if squeeze.evidence(output) is None:
        return (
            "the classification layer is of no known form, and there is no read-out (squeeze.fit makes one for "
            "method='class')"
        )
    return f"'{chosen.name.partition(',')[0]}' knows no classes, method='class' shows the one that is asked for"
