"""One pass of the model, and the head a few times more: measures from the SE vectors, and the ablation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from squeezecam import vector
from squeezecam.errors import InputError
from squeezecam.frames import squeeze_stream, time_axis
from squeezecam.module import Capture, Squeeze
from squeezecam.streams.ablation import Runs, ablate
from squeezecam.streams.parts import Part, find_parts, top_gates
from squeezecam.streams.record import StreamImportance
from squeezecam.streams.scores import inside, over_time, scores
from squeezecam.tap import evaluating
from squeezecam.targets import Target, class_targets


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
        lengths: frames of each clip that are no padding, ``(N,)``, or a bool mask ``(N, T)``.
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
        parts = find_parts(squeeze, seen, segments)
        runs = Runs(squeeze, inputs, name, seen, values)
        frames = scores(values, goal)
        valid = inside(frames, lengths)
        ablation, moments = ablate(squeeze, runs, parts, seen, goal, frames, valid, rule)
        measures, mass = _measures(squeeze, parts, seen, rule)
    has_frames = values.ndim == 3
    curves = {key: moment for key, moment in (("zero", moments), ("mass", mass)) if has_frames and moment is not None}
    return StreamImportance(
        [part.name for part in parts],
        [len(range(*part.channels.indices(squeeze.places[part.stream].channels))) for part in parts],
        measures,
        ablation,
        over_time(frames, valid),
        goal,
        frames if has_frames else None,
        curves,
    )


def _measures(
    squeeze: Squeeze, parts: list[Part], seen: dict[str, Capture], rule: Any
) -> tuple[dict[str, Tensor], Tensor | None]:
    kept = top_gates(seen, rule)
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


def _shares(values: Tensor) -> Tensor:
    return values / values.sum(-1, keepdim=True).clamp_min(1e-12)


def _clip(values: Tensor) -> Tensor:
    """``(N,)`` from one value per clip or per frame."""
    return values.mean(1) if values.ndim == 2 else values
