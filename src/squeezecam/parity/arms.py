"""The arms of a study: what is trained, and what is done to the block afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from squeezecam import tree
from squeezecam.module import Apply, Squeeze
from squeezecam.parity.samples import Samples
from squeezecam.parity.training import Extra

FIT_BATCH = 64


@dataclass(frozen=True)
class Arm:
    """One way of having, or not having, the block.

    Attributes:
        name: in files.
        label: in tables and pictures.
        apply: ``"gate"``: the block is in the path from its identity start; ``"observe"``: it is not.
        other_seed: train from another seed than the arms that it stands beside.
        extra: auxiliary loss.
        prepare: told of the network before it is trained; may change the block.
        base: name of the arm whose trained network this one takes over, or None.
        finish: what is done to that network: ``(squeeze, training samples, task, output, seed)``.

    """

    name: str
    label: str
    apply: Apply = "gate"
    other_seed: bool = False
    extra: Extra | None = None
    prepare: Callable[[Squeeze], None] | None = None
    base: str | None = None
    finish: Callable[[Squeeze, Samples, str, str, int], None] | None = None


def fit_label_free(squeeze: Squeeze, samples: Samples, task: str, output: str, seed: int) -> None:
    """The block computed from the training inputs without their labels, and put in the path."""
    squeeze.apply_mode = "gate"
    device = next(squeeze.parameters()).device
    batches = (tree.to_device(samples.inputs(i), device) for i in torch.arange(len(samples)).split(FIT_BATCH))
    squeeze.fit(batches, inputs=lambda batch: batch, task=task, output=output, seed=seed, progress=False)


WITHOUT = Arm("without", "without", apply="observe")
OTHER = Arm("other", "without, other seed", apply="observe", other_seed=True)
WITH = Arm("with", "with, trained")
LABEL_FREE = Arm("label-free", "with, fitted label-free", base="without", finish=fit_label_free)

STANDARD = (WITHOUT, OTHER, WITH, LABEL_FREE)
