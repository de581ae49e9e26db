"""Fitting the refiner: masks that the frozen model confirms, learned without labels.

For every picture the model sees the picture times the mask, and the loss asks for what ADCC measures: that the
probability of the class stays, by a mask of small area that comes out again when the masked picture is explained. A
thousand pictures are soon known by heart, so they are mirrored, cut, brightened and put into one another at random, and
now and then a runner-up class is explained in place of the predicted one. Gradients run through the frozen model here,
at fit time, and nowhere else.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from squeezecam import heatmap, tree
from squeezecam.errors import InputError
from squeezecam.fit.batches import Pick
from squeezecam.fit.pictures import Pictures, counted, random_window, resized
from squeezecam.fit.progress import Progress
from squeezecam.metrics.normalise import min_max
from squeezecam.module import Squeeze
from squeezecam.refiner import Refiner, refined_map
from squeezecam.tap import evaluating

CONFIRMING, STAYING = 4.0, 0.5
"""Weights in the loss: of ADCC, and of the probability that the masked picture keeps, which alone goes on rising where
nothing drops any more."""
CROPPED, SMALLEST = 0.5, 0.4
"""Share of the batches that are cut to a window and enlarged again, and the window's smallest side as a share."""
JITTER = 0.2
"""How far contrast and, in units of twice the deviation, colours of a picture move."""
PASTED, PASTE = 0.3, (0.33, 0.75)
"""Share of the batches in which each picture has another put into it, and the sides of what is put in."""
ASIDE, RANKS = 0.3, 3
"""Share of the batches in which another class than the predicted one is explained, and how far down it may stand."""
LOOKED_AT = 16
"""Batches that the mean and deviation of the features are taken from."""
FASTER = 3.0
"""How much faster slope and balance of the refiner learn."""
LONGEST = 1.0
"""Norm that gradients are cut to."""


