"""Fitting the refiner: masks that the frozen model confirms (:mod:`squeezecam.fit.masked`), learned without labels."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from squeezecam import heatmap
from squeezecam.errors import InputError, SqueezeWarning
from squeezecam.fit.batches import Pick
from squeezecam.fit.masked import Answer, MaskReport, Seen, answer, correlation, frozen, see
from squeezecam.fit.pictures import Moments, Pictures, counted
from squeezecam.fit.progress import Progress
from squeezecam.misfed import check_batches
from squeezecam.module import Squeeze
from squeezecam.origin import REFINE
from squeezecam.randomness import torch_seeded
from squeezecam.refiner import Refiner, refined_map
from squeezecam.tap import evaluating

CONFIRMING, STAYING = 4.0, 0.5
"""Weights in the loss: of ADCC, and of the probability that the masked picture keeps, which alone goes on rising where
nothing drops any more."""
LOOKED_AT = 16
"""Batches that the mean and deviation of the features are taken from."""
FASTER = 3.0
"""How much faster slope and balance of the refiner learn."""
LONGEST = 1.0
"""Norm that gradients are cut to."""
LOYAL, FOLLOWING = 0.5, 0.3
"""Correlation of masks with the class map: in a batch below the first, the loss asks for more of it; on held-out
pictures below the second, what was learned is not kept. A small spot that lies in the same corner of every picture
pleases the rest of the loss too, and is no explanation. Where pictures have enough to learn from it is about .9."""


class RefineReport(MaskReport):
    """What a refiner's fit did."""

    what = "refiner"


