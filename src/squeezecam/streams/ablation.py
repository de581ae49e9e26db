"""What the score loses without a stream: the head, run again with the channels of the streams scaled."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from squeezecam.block import IDENTITY_GATE
from squeezecam.frames import scale_by, time_axis
from squeezecam.module import Capture, Squeeze
from squeezecam.streams.parts import Part, top_gates
from squeezecam.streams.record import ABLATIONS
from squeezecam.streams.scores import known, over_time, scores


class Runs:
    """The model's output with the channels of its streams scaled: only the head runs, where that gives the output."""

    def __init__(self, squeeze: Squeeze, inputs: Any, output: str, seen: dict[str, Capture], values: Tensor) -> None:
        from squeezecam.fit.runner import HeadRunner

        self.squeeze, self.inputs, self.output, self.seen = squeeze, inputs, output, seen
        layouts = [squeeze.places[stream].layout for stream in seen]
        self.packable = not any(axis.before or axis.after for layout in layouts for axis in layout.axes)
        self.own = {s: self._own_factors(seen[s]) for s in seen}
        self.runner = HeadRunner(squeeze, inputs, output=output)
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


def ablate(
    squeeze: Squeeze, runs: Runs, parts: list[Part], seen: dict[str, Capture], goal: Tensor | None,
    frames: Tensor, inside: Tensor | None, rule: Any,
) -> tuple[dict[str, Tensor], Tensor]:  # fmt: skip
    """How much the score falls, ``{ablation: (N, S)}``, and what every frame loses without each stream."""
    score = over_time(frames, inside)
    found: dict[str, list[Tensor]] = {name: [] for name in ABLATIONS}
    moments = []
    gated = {stream: one.gates / IDENTITY_GATE for stream, one in seen.items()}
    in_path = scores(known(runs(gated)), goal)
    kept = top_gates(seen, rule)

    def fall(values: Tensor | None, reference: Tensor) -> Tensor:
        if values is None:
            return torch.full_like(score, float("nan"))
        return over_time(reference - scores(values, goal), inside)

    for part in parts:
        stream, own = part.stream, runs.own[part.stream]
        chosen = torch.zeros(own.shape[-1], dtype=torch.bool, device=own.device)
        chosen[part.channels] = True
        zero = known(runs({stream: torch.where(chosen, 0.0, own)}))
        moments.append(frames - scores(zero, goal))
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