@dataclass
class RefineReport:
    """What a refiner's fit did.

    ``before`` and ``after`` are means over held-out pictures: ``drop`` of the probability under the mask, ``area``,
    ``coherency``, the ``adcc`` made of them, and the ``loss`` that decides.
    """

    output: str
    samples: int
    held_out: int
    epochs: int
    best: int
    seconds: float
    before: dict[str, float]
    after: dict[str, float]
    history: list[float] = field(default_factory=list)
    seed: int = 0

    def __str__(self) -> str:
        lines = [
            f"refiner of '{self.output}': {self.samples} pictures, {self.epochs} epochs (best: {self.best}), "
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


def refine(
    squeeze: Squeeze,
    batches: Iterable[Any],
    *,
    inputs: Pick | None = None,
    output: str | None = None,
    epochs: int = 14,
    lr: float = 2e-3,
    hold_out: float = 0.15,
    width: int = 16,
    hidden: int = 32,
    factor: int = 2,
    decay: float = 0.2,
    seed: int = 0,
    progress: bool | None = None,
) -> RefineReport:
    """Fit the refiner of one output, without labels; ``explain(method="refined")`` shows its maps from then on.

    It takes about four passes a picture and epoch, so minutes where the block takes seconds.

    Args:
        squeeze: with one stream whose maps have height and width, and class evidence: a classification layer of a known
            form, or a read-out from ``squeeze.fit``.
        batches: pictures in batches, in mixed order, gone through several times: a list or a ``DataLoader``. Each is a
            step, so small ones (4 to 8) learn more from the same pictures.
        inputs: says what in a batch is the input; the usual ``(x, y)`` is understood.
        output: name of the output to explain, where there are several.
        epochs, lr, decay: of AdamW, ``lr`` at its peak; the epoch with the lowest loss on held-out batches is kept.
        hold_out: share of the batches (at least one) that decides which epoch that is.
        width, hidden, factor: of the :class:`~squeezecam.refiner.Refiner`.
        seed: of everything random.
        progress: a bar on standard error; None: where that is a terminal.

    Raises:
        FitError: fewer than two batches, or batches that cannot be gone through twice.
        InputError: no class evidence, no map with height and width, one value instead of classes.

    """
    pictures = Pictures(squeeze, output, inputs)
    name, place = pictures.output, pictures.place
    total, held = counted(batches, hold_out, "refining")
    if epochs < 1:
        raise InputError(f"epochs must be at least 1, got {epochs}")
    started = time.perf_counter()
    reference = next(squeeze.parameters())
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
        torch.manual_seed(seed)
        refiner = Refiner(name, place.channels, width=width, hidden=hidden, factor=factor).to(reference.device)
        fitting = _Fitting(pictures, refiner)
        with Progress(progress) as bar, evaluating(squeeze), frozen(squeeze), torch.enable_grad():
            fitting.look(batches, held)
            before = fitting.validate(batches, held)
            best, state, history = before, copy.deepcopy(refiner.state_dict()), [before["loss"]]
            best_epoch = 0
            quick = {id(p) for p in refiner.scalars()}
            groups = [
                {"params": [p for p in refiner.parameters() if id(p) not in quick], "weight_decay": decay},
                {"params": refiner.scalars(), "weight_decay": 0.0},
            ]
            optimiser = torch.optim.AdamW(groups, lr)
            steps = epochs * (total - held)
            rates = [lr, lr * FASTER]
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rates, total_steps=steps, pct_start=0.15)
            with bar.task("refine", steps) as advance:
                for epoch in range(epochs):
                    refiner.train()
                    fitting.samples = 0
                    for batch in _after(batches, held):
                        loss = fitting.loss(batch, varied=True)["loss"]
                        optimiser.zero_grad()
                        loss.backward()
                        nn.utils.clip_grad_norm_(refiner.parameters(), LONGEST)
                        optimiser.step()
                        schedule.step()
                        advance(1)
                    samples = fitting.samples
                    now = fitting.validate(batches, held)
                    history.append(now["loss"])
                    if now["loss"] < best["loss"]:
                        best, best_epoch, state = now, epoch + 1, copy.deepcopy(refiner.state_dict())
    optimiser.zero_grad()
    refiner.load_state_dict(state)
    squeeze.set_refiner(refiner)
    return RefineReport(
        name, samples, fitting.held, epochs, best_epoch, round(time.perf_counter() - started, 1), before, best,
        history, seed,
    )  # fmt: skip