def refine(
    squeeze: Squeeze,
    batches: Iterable[Any],
    *,
    inputs: Pick | None = None,
    output: str | None = None,
    epochs: int = 40,
    lr: float = 2e-3,
    hold_out: float = 0.05,
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
            step; about 24 pictures make a good one, where there are hundreds.
        inputs: says what in a batch is the input; the usual ``(x, y)`` is understood.
        output: name of the output to explain, where there are several.
        epochs, lr, decay: of AdamW, ``lr`` at its peak.
        hold_out: share of the batches (at least one) that the report's figures are of. They decide one thing: whether
            what was learned is kept at all, which has to be better than the start and to follow the class map. Which
            epoch is the best they cannot say, being few.
        width, hidden, factor: of the :class:`~squeezecam.refiner.Refiner`.
        seed: of everything random.
        progress: a bar on standard error; None: where that is a terminal.

    Raises:
        FitError: fewer than two batches, or batches that cannot be gone through twice.
        InputError: no class evidence, no map with height and width, one value instead of classes.

    """
    check_batches(squeeze, batches)
    pictures = Pictures(squeeze, output, inputs)
    name, place = pictures.output, pictures.place
    total, held = counted(batches, hold_out, "refining")
    if epochs < 1:
        raise InputError(f"epochs must be at least 1, got {epochs}")
    started = time.perf_counter()
    device = next(squeeze.parameters()).device
    with torch_seeded(seed, [device]), torch.inference_mode(False):
        finer = 0 if squeeze.finer is None else squeeze.finer.channels
        refiner = Refiner(name, place.channels, finer, width=width, hidden=hidden, factor=factor).to(device)
        fitting = _Fitting(pictures, refiner)
        with Progress(progress) as bar, evaluating(squeeze), frozen(squeeze), torch.enable_grad():
            fitting.look(batches, held)
            before = after = fitting.validate(batches, held)
            start, history = copy.deepcopy(refiner.state_dict()), [before["loss"]]
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
                for _ in range(epochs):
                    refiner.train()
                    fitting.samples = 0
                    for batch in _after(batches, held):
                        _, loss = fitting.loss(batch, varied=True)
                        optimiser.zero_grad()
                        loss.backward()
                        nn.utils.clip_grad_norm_(refiner.parameters(), LONGEST)
                        optimiser.step()
                        schedule.step()
                        advance(1)
                    samples = fitting.samples
                    after = fitting.validate(batches, held)
                    history.append(after["loss"])
            following = fitting.following(batches, held)
    optimiser.zero_grad()
    learned = after["loss"] < before["loss"]
    if learned and following < FOLLOWING:
        learned = False
        warnings.warn(
            f"what the refiner had learned does not follow the evidence (correlation {following:.2f} with the class "
            f"map on held-out pictures, at least {FOLLOWING} is asked for): it was put back to its start; give it more "
            "pictures, or ones that differ more",
            SqueezeWarning,
            stacklevel=2,
        )
    if not learned:
        refiner.load_state_dict(start)
    squeeze.set_refiner(refiner)
    squeeze.origins.mark(squeeze, REFINE)
    return RefineReport(
        name, samples, fitting.held, epochs, epochs if learned else 0, round(time.perf_counter() - started, 1), before,
        after if learned else before, history, seed,
    )  # fmt: skip


class _Fitting:
    """Pictures and the refiner."""

    def __init__(self, pictures: Pictures, refiner: Refiner) -> None:
        self.pictures, self.refiner = pictures, refiner
        self.samples = self.held = 0

    def look(self, batches: Iterable[Any], held: int) -> None:
        """Mean and deviation of the features over a few batches, and how many samples are held out."""
        moments, finer_moments = Moments(), Moments()
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
                _, features, finer = self.pictures.seen(call)
            moments.add(features)
            if finer is not None:
                finer_moments.add(finer)
        self.refiner.standardise(moments.found(), finer_moments.found() if self.refiner.finer else None)

    def validate(self, batches: Iterable[Any], held: int) -> dict[str, float]:
        """Means over the first ``held`` batches."""
        self.refiner.eval()
        rows: list[dict[str, float]] = []
        with torch.no_grad():
            for number, batch in enumerate(batches):
                if number >= held:
                    break
                found, loss = self.loss(batch)
                rows.append(found.figures(loss))
        return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}

    def following(self, batches: Iterable[Any], held: int) -> float:
        """Mean correlation of the masks of the first ``held`` batches with the class map, cut at 0."""
        self.refiner.eval()
        found: list[Tensor] = []
        with torch.no_grad():
            for number, batch in enumerate(batches):
                if number >= held:
                    break
                seen = see(self.pictures, batch)
                found.append(self._followed(seen, self._masks(seen.values, seen.features, seen.finer, seen.target)))
        return float(torch.cat(found).mean())

    def loss(self, batch: Any, varied: bool = False) -> tuple[Answer, Tensor]:
        """What the model answers to one batch under its masks, and the loss; ``varied``: pictures and the class
        explained are changed at random.
        """
        seen = see(self.pictures, batch, varied, aside=varied)
        self.samples += len(seen.given)
        masks = self._masks(seen.values, seen.features, seen.finer, seen.target)
        found = answer(self.pictures, seen, masks, self._masks, "spline")
        strayed = (LOYAL - self._followed(seen, masks).mean()).relu()
        return found, CONFIRMING * (strayed - found.adcc) - STAYING * found.kept

    def _followed(self, seen: Seen, masks: Tensor) -> Tensor:
        """Correlation of each mask with the positive class map, ``(N,)``."""
        evidence = self.pictures.head.class_map(self.pictures.squeeze.model, seen.features, seen.target).relu()
        return correlation(masks, heatmap.upsample(evidence, tuple(masks.shape[1:]), "linear"))

    def _masks(self, values: Tensor, features: Tensor, finer: Tensor | None, target: Tensor) -> Tensor:
        model = self.pictures.squeeze.model
        return refined_map(self.refiner, self.pictures.head, model, features, target, values, finer)


def _after(batches: Iterable[Any], skip: int) -> Iterator[Any]:
    return (batch for number, batch in enumerate(batches) if number >= skip)
