"""Which stream and which moment a decision rests on: several named measures, and the ablation always beside them.

Gate values alone mislead: in the figures of the sibling work (arXiv 2412.05150) the mean gate ranks audio first while
taking the face away hurts most. So none of the measures here is called "the" importance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from squeezecam import vector
from squeezecam.block import IDENTITY_GATE
from squeezecam.errors import InputError
from squeezecam.frames import scale_by, squeeze_stream, time_axis, valid_frames
from squeezecam.module import Capture, Squeeze
from squeezecam.tap import evaluating
from squeezecam.targets import Target, class_targets

MEASURES = ("mean gate", "top gates", "mass")
ABLATIONS = ("zero", "mean gates", "still", "top only")
WORDS = {
    "mean gate": "mean gate",
    "top gates": "share of the globally top gates",
    "mass": "share of the mass sum s_c |z_c|",
    "zero": "score lost when the stream is set to zero",
    "mean gates": "score lost when its gates are set to their mean (gates in the path)",
    "still": "score lost when it is held still: its mean over time in place of every frame",
    "top only": "score lost when only its top gates are kept",
}


@dataclass(frozen=True)
class Part:
    """What is compared: a stream, or a segment of the channels of one (after a concatenation)."""

    name: str
    stream: str
    channels: slice


@dataclass(eq=False)
class StreamImportance:
    """Importance of S streams for N clips, measure by measure.

    Attributes:
        names: of the streams (or segments).
        channels: channels of each: what its share of the top gates would be if the gates said nothing.
        measures: ``{name: (N, S)}`` from the SE vectors; names are in ``MEASURES``.
        ablation: ``{name: (N, S)}``, how much the score falls; names are in ``ABLATIONS``; NaN where it cannot be done.
        score: ``(N,)`` logit of the target less the mean of the other logits (a single output: its value), mean over
            the frames.
        target: ``(N,)`` class indices, or None.
        curve: ``(N, T)`` score of every frame where the output has frames.
        moments: ``{"zero" | "mass": (N, T, S)}``: the score that every frame loses, and the shares of its mass.

    """

    names: list[str]
    channels: list[int]
    measures: dict[str, Tensor]
    ablation: dict[str, Tensor]
    score: Tensor
    target: Tensor | None = None
    curve: Tensor | None = None
    moments: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.score)

    def rows(self) -> list[dict[str, Any]]:
        """One row per measure, with the mean over the clips for every stream and the ranking that it gives."""
        found = []
        for name, values in (*self.measures.items(), *self.ablation.items()):
            mean = values.double().mean(0)
            order = " > ".join(self.names[i] for i in mean.argsort(descending=True).tolist())
            ranked = order if mean.isfinite().all() else None
            found.append({"measure": WORDS[name], **dict(zip(self.names, mean.tolist(), strict=True)), "order": ranked})
        return found

    def __str__(self) -> str:
        from squeezecam.render.table import text_table

        return text_table(self.rows(), formats=dict.fromkeys(self.names, ".4f"))


def importance(
    squeeze: Squeeze,
    inputs: Any,
    *,
    target: Target = None,
    output: str | None = None,
    segments: Mapping[str, int] | None = None,
    keep: str | vector.KeepRule | None = None,
    lengths: Any = None,
    captured: tuple[Any, dict[str, Capture]] | None = None,
) -> StreamImportance:
    """How much each stream says, for every sample of a batch: one pass of the model, and the head a few times more.

    Args:
        squeeze: with one block per stream; or with one block after a concatenation, and ``segments``.
        inputs: what the model takes.
        target: the class whose score is looked at; None: the predicted one.
        output: which of several outputs.
        segments: ``{name: channels}`` in the order of the concatenation.
        keep: which gates are top gates; None: the z-score rule, over the gates of all streams together.
        lengths: frames of each clip that are no padding.
        captured: of :meth:`Squeeze.capture` on these inputs, where that was done already.

    Raises:
        InputError: one stream only and no segments, or segments that do not add up.

    """
    name = squeeze.output_name(output)
    rule = vector.keep_rule(keep)
    with torch.no_grad(), evaluating(squeeze):
        result, seen = captured or squeeze.capture(inputs, lengths)
        values = squeeze.select(result, name)
        targets, several = class_targets(target, result, values)
        if several:
            raise InputError("one target per sample: the score of several classes at once is not one number")
        goal = targets[:, 0] if targets is not None else None
        parts = _parts(squeeze, seen, segments)
        runs = _Runs(squeeze, inputs, name, seen, values)
        frames = _scores(values, goal)
        inside = _inside(frames, lengths)
        ablation, moments = _ablate(squeeze, runs, parts, seen, goal, frames, inside, rule)
        measures, mass = _measures(squeeze, parts, seen, rule)
    has_frames = values.ndim == 3
    curves = {key: moment for key, moment in (("zero", moments), ("mass", mass)) if has_frames and moment is not None}
    return StreamImportance(
        [part.name for part in parts],
        [len(range(*part.channels.indices(squeeze.places[part.stream].channels))) for part in parts],
        measures,
        ablation,
        _over_time(frames, inside),
        goal,
        frames if has_frames else None,
        curves,
    )


def join(found: Sequence[StreamImportance]) -> StreamImportance:
    """Several batches as one; curves over time, whose lengths may differ, are left out."""
    if not found or any(one.names != found[0].names for one in found):
        raise InputError("there is nothing to join, or the streams differ")

    def together(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    goals = [one.target for one in found if one.target is not None]
    return StreamImportance(
        found[0].names,
        found[0].channels,
        together([one.measures for one in found]),
        together([one.ablation for one in found]),
        torch.cat([one.score for one in found]),
        torch.cat(goals) if len(goals) == len(found) else None,
    )


def by_group(
    found: StreamImportance, groups: Sequence[str] | None = None, *, draws: int = 1000, seed: int = 0
) -> list[dict[str, Any]]:
    """Rows ``group, stream, measure, mean, low, high, clips``: means over the clips with 95 % bootstrap intervals.

    Args:
        found: from :func:`importance` or :func:`join`.
        groups: one name per clip; None: all in one group.
        draws: bootstrap samples of the clips of a group (percentile intervals). A single clip has no interval.
        seed: of the draws.

    """
    labels = ["all"] * len(found) if groups is None else [str(group) for group in groups]
    if len(labels) != len(found):
        raise InputError(f"{len(labels)} groups for {len(found)} clips: give one per clip")
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for group in dict.fromkeys(labels):
        index = torch.tensor([i for i, label in enumerate(labels) if label == group])
        drawn = torch.randint(len(index), (draws, len(index)), generator=generator)
        for measure, values in (*found.measures.items(), *found.ablation.items()):
            own = values.detach().double().cpu()[index]
            limits = torch.quantile(own[drawn].mean(1), torch.tensor([0.025, 0.975], dtype=torch.double), dim=0)
            for i, stream in enumerate(found.names):
                alone = len(index) < 2
                rows.append(
                    {
                        "group": group, "stream": stream, "measure": measure, "mean": float(own[:, i].mean()),
                        "low": None if alone else float(limits[0, i]), "high": None if alone else float(limits[1, i]),
                        "clips": len(index),
                    }
                )  # fmt: skip
    return rows


# --- the head, run again --------------------------------------------------------------------------------


class _Runs:
    """The model's output with the channels of its streams scaled: only the head runs, where that gives the output."""

    def __init__(self, squeeze: Squeeze, inputs: Any, output: str, seen: dict[str, Capture], values: Tensor) -> None:
        from squeezecam.fit.runner import HeadRunner

        self.squeeze, self.inputs, self.output, self.seen = squeeze, inputs, output, seen
        layouts = [squeeze.places[stream].layout for stream in seen]
        self.packable = not any(axis.before or axis.after for layout in layouts for axis in layout.axes)
        self.own = {s: self._own_factors(seen[s]) for s in seen}
        self.runner = HeadRunner(squeeze, inputs)
        self.alone = self.packable and self.runner.reproduces(self._raws(self.own, {}), values, output)

    def _own_factors(self, seen: Capture) -> Tensor:
        return seen.gates / IDENTITY_GATE if self.squeeze.apply_mode == "gate" else torch.ones_like(seen.gates)

    def _raws(self, factors: dict[str, Tensor], features: dict[str, Tensor]) -> dict[str, Tensor]:
        raws = {}
        for stream, seen in self.seen.items():
            place, u = self.squeeze.places[stream], features.get(stream, seen.features)
            raws[stream] = scale_by(place, place.layout.pack(u), factors[stream], len(u))
        return raws

    def __call__(self, changed: dict[str, Tensor], features: dict[str, Tensor] | None = None) -> Tensor | None:
        """The values with these factors (the others as they run), or None where it cannot be done."""
        factors = {**self.own, **changed}
        if self.alone:
            raws = self._raws(factors, features or {})
            return self.squeeze.select(self.runner.run(raws, len(next(iter(self.seen.values())).gates)), self.output)
        if features:
            return None
        result = self.squeeze.predict(self.inputs, lambda stream, seen: factors[stream])
        return self.squeeze.select(result, self.output)


