"""The locator: where the object of a class is, at one forward pass, learned from the slow way to find out.

Explained in many windows of the picture, each enlarged, and averaged, the class map finds objects that one look on a
grid of 7x7 cells misses; but that takes tens of passes. The locator learns the average, without labels, from what one
pass shows: the class map, the features, and the last map that is twice as fine. Ours; figures are in
``docs/evidence.md``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from squeezecam import heatmap
from squeezecam.correction import Correction, evidence_logit, projected
from squeezecam.head import Head
from squeezecam.readout import ReadoutHead
from squeezecam.refiner import Evidence, evidence_of

MAPS = 4
"""What the convolutions see beside the projected features."""


class Locator(nn.Module):
    """Features of the block's map and of a finer one, and class evidence, to a map in (0, 1) on the finer grid.

    At the start it is the positive class map over its maximum; what is learned is a correction of the logit.

    Args:
        output: name of the output whose classes are located.
        channels: C of the features.
        finer: C' of the finer ones.
        width: channels that each of the two is projected to.
        hidden: channels of the convolutions.

    """

    mean: Tensor
    scale: Tensor
    finer_mean: Tensor
    finer_scale: Tensor

    def __init__(self, output: str, channels: int, finer: int, *, width: int = 16, hidden: int = 32) -> None:
        super().__init__()
        self.output, self.channels, self.finer = output, channels, finer
        self.width, self.hidden = width, hidden
        self.project = nn.Conv2d(channels, width, 1)
        self.project_finer = nn.Conv2d(finer, width, 1)
        self.drop = nn.Dropout2d(0.1)
        self.correct = Correction(2 * width + MAPS, hidden)
        for name, size in (("mean", channels), ("finer_mean", finer)):
            self.register_buffer(name, torch.zeros(size))
        for name, size in (("scale", channels), ("finer_scale", finer)):
            self.register_buffer(name, torch.ones(size))

    def standardise(self, features: tuple[Tensor, Tensor], finer: tuple[Tensor, Tensor]) -> None:
        """Take over mean and standard deviation of the two kinds of features in the data."""
        self.mean.copy_(features[0])
        self.scale.copy_(1 / features[1].clamp_min(1e-6))
        self.finer_mean.copy_(finer[0])
        self.finer_scale.copy_(1 / finer[1].clamp_min(1e-6))

    def logits(self, features: Tensor, finer: Tensor, component: Tensor, evidence: Evidence) -> Tensor:
        """Logits of the map ``(N, H', W')`` from features ``(N, C, H, W)`` with their principal component, and ``(N,
        C', H', W')``.
        """
        energy = features.square().mean(1).sqrt()
        maps = [evidence.full, evidence.contrast, component, energy]
        known = torch.stack([heatmap.over_maximum(one) for one in maps], 1)
        seen = projected(self.project, features, self.mean, self.scale)
        coarse = torch.cat([known, self.drop(seen)], 1)
        large = F.interpolate(coarse, finer.shape[2:], mode="bilinear", align_corners=False)
        edges = self.drop(projected(self.project_finer, finer, self.finer_mean, self.finer_scale))
        found: Tensor = evidence_logit(large[:, 0].relu()) + self.correct(torch.cat([large, edges], 1))
        return found

    def forward(self, features: Tensor, finer: Tensor, component: Tensor, evidence: Evidence) -> Tensor:
        """The map ``(N, H', W')`` in (0, 1)."""
        return torch.sigmoid(self.logits(features, finer, component, evidence))

    def describe(self) -> str:
        """One line for people."""
        count = sum(p.numel() for p in self.parameters())
        return f"locator of the classes of '{self.output}', {count:,} parameters"


def located_map(
    locator: Locator,
    head: Head | ReadoutHead,
    model: nn.Module,
    features: Tensor,
    finer: Tensor,
    component: Tensor,
    target: Tensor,
    values: Tensor | None = None,
) -> Tensor:
    """Where class ``target (N,)`` is, ``(N, H', W')``: 0 where the class map is nowhere positive."""
    dtype = locator.project.weight.dtype
    features, finer = (heatmap.at_least_float32(tensor) for tensor in (features, finer))
    evidence = evidence_of(head, model, features, target, values)
    some = (evidence.full.flatten(1).amax(1) > 0).view(-1, 1, 1)
    found = locator(features.to(dtype), finer.to(dtype), component.to(dtype), evidence.to(dtype))
    return torch.where(some, found.to(features.dtype), 0.0)


def settings(locator: Locator) -> dict[str, int]:
    """What is needed to build it again, beside its output."""
    return {
        "channels": locator.channels, "finer": locator.finer, "width": locator.width, "hidden": locator.hidden,
    }  # fmt: skip
