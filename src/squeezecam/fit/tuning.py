"""Tuning a fitted block: which channels make a mask that the frozen model confirms (:mod:`squeezecam.fit.masked`).

The closed form (:mod:`squeezecam.fit.faithful`) ranks channels by what they say for the class. Whether their maps,
averaged, also cover what the model has to see is another matter: a telling channel may light up on an eye alone. That
is learned here as one number per channel, the same for all classes, which is added to every column of the block's
second layer. So few numbers do not learn pictures by heart; on classes that were not in the data it pays less, and the
map then points less well (``docs/fit.md`` has figures).
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from squeezecam import heatmap, vector
from squeezecam.block import SEBlock, squeeze_positions
from squeezecam.errors import FitError, InputError
from squeezecam.fit.batches import Pick
from squeezecam.fit.masked import Answer, MaskReport, answer, correlation, frozen, see
from squeezecam.fit.pictures import Pictures, counted
from squeezecam.fit.progress import Progress
from squeezecam.misfed import check_batches
from squeezecam.module import Squeeze
from squeezecam.origin import FIT
from squeezecam.randomness import torch_seeded
from squeezecam.tap import evaluating

DROPPING, POINTING = 0.25, 0.5
"""Weights in the loss, beside ADCC: of the drop in probability, and of the correlation to the positive class map."""
SOFTNESS = 0.25
"""Width, in standard deviations of the gates, over which the keep rule has a gradient."""


class TuneReport(MaskReport):
    """What tuning a block did, for the published map."""

    what = "tuned block"


def tune(
    squeeze: Squeeze,
    batches: Iterable[Any],
    *,
    inputs: Pick | None = None,
    output: str | None = None,
    epochs: int = 3,
    lr: float = 2e-2,
    hold_out: float = 0.15,
    seed: int = 0,
    progress: bool | None = None,
) -> TuneReport:
    """Tune the fitted block of the one stream, without labels, so that the published map makes a better mask.

    It takes about four passes a picture and epoch. The spread of the gates stays what it was, so that predictions in
    ``gate`` mode stay about as they were.

    Args:
        squeeze: with one stream whose maps have height and width, a fitted block, and class evidence.
        batches: pictures in batches, in mixed order, gone through several times: a list or a ``DataLoader``. Each is a
            step, so small ones (4 to 8) learn more from the same pictures.
        inputs: says what in a batch is the input; the usual ``(x, y)`` is understood.
        output: name of the output whose predictions the masks are to keep, where there are several.
        epochs, lr: of Adam; the epoch with the lowest loss on held-out batches is kept, which may be none.
        hold_out: share of the batches (at least one) that decides which epoch that is.
        seed: of everything random.
        progress: a bar on standard error; None: where that is a terminal.

    Raises:
        FitError: a block that is not fitted, fewer than two batches, or batches that cannot be gone through twice.
        InputError: several streams, no class evidence, no map with height and width, one value instead of classes.

    """
    check_batches(squeeze, batches)
    pictures = Pictures(squeeze, output, inputs)
    block = squeeze.block(pictures.stream)
    if not block.fitted:
        raise FitError("tuning starts from a fitted block, and this one is new: squeeze.fit(batches) comes first")
    total, held = counted(batches, hold_out, "tuning")
    if epochs < 1:
        raise InputError(f"epochs must be at least 1, got {epochs}")
    started = time.perf_counter()
    with torch_seeded(seed, [block.expand.weight.device]), torch.inference_mode(False):
        work = _Tuning(pictures, block)
        with Progress(progress) as bar, evaluating(squeeze), frozen(squeeze), torch.enable_grad():
            pictures.choose_layout(next(iter(batches)))
            best = before = work.validate(batches, held)
            chosen, best_epoch, history = work.preference.detach().clone(), 0, [before["loss"]]
            optimiser = torch.optim.Adam([work.preference], lr)
            with bar.task("tune", epochs * (total - held)) as advance:
                for epoch in range(epochs):
                    samples = 0
                    for number, batch in enumerate(batches):
                        if number < held:
                            continue
                        _, loss, count = work.loss(batch, varied=True)
                        optimiser.zero_grad()
                        loss.backward()
                        optimiser.step()
                        samples += count
                        advance(1)
                    now = work.validate(batches, held)
                    history.append(now["loss"])
                    if now["loss"] < best["loss"]:
                        best, best_epoch, chosen = now, epoch + 1, work.preference.detach().clone()
    prefer(block, chosen, work.vectors())
    squeeze.origins.mark(squeeze, FIT)
    return TuneReport(
        pictures.output, samples, work.held, epochs, best_epoch, round(time.perf_counter() - started, 1), before, best,
        history, seed,
    )  # fmt: skip


def prefer(block: SEBlock, preference: Tensor, vectors: Tensor) -> None:
    """Add ``preference (C,)``, in standard deviations of each column, to the columns of ``W2``, in place.

    Then all is scaled so that the logits of squeezed ``vectors (M, C)`` keep their deviation over the channels.
    """
    with torch.no_grad():
        spread = block.logits(vectors).std(1, correction=0).mean()
        weight = block.expand.weight
        weight.add_((preference[:, None] * weight.std(0, correction=0)).to(weight))
        weight.mul_((spread / block.logits(vectors).std(1, correction=0).mean().clamp_min(1e-12)).to(weight))


class _Tuning:
    """Pictures, the block, and what is to be added to its columns."""

    def __init__(self, pictures: Pictures, block: SEBlock) -> None:
        self.pictures, self.block = pictures, block
        self.first, self.second = block.reduce.weight.detach().float(), block.expand.weight.detach().float()
        self.width = self.second.std(0, correction=0)
        self.preference = torch.zeros(block.channels, device=self.second.device, requires_grad=True)
        self.squeezed: list[Tensor] = []
        self.held = 0

    def validate(self, batches: Iterable[Any], held: int) -> dict[str, float]:
        """Means over the first ``held`` batches."""
        rows, self.squeezed, self.held = [], [], 0
        with torch.no_grad():
            for number, batch in enumerate(batches):
                if number >= held:
                    break
                found, loss, count = self.loss(batch, keep=True)
                self.held += count
                rows.append(found.figures(loss))
        return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}

    def vectors(self) -> Tensor:
        """Squeezed vectors of the held-out pictures."""
        return torch.cat(self.squeezed)

    def loss(self, batch: Any, varied: bool = False, keep: bool = False) -> tuple[Answer, Tensor, int]:
        """What the model answers to a batch under the published map, the loss, and how many pictures there are."""
        seen = see(self.pictures, batch, varied)
        if keep:
            self.squeezed.append(squeeze_positions(seen.features))
        masks = self._masks(seen.values, seen.features, None, seen.target)
        found = answer(self.pictures, seen, masks, self._masks, "bicubic")
        evidence = self.pictures.head.class_map(self.pictures.squeeze.model, seen.features, seen.target).relu()
        pointing = correlation(masks, evidence.detach()).mean()
        return found, DROPPING * found.drop - found.adcc - POINTING * pointing, len(seen.given)

    def _masks(self, values: Tensor, features: Tensor, finer: Tensor | None, target: Tensor) -> Tensor:
        """The published map, with a gradient to the preference through the keep rule."""
        inner = torch.relu(F.linear(squeeze_positions(features), self.first))
        logits = F.linear(inner, self.second) + F.linear(inner, self.width[None]) * self.preference
        gates = torch.sigmoid(logits)
        kept = vector.zscore(gates.detach()).mask.to(gates)
        apart = (logits - logits.mean(1, keepdim=True)) / logits.std(1, keepdim=True, correction=0).clamp_min(1e-12)
        soft = torch.sigmoid((apart - vector.TOP_10_PERCENT) / SOFTNESS)
        return heatmap.aggregate(features, gates.detach(), kept + soft - soft.detach(), self.pictures.squeeze.aggregate)