def _ablate(
    squeeze: Squeeze, runs: _Runs, parts: list[Part], seen: dict[str, Capture], goal: Tensor | None,
    frames: Tensor, inside: Tensor | None, rule: Any,
) -> tuple[dict[str, Tensor], Tensor]:  # fmt: skip
    score = _over_time(frames, inside)
    found: dict[str, list[Tensor]] = {name: [] for name in ABLATIONS}
    moments = []
    gated = {stream: one.gates / IDENTITY_GATE for stream, one in seen.items()}
    in_path = _scores(_known(runs(gated)), goal)
    kept = _top(seen, rule)

    def fall(values: Tensor | None, reference: Tensor) -> Tensor:
        if values is None:
            return torch.full_like(score, float("nan"))
        return _over_time(reference - _scores(values, goal), inside)

    for part in parts:
        stream, own = part.stream, runs.own[part.stream]
        chosen = torch.zeros(own.shape[-1], dtype=torch.bool, device=own.device)
        chosen[part.channels] = True
        zero = _known(runs({stream: torch.where(chosen, 0.0, own)}))
        moments.append(frames - _scores(zero, goal))
        found["zero"].append(fall(zero, frames))
        gates = gated[stream]
        mean = gates[..., part.channels].mean(-1, keepdim=True)
        found["mean gates"].append(fall(runs({**gated, stream: torch.where(chosen, mean, gates)}), in_path))
        found["top only"].append(fall(runs({stream: torch.where(chosen & ~kept[stream], 0.0, own)}), frames))
        still = _still(squeeze, stream, seen[stream], chosen)
        found["still"].append(fall(None if still is None else runs({}, {stream: still}), frames))
    return {name: torch.stack(values, 1) for name, values in found.items()}, torch.stack(moments, -1)


