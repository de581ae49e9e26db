"""The refiner: a few small convolutions that turn class evidence into a mask which the model itself confirms.

The class map says how much each position of the last feature map adds to a class. It says little about where a mask on
the *picture* should begin and end: a position sees far beyond its cell, and runner-up classes share most of the
evidence. The refiner learns that difference once, without labels, from what the frozen model answers to masked pictures
(:mod:`squeezecam.fit.refining`). Beside the evidence it sees a few directions of the features, of those of the model's
last finer map where it has one, and what both are on average: how much of a picture has to be shown differs from
picture to picture. Explaining stays one forward pass without gradients. Ours; learned masks go back to Dabkowski and
Gal, NeurIPS 2017, arXiv 1705.07857. Figures and controls are in ``docs/evidence.md``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from squeezecam import heatmap
from squeezecam.correction import Correction, evidence_logit, projected
from squeezecam.head import Head
from squeezecam.readout import ReadoutHead

RUNNERS_UP = 5
MAPS, NUMBERS = 4, 2
"""What the convolutions see beside the projected features: maps, and numbers that are the same at every position."""
REACH = 3.0
"""How far above its evidence the logit of a place may be: where there is none, the mask stays under a quarter."""
LEANING = 0.2
"""Share of the mask that follows the class map: a good mask is open over much of an object, and does not say which part
of it counts most."""


@dataclass
class Evidence:
    """What is known of a class before anything is learned.

    Attributes:
        full: signed class map ``(N, H, W)``.
        contrast: the same less the class maps of the runner-up classes.
        probability: of the class, ``(N,)``.

    """

    full: Tensor
    contrast: Tensor
    probability: Tensor

    def to(self, dtype: torch.dtype) -> Evidence:
        """The same in ``dtype``."""
        return Evidence(self.full.to(dtype), self.contrast.to(dtype), self.probability.to(dtype))


class Refiner(nn.Module):
    """Features and evidence of one stream to a mask in (0, 1) on a grid ``factor`` times finer.

    At the start the mask is the evidence itself: the mean of the positive class map and of the positive contrast with
    the runner-up classes, each over its maximum. What is learned is how much of the two, and slope and correction of
    the logit. Few of the features' directions come in, and a good part of them is left out at random while learning: a
    thousand pictures are soon known by heart. Where it is used, the mask leans on the class map.

    Args:
        output: name of the output whose classes are explained.
        channels: C of the features.
        finer: C' of the features of the finer map, or 0: there is none.
        width: channels that the features are projected to; those of the finer map to half of it.
        hidden: channels of the convolutions.
        factor: how much finer than the native grid the mask is.

    """

    mean: Tensor
    scale: Tensor
    finer_mean: Tensor
    finer_scale: Tensor

    def __init__(
        self, output: str, channels: int, finer: int = 0, *, width: int = 16, hidden: int = 32, factor: int = 2
    ) -> None:
        super().__init__()
        self.output, self.channels, self.finer = output, channels, finer
        self.width, self.hidden, self.factor = width, hidden, factor
        self.project = nn.Conv2d(channels, width, 1)
        self.project_finer = nn.Conv2d(finer, width // 2, 1) if finer else None
        self.drop = nn.Dropout2d(0.3)
        seen = width + width // 2 if finer else width
        self.correct = Correction(MAPS + NUMBERS + 2 * seen, hidden)
        self.slope = nn.Parameter(torch.ones(()))
        self.balance = nn.Parameter(torch.zeros(()))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))
        self.register_buffer("finer_mean", torch.zeros(finer))
        self.register_buffer("finer_scale", torch.ones(finer))

    def standardise(self, features: tuple[Tensor, Tensor], finer: tuple[Tensor, Tensor] | None = None) -> None:
        """Take over mean and standard deviation in the data, ``(C,)`` each, and of the finer features ``(C',)``."""
        self.mean.copy_(features[0])
        self.scale.copy_(1 / features[1].clamp_min(1e-6))
        if finer is not None:
            self.finer_mean.copy_(finer[0])
            self.finer_scale.copy_(1 / finer[1].clamp_min(1e-6))

    def forward(self, features: Tensor, evidence: Evidence, finer: Tensor | None = None) -> Tensor:
        """Mask ``(N, f H, f W)`` from features ``(N, C, H, W)``, the evidence for a class in them, and the features of
        the finer map ``(N, C', H', W')``.
        """
        size = (features.shape[2] * self.factor, features.shape[3] * self.factor)
        seen = [self.drop(projected(self.project, features, self.mean, self.scale))]
        if self.project_finer is not None:
            if finer is None:
                raise ValueError(f"this refiner looks at a finer map of {self.finer} channels, and none was given")
            seen.append(self.drop(projected(self.project_finer, finer, self.finer_mean, self.finer_scale)))
        average = [part.mean((2, 3), keepdim=True).expand(-1, -1, *size) for part in seen]
        fine = torch.cat([*(_enlarged(part, size) for part in (self.known(features, evidence), *seen)), *average], 1)
        share = torch.sigmoid(self.balance)
        full, contrast = fine[:, 0].relu(), fine[:, 1].relu()
        start = share * full + (1 - share) * contrast
        known = evidence_logit(start)
        mask = torch.sigmoid(self.slope * known + self.correct(fine))
        if self.training:
            return mask
        # The loss is pleased by a bright spot in an empty corner, which makes all else, and so the area, smaller.
        held = torch.minimum(mask, torch.sigmoid(known + REACH))
        return held * (1 - LEANING + LEANING * heatmap.over_maximum(full))

    def known(self, features: Tensor, evidence: Evidence) -> Tensor:
        """``(N, MAPS + NUMBERS, H, W)``: class map, contrast, principal component and energy, each over its maximum;
        the probability of the class, and how much of its evidence is its own.
        """
        energy = features.square().mean(1).sqrt()
        maps = [evidence.full, evidence.contrast, heatmap.principal(features), energy]
        own = evidence.contrast.mean((1, 2)) / evidence.full.abs().mean((1, 2)).clamp_min(1e-6)
        numbers = torch.stack([evidence.probability, own], 1).to(features.dtype)
        everywhere = numbers[:, :, None, None].expand(-1, -1, *features.shape[2:])
        return torch.cat([torch.stack([heatmap.over_maximum(one) for one in maps], 1), everywhere], 1)

    def scalars(self) -> list[nn.Parameter]:
        """Slope and balance, which may move faster than the weights."""
        return [self.slope, self.balance]

    def describe(self) -> str:
        """One line for people."""
        count = sum(p.numel() for p in self.parameters())
        return f"refiner of the class map of '{self.output}', grid x{self.factor}, {count:,} parameters"


def refined_map(
    refiner: Refiner,
    head: Head | ReadoutHead,
    model: nn.Module,
    features: Tensor,
    target: Tensor,
    values: Tensor | None = None,
    finer: Tensor | None = None,
) -> Tensor:
    """The refined map ``(N, f H, f W)`` of class ``target (N,)``: 0 where the class map is nowhere positive.

    ``finer (N, C', H', W')`` are the features of the finer map, where the refiner looks at one; ``values`` is the
    model's output ``(N, K)`` where it is at hand, see :func:`evidence_of`.
    """
    dtype = refiner.project.weight.dtype
    features = heatmap.at_least_float32(features)
    evidence = evidence_of(head, model, features, target, values)
    some = (evidence.full.flatten(1).amax(1) > 0).view(-1, 1, 1)
    looked_at = finer.to(dtype) if finer is not None and refiner.finer else None
    return torch.where(some, refiner(features.to(dtype), evidence.to(dtype), looked_at).to(features.dtype), 0.0)


def evidence_of(
    head: Head | ReadoutHead, model: nn.Module, features: Tensor, target: Tensor, values: Tensor | None = None
) -> Evidence:
    """Signed class map, the same less the class maps of the runner-up classes, and the probability of the class.

    The runners-up are the :data:`RUNNERS_UP` other classes with the highest logits, weighted by their softmax among
    themselves: up to a factor the direction in which the log-probability of the class rises. Where there is one class,
    or where classes do not compete (independent labels), the contrast is the class map. The logits are taken from
    ``values``, the model's output; without it, or where it has an axis more, they are computed from the features.
    """
    full = head.class_map(model, features, target)
    given = values if values is not None and values.ndim == 2 else None
    logits = head.logits(model, features) if given is None else heatmap.at_least_float32(given)
    if logits.shape[1] < 2 or not head.competing:
        chances = logits if given is not None and head.link == "sigmoid" else logits.sigmoid()
        return Evidence(full, full, chances.gather(1, target[:, None])[:, 0])
    if given is not None and head.link == "softmax":
        logits = logits.clamp_min(torch.finfo(logits.dtype).tiny).log()
    others = logits.scatter(1, target[:, None], float("-inf"))
    best, classes = others.topk(min(RUNNERS_UP, logits.shape[1] - 1), dim=1)
    shares = best.softmax(1)
    contrast = full
    for rank in range(classes.shape[1]):
        contrast = contrast - shares[:, rank].view(-1, 1, 1) * head.class_map(model, features, classes[:, rank])
    return Evidence(full, contrast, logits.softmax(1).gather(1, target[:, None])[:, 0])


def settings(refiner: Refiner) -> dict[str, int]:
    """What is needed to build it again, beside its output."""
    return {
        "channels": refiner.channels, "finer": refiner.finer, "width": refiner.width, "hidden": refiner.hidden,
        "factor": refiner.factor,
    }  # fmt: skip


def _enlarged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)
