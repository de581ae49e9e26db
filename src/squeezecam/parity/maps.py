"""What training does to the maps: the methods and the controls, measured on the networks of a study."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from squeezecam import tree
from squeezecam.errors import InputError
from squeezecam.evaluation.running import run
from squeezecam.evaluation.source import Given
from squeezecam.evaluation.subject import Subject
from squeezecam.module import Squeeze
from squeezecam.parity.samples import Samples

CONTROLS = ("all-channel-mean", "random-channels", "random-map", "centred-gaussian")
METRICS = ("insertion_deletion", "map_area")
ON_BOXES = ("pointing_game", "energy_pointing_game")


def map_quality(
    squeeze: Squeeze, samples: Samples, count: int, seed: int, output: str, boxes: Tensor | None = None
) -> dict[str, dict[str, float]]:
    """``{method: {metric: mean}}`` over ``count`` of the samples; the same ones for every network and seed.

    ``published``, ``contribution`` (only with the block in the path), ``class`` (where the head has a formula) and the
    four controls. ``boxes`` ``(N, 4)`` add the pointing game. Networks that take something else than one tensor of
    pictures (on its own, or as a keyword argument) have no such figures: the result is empty.
    """
    index = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))[:count].sort().values
    given = samples.inputs(index)
    (path, pictures), *others = tree.leaves(given)
    if others or pictures.ndim != 4 or len(squeeze.places) != 1:
        return {}
    device = next(squeeze.parameters()).device

    def make_inputs(batch: Tensor) -> Any:
        return tree.replace(given, path, batch.to(device))

    own = ["published", "contribution"] if squeeze.apply_mode == "gate" else []
    if squeeze.head(output) is not None:
        own.append("class")
    chosen = None if boxes is None else [box.reshape(1, 4) for box in boxes[index]]
    metrics = [*METRICS, *(ON_BOXES if boxes is not None else ())]
    try:
        found = run(
            Subject(squeeze, output, make_inputs), Given(pictures, boxes=chosen), [*own, *CONTROLS], metrics,
            batch_size=32, seed=seed, progress=False, say=lambda line: None,
        )  # fmt: skip
    except InputError:  # an output without classes
        return {}
    table = {
        method: {name: figure.value.mean for name, figure in cells.items()} for method, cells in found.figures().items()
    }
    return {m: {name: v for name, v in cells.items() if not math.isnan(v)} for m, cells in table.items()}