def _still(squeeze: Squeeze, stream: str, seen: Capture, chosen: Tensor) -> Tensor | None:
    axis = time_axis(squeeze.places[stream].layout)
    if axis is None:
        return None
    mean = seen.features.mean(axis, keepdim=True).expand_as(seen.features)
    return torch.where(chosen.view(1, -1, *[1] * (mean.ndim - 2)), mean, seen.features)


# --- from the SE vectors ----------------------------------------------------------------------------------


def _measures(
    squeeze: Squeeze, parts: list[Part], seen: dict[str, Capture], rule: Any
) -> tuple[dict[str, Tensor], Tensor | None]:
    kept = _top(seen, rule)
    counts = torch.stack([_clip(kept[p.stream][..., p.channels].double().sum(-1)) for p in parts], 1)
    mass = torch.stack(
        [_clip((seen[p.stream].gates * seen[p.stream].squeezed.abs())[..., p.channels].sum(-1)) for p in parts], 1
    )
    means = torch.stack([_clip(seen[p.stream].gates[..., p.channels].mean(-1)) for p in parts], 1)
    timed = None
    if all(time_axis(squeeze.places[p.stream].layout) is not None for p in parts):
        rows = []
        for p in parts:
            z = squeeze_stream(seen[p.stream].features, squeeze.places[p.stream].layout, per_frame=True)
            gates = seen[p.stream].gates
            gates = gates if gates.ndim == 3 else gates[:, None]
            rows.append((gates * z.abs())[..., p.channels].sum(-1))
        if len({row.shape[1] for row in rows}) == 1:
            timed = _shares(torch.stack(rows, -1))
    return {"mean gate": means, "top gates": _shares(counts), "mass": _shares(mass)}, timed


