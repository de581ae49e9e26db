"""Where the object of a class is: what speaks for the class, where the features stand out together.

The class map weighs what speaks for a class against what speaks against it, so that its peak is where little else
is seen. To *find* the object, what speaks for it is enough. Held to the principal component of the features, which
outlines what is conspicuous, it neither spreads to what merely goes with the class nor to what is conspicuous without
speaking for it. Both are spread over the cells that look alike (:mod:`squeezecam.likeness`), from the telling part to
the whole, and the peak is held to where much of what speaks for the class lies close together. Closed form, one forward
pass, no fit. Ours; ``docs/evidence.md`` has figures and what else was tried.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from squeezecam import heatmap, likeness
from squeezecam.head import Head
from squeezecam.readout import ReadoutHead

ELSEWHERE, SHARPER, FINER = 0.5, 1.5, 4
"""What counts where nothing stands out; exponent that gathers the map at its peak; how much finer in height and width
the grid is that all is multiplied on."""
AROUND = 0.15
"""Standard deviation of the Gaussian that says what lies close together, as a share of the picture's sides: on small
cells the cell that says most for a class is often not where most is said."""
FINEST = 20
"""Cells in height and width that a finer map may have to be looked at: the walk costs the square of its cells."""


def focus_map(
    head: Head | ReadoutHead,
    model: nn.Module,
    features: Tensor,
    target: Tensor,
    signed: bool = False,
    finer: Tensor | None = None,
) -> Tensor:
    """``(f (0.5 + p)) ** 1.5 g`` on a grid four times finer in height and width, ``(N, *S')``, never negative.

    f is what speaks for class ``target (N,)``, p the principal component of the features ``(N, C, *S)``, both spread
    over the cells that look alike (within each frame or slice where there are three axes): their positive parts, each
    over its maximum and enlarged by splines, with nothing outside the picture. g is what speaks for the class without
    being spread, seen through a Gaussian of :data:`AROUND` of the picture. ``signed`` says that features of this stream
    can be negative. ``finer (N, C', H', W')`` are those of an earlier map of the model: where that has at most
    :data:`FINEST` cells a side, cells are its cells.
    """
    if finer is not None and max(finer.shape[2:]) > FINEST:
        finer = None
    speaking = speaking_for(head, model, features, target, signed)
    return focused(speaking, heatmap.principal(features), features, finer, signed=signed)


def focused(
    speaking: Tensor, component: Tensor, features: Tensor, finer: Tensor | None = None, *, signed: bool = False
) -> Tensor:
    """The formula of :func:`focus_map` from f, or from what a locator found, ``(N, *S')``, and from p and the features
    ``(N, C, *S)``; ``finer (N, C', *S')``, where there are any, have the cells to spread over.
    """
    seen, outline = on_finer_grid(*spread_alike(speaking, component, features, finer, signed=signed))
    return gathered(seen, outline, speaking)


def gathered(seen: Tensor, outline: Tensor, speaking: Tensor) -> Tensor:
    """The formula of :func:`focus_map` from f and p on the finer grid ``(N, *S')``, and f as it was, ``(N, *S)``."""
    line = seen.ndim == 2  # a map over time alone is one of height 1
    *_, height, width = seen[:, None].shape if line else seen.shape
    spoken = speaking[:, None] if line else speaking
    close = heatmap.over_maximum(heatmap.through_gaussian(spoken.relu(), (height, width), AROUND))
    return (seen * (ELSEWHERE + outline)) ** SHARPER * (close[:, 0] if line else close)


def spread_alike(
    speaking: Tensor, component: Tensor, features: Tensor, finer: Tensor | None = None, *, signed: bool = False
) -> tuple[Tensor, Tensor]:
    """f and p of :func:`focused`, each spread over the cells that look alike, on the finer grid or that of f."""
    if speaking.ndim == 4:  # time or depth first: every frame by itself
        frames = speaking.shape[1]
        slices = features.movedim(2, 1).flatten(0, 1)
        seen, outline = spread_alike(speaking.flatten(0, 1), component.flatten(0, 1), slices, signed=signed)
        return seen.unflatten(0, (-1, frames)), outline.unflatten(0, (-1, frames))
    grid = likeness.walking_grid(tuple(speaking.shape[1:] if finer is None else finer.shape[2:]))
    affinity = likeness.affinities(features, grid, finer, centred=signed)
    seen, outline = (
        likeness.spread(likeness.on_grid(heatmap.at_least_float32(maps), grid), affinity)
        for maps in (speaking, component)
    )
    return seen, outline


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
    if head.kind not in ("linear", "conv") or (signed and not head.pool.startswith("relu")):
        return evidence.relu()
    matrix = head.matrix(model)
    weights = matrix[target]
    if len(matrix) > 1 and head.competing:  # a softmax does not see what all classes have in common
        weights = weights - matrix.mean(0)
    return torch.where(evidence > 0, heatmap.weighted_sum(seen, weights.relu()), 0.0)


def on_finer_grid(speaking: Tensor, component: Tensor) -> tuple[Tensor, Tensor]:
    """f and p of :func:`focus_map` from maps ``(N, *S)`` and ``(N, *S')``, on the finer grid of the first."""
    size = speaking.shape[1:]
    fine = (*size[:-2], *(FINER * side for side in size[-2:]))
    seen, outline = (
        heatmap.over_maximum(heatmap.upsample(maps.relu(), fine, "spline", empty_outside=True))
        for maps in (speaking, component)
    )
    return seen, outline
