"""Where the object of a class is: what speaks for the class, where the features stand out together.

The class map weighs what speaks for a class against what speaks against it, so that its peak is where little else
is seen. To *find* the object, what speaks for it is enough. Held to the principal component of the features, which
outlines what is conspicuous, it neither spreads to what merely goes with the class nor to what is conspicuous without
speaking for it. Closed form, one forward pass, no fit. Ours; ``docs/evidence.md`` has figures and what else was tried.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from squeezecam import heatmap
from squeezecam.head import Head
from squeezecam.readout import ReadoutHead

ELSEWHERE, SHARPER, FINER = 1.0, 2.0, 4
"""What counts where nothing stands out; exponent that gathers the map at its peak and leaves its order; how much finer
in height and width the grid is that the two are multiplied on."""


def focus_map(
    head: Head | ReadoutHead, model: nn.Module, features: Tensor, target: Tensor, signed: bool = False
) -> Tensor:
    """``(f (1 + p)) ** 2`` on a grid four times finer in height and width, ``(N, *S')``, never negative.

    f is what speaks for class ``target (N,)``, p the principal component of the features ``(N, C, *S)``: their positive
    parts, each over its maximum and enlarged by splines, with nothing outside the picture. ``signed`` says that
    features of this stream can be negative.
    """
    return focused(speaking_for(head, model, features, target, signed), heatmap.principal(features))


def focused(speaking: Tensor, component: Tensor) -> Tensor:
    """The formula of :func:`focus_map` on f, or on what a locator found, ``(N, *S)`` on a grid of its own, and p."""
    seen, outline = on_finer_grid(speaking, component)
    return (seen * (ELSEWHERE + outline)) ** SHARPER


def speaking_for(
    head: Head | ReadoutHead, model: nn.Module, features: Tensor, target: Tensor, signed: bool = False
) -> Tensor:
    """What speaks for class ``target (N,)`` where its evidence is positive, ``(N, *S)``, never negative.

    The sum of the channels whose weight for the class is above that for the mean class, by how much it is. Features
    that can be negative have no such channels, and there, as behind a normalisation or a read-out, it is the positive
    part of the class map.
    """
    evidence = head.class_map(model, features, target)
    seen = head.evidence_features(features)
    if head.kind not in ("linear", "conv") or (signed and head.pool != "relu-mean"):
        return evidence.relu()
    matrix = head.matrix(model)
    weights = matrix[target]
    if len(matrix) > 1 and head.link != "sigmoid":  # a softmax does not see what all classes have in common
        weights = weights - matrix.mean(0)
    return torch.where(evidence > 0, heatmap.weighted_sum(seen, weights.relu()), 0.0)


def on_finer_grid(speaking: Tensor, component: Tensor) -> tuple[Tensor, Tensor]:
    """f and p of :func:`focus_map` from maps ``(N, *S)`` and ``(N, *S')``, on the finer grid of the first."""
    *before, height, width = speaking.shape[1:]
    fine = (*before, FINER * height, FINER * width)
    seen, outline = (
        heatmap.over_maximum(heatmap.upsample(maps.relu(), fine, "spline", empty_outside=True))
        for maps in (speaking, component)
    )
    return seen, outline