def _top(seen: dict[str, Capture], rule: Any) -> dict[str, Tensor]:
    """Top gates among those of all streams, ``{stream: mask like its gates}``."""
    gates = torch.cat([one.gates for one in seen.values()], -1)
    mask = rule(gates.flatten(0, -2)).mask.view(gates.shape)
    return dict(zip(seen, mask.split([one.gates.shape[-1] for one in seen.values()], -1), strict=True))


def _shares(values: Tensor) -> Tensor:
    return values / values.sum(-1, keepdim=True).clamp_min(1e-12)


def _clip(values: Tensor) -> Tensor:
    """``(N,)`` from one value per clip or per frame."""
    return values.mean(1) if values.ndim == 2 else values


# --- scores -----------------------------------------------------------------------------------------------


def _parts(squeeze: Squeeze, seen: dict[str, Capture], segments: Mapping[str, int] | None) -> list[Part]:
    if segments is None:
        if len(seen) < 2:
            raise InputError(
                f"there is one stream, {next(iter(seen))!r}: give segments={{name: channels}} for a map after a "
                "concatenation, or attach one block per stream with at={name: place}"
            )
        return [Part(stream, stream, slice(None)) for stream in seen]
    stream = next(iter(seen))
    channels = squeeze.places[stream].channels
    if len(seen) != 1 or sum(segments.values()) != channels or min(segments.values()) < 1:
        raise InputError(
            f"segments {dict(segments)} must add up to the {channels} channels of the one map; there are {len(seen)}"
        )
    parts, start = [], 0
    for name, count in segments.items():
        parts.append(Part(name, stream, slice(start, start + count)))
        start += count
    return parts


def _scores(values: Tensor, goal: Tensor | None) -> Tensor:
    """``(N,)`` or ``(N, T)``: the target's logit less the mean of the others; a single output as it is."""
    values = values.double()
    if values.ndim == 1:
        return values
    if values.shape[-1] == 1 or goal is None:
        return values.flatten(2).mean(2) if values.ndim > 2 and goal is None else values[..., 0]
    index = goal.view(-1, *[1] * (values.ndim - 1)).expand(*values.shape[:-1], 1)
    own = values.gather(-1, index)[..., 0]
    return own - (values.sum(-1) - own) / (values.shape[-1] - 1)


def _inside(frames: Tensor, lengths: Any) -> Tensor | None:
    if lengths is None or frames.ndim != 2:
        return None
    return valid_frames(lengths, len(frames), frames.shape[1], frames.device)


def _over_time(values: Tensor, inside: Tensor | None) -> Tensor:
    if values.ndim == 1:
        return values
    return values.mean(1) if inside is None else (values * inside).sum(1) / inside.sum(1)


def _known(values: Tensor | None) -> Tensor:
    assert values is not None
    return values
