"""What a frozen model answers to masked pictures: the loss that refiner and block are fitted by, without labels.

The model sees the picture times the mask. What ADCC measures is asked for: that the probability of the class stays, by
a mask of small area that comes out again when the masked picture is explained. A thousand pictures are soon known by
heart, so they are mirrored, cut, brightened and put into one another at random, and for the refiner a runner-up class
is now and then explained in place of the predicted one. Gradients run through the frozen model here, at fit time, and
nowhere else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from squeezecam import heatmap, tree
from squeezecam.fit.pictures import Pictures
from squeezecam.fit.varying import varied as changed
from squeezecam.metrics.normalise import min_max

ASIDE, RANKS = 0.3, 3
"""Share of the pictures of which another class than the predicted one is explained, and how far down it may stand."""

GOLDEN = 0.6180339887
"""Multiples of it are spread evenly over [0, 1], however many there are."""

MaskOf = Callable[[Tensor, Tensor, Tensor | None, Tensor], Tensor]
"""Values ``(N, K)``, features ``(N, C, H, W)``, those of a finer map where there is one, and classes ``(N,)`` to native
masks ``(N, H', W')``."""


@dataclass
class Seen:
    """A batch of pictures and what the model makes of them: values, features, finer ones where there are any, the class
    explained, its probability.
    """

    call: tree.Call
    given: Tensor
    values: Tensor
    features: Tensor
    finer: Tensor | None
    target: Tensor
    full: Tensor


@dataclass
class Answer:
    """What became of the masked pictures. Means over the batch, with gradients to the mask."""

    adcc: Tensor
    drop: Tensor
    area: Tensor
    coherency: Tensor
    kept: Tensor

    def figures(self, loss: Tensor) -> dict[str, float]:
        """The loss and what a report says of it."""
        parts = {
            "loss": loss, "drop": self.drop, "area": self.area, "coherency": self.coherency, "adcc": self.adcc,
        }  # fmt: skip
        return {name: float(part) for name, part in parts.items()}


@dataclass
class MaskReport:
    """What a fit by masked pictures did.

    ``before`` and ``after`` are means over held-out pictures: ``drop`` of the probability under the mask, ``area``,
    ``coherency``, the ``adcc`` made of them, and the ``loss`` that decides. ``kept`` is the epoch whose state was kept,
    0: the start.
    """

    what: ClassVar[str]

    output: str
    samples: int
    held_out: int
    epochs: int
    kept: int
    seconds: float
    before: dict[str, float]
    after: dict[str, float]
    history: list[float] = field(default_factory=list)
    seed: int = 0

    def __str__(self) -> str:
        lines = [
            f"{self.what} of '{self.output}': {self.samples} pictures, {self.epochs} epochs (kept: {self.kept}), "
            f"{self.seconds:.0f} s"
        ]
        lines += [
            f"  {name:10} {self.before[name]:.3f} -> {self.after[name]:.3f} on {self.held_out} held-out pictures"
            for name in self.before
        ]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return dict(self.__dict__)


def see(pictures: Pictures, batch: Any, varied: bool = False, aside: bool = False) -> Seen:
    """The model on a batch. ``varied``: each picture is changed at random (:mod:`squeezecam.fit.varying`); ``aside``:
    of some, another class than the predicted one is explained. Of independent labels one that the model says yes to.
    """
    call, given = pictures.call(batch)
    given = (changed(given) if varied else given).contiguous(memory_format=pictures.layout)
    with torch.no_grad():
        values, features, finer = pictures.seen(tree.replace(call, pictures.path, given))
    if pictures.head.competing:
        target = _target(values, aside)
    else:
        target = _label(values, 0.5 if pictures.head.link == "sigmoid" else 0.0, drawn=varied)
    return Seen(call, given, values, features, finer, target, _probability(pictures, values, target))


def answer(pictures: Pictures, seen: Seen, masks: Tensor, mask_of: MaskOf, upsample: str) -> Answer:
    """The model on the same pictures under ``masks (N, H', W')``, which ``mask_of`` makes again of what is left."""
    large = min_max(heatmap.upsample(masks, tuple(seen.given.shape[-2:]), upsample).clamp_min(0))
    values, features, finer = pictures.seen(
        tree.replace(seen.call, pictures.path, (seen.given * large[:, None]).to(seen.given.dtype))
    )
    kept = _probability(pictures, values, seen.target)
    # The features of the masked picture come without gradient: it goes through what is made of them.
    alike = correlation(masks, mask_of(values.detach(), features, finer, seen.target)).add(1).clamp_min(0.02) / 2
    drop = ((seen.full - kept).relu() / seen.full.clamp_min(1e-6)).clamp_max(0.999)
    area = large.flatten(1).mean(1)
    adcc = 3 / (1 / alike + 1 / (1 - area).clamp_min(1e-3) + 1 / (1 - drop))
    return Answer(*(part.mean() for part in (adcc, drop, area, alike, kept)))


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Of two sets of maps over their positions, ``(N,)``."""
    one, other = (maps.flatten(1) - maps.flatten(1).mean(1, keepdim=True) for maps in (first, second))
    length = (one.square().sum(1) * other.square().sum(1)).clamp_min(1e-12).sqrt()
    return (one * other).sum(1) / length


@contextlib.contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No parameter of ``module`` asks for gradients meanwhile."""
    flags = [(p, p.requires_grad) for p in module.parameters()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _probability(pictures: Pictures, values: Tensor, target: Tensor) -> Tensor:
    head = pictures.head
    if head.link == "log-softmax":
        values = values.exp()
    elif head.link not in ("softmax", "sigmoid"):
        values = values.softmax(1) if head.competing else values.sigmoid()
    return values.gather(1, target[:, None])[:, 0]


def _target(values: Tensor, aside: bool) -> Tensor:
    """The predicted class ``(N,)``; ``aside``: of some pictures one of the next classes in its place."""
    ranked = values.topk(min(RANKS, values.shape[1]), dim=1).indices
    if not aside:
        return ranked[:, 0]
    away = torch.rand(len(values)) < ASIDE
    rank = torch.where(away, torch.randint(1, ranked.shape[1], (len(values),)), 0)
    return ranked.gather(1, rank.to(ranked.device)[:, None])[:, 0]


def _label(values: Tensor, cut: float, *, drawn: bool) -> Tensor:
    """One of the labels ``(N,)`` whose value is above ``cut``, the largest where none is: drawn at random, or spread
    evenly. The largest alone would be the same one in nearly every picture: most sets have a label that most pictures
    have.
    """
    yes = values > cut
    yes = yes | (~yes.any(1, keepdim=True) & (values == values.amax(1, keepdim=True)))
    share = torch.rand(len(values)) if drawn else torch.arange(len(values)) * GOLDEN % 1
    rank = (share.to(values.device) * yes.sum(1)).long()
    return ((yes.cumsum(1) - 1 == rank[:, None]) & yes).long().argmax(1)