class _Fitting:
    """Pictures and the refiner."""

    def __init__(self, pictures: Pictures, refiner: Refiner) -> None:
        self.pictures, self.refiner = pictures, refiner
        self.samples = self.held = 0

    def look(self, batches: Iterable[Any], held: int) -> None:
        """Mean and deviation of the features over a few batches, and how many samples are held out."""
        seen, sums, squares = 0, None, None
        for number, batch in enumerate(batches):
            if number == held + LOOKED_AT:
                break
            if number == 0:
                self.pictures.choose_layout(batch)
            call, given = self.pictures.call(batch)
            if number < held:
                self.held += len(given)
                continue
            with torch.no_grad():
                flat = self.pictures.seen(call)[1].transpose(0, 1).flatten(1).double()
            sums = flat.sum(1) if sums is None else sums + flat.sum(1)
            squares = flat.square().sum(1) if squares is None else squares + flat.square().sum(1)
            seen += flat.shape[1]
        assert sums is not None
        assert squares is not None
        mean = sums / seen
        self.refiner.standardise(mean, (squares / seen - mean.square()).clamp_min(0).sqrt())

    def validate(self, batches: Iterable[Any], held: int) -> dict[str, float]:
        """Means over the first ``held`` batches."""
        self.refiner.eval()
        rows: list[dict[str, float]] = []
        with torch.no_grad():
            for number, batch in enumerate(batches):
                if number >= held:
                    break
                rows.append({name: float(value) for name, value in self.loss(batch).items()})
        return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}

    def loss(self, batch: Any, varied: bool = False) -> dict[str, Tensor]:
        """The loss and its parts for one batch; ``varied``: pictures and the class explained are changed at random."""
        call, given = self.pictures.call(batch)
        self.samples += len(given)
        given = (_varied(given) if varied else given).contiguous(memory_format=self.pictures.layout)
        path = self.pictures.path
        with torch.no_grad():
            values, features, _ = self.pictures.seen(tree.replace(call, path, given))
        target = _target(values, aside=varied)
        full = self._probability(values, target)
        masks = self._masks(values, features, target)
        large = min_max(heatmap.upsample(masks, tuple(given.shape[-2:]), "spline"))
        values, features, _ = self.pictures.seen(tree.replace(call, path, given * large[:, None]))
        kept = self._probability(values, target)
        # The features of the masked picture come without gradient: it goes through what the refiner makes of them.
        alike = _alike(masks, self._masks(values.detach(), features, target))
        drop, area = ((full - kept).relu() / full.clamp_min(1e-6)).clamp_max(0.999), large.flatten(1).mean(1)
        adcc = (3 / (1 / alike + 1 / (1 - area).clamp_min(1e-3) + 1 / (1 - drop))).mean()
        return {
            "loss": -CONFIRMING * adcc - STAYING * kept.mean(), "drop": drop.mean(), "area": area.mean(),
            "coherency": alike.mean(), "adcc": adcc,
        }  # fmt: skip

    def _masks(self, values: Tensor, features: Tensor, target: Tensor) -> Tensor:
        return refined_map(self.refiner, self.pictures.head, self.pictures.squeeze.model, features, target, values)

    def _probability(self, values: Tensor, target: Tensor) -> Tensor:
        known = self.pictures.head.link in ("softmax", "sigmoid")
        values = values if known else values.exp() if self.pictures.head.link == "log-softmax" else values.softmax(1)
        return values.gather(1, target[:, None])[:, 0]


def _target(values: Tensor, aside: bool) -> Tensor:
    """The predicted class ``(N,)``; ``aside``: now and then one of the next :data:`RANKS` in its place."""
    ranked = values.topk(min(RANKS, values.shape[1]), dim=1).indices
    away = aside and bool(torch.rand(()) < ASIDE)
    return ranked[:, int(torch.randint(1, ranked.shape[1], ())) if away else 0]


def _alike(first: Tensor, second: Tensor) -> Tensor:
    """Coherency of two sets of masks, ``(N,)`` in (0, 1]: their correlation, brought from [-1, 1]."""
    one, other = (masks.flatten(1) - masks.flatten(1).mean(1, keepdim=True) for masks in (first, second))
    length = (one.square().sum(1) * other.square().sum(1)).clamp_min(1e-12).sqrt()
    return ((one * other).sum(1) / length + 1).clamp_min(0.02) / 2


def _varied(pictures: Tensor) -> Tensor:
    """A batch ``(N, C, H, W)`` changed at random: mirrored, cut to one window of its proportions, contrast and colours
    moved, one picture of the batch put into another.
    """
    height, width = pictures.shape[-2:]
    if torch.rand(()) < 0.5:
        pictures = pictures.flip(3)
    if torch.rand(()) < CROPPED:
        top, left, high, wide = random_window(height, width, SMALLEST, 1.0)
        pictures = resized(pictures[:, :, top : top + high, left : left + wide], height, width)
    moved = JITTER * (2 * torch.rand(2, *pictures.shape[:2], 1, 1, device=pictures.device) - 1)
    spread = 2 * pictures.std()
    pictures = pictures * (1 + moved[0, :, :1]) + spread * moved[1]
    if torch.rand(()) < PASTED:
        top, left, high, wide = random_window(height, width, *PASTE)
        small = resized(pictures.roll(1, 0), high, wide)
        pictures[:, :, top : top + high, left : left + wide] = small
    return pictures


def _after(batches: Iterable[Any], skip: int) -> Iterator[Any]:
    return (batch for number, batch in enumerate(batches) if number >= skip)


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
