"""Fitting the locator: a map that tens of passes find, learned for one pass, without labels.

What speaks for the predicted class (:func:`squeezecam.focus.speaking_for`) is computed in 19 windows of every picture,
enlarged to the input's size and mirrored, and averaged: the *slow map*. The locator learns to predict it from one pass
over the picture, which comes mirrored and cut at random, so that a thousand pictures go a long way. No gradient runs
through the model.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from squeezecam import heatmap, tree
from squeezecam.errors import FitError, InputError
from squeezecam.fit.batches import Pick
from squeezecam.fit.pictures import Moments, Pictures, counted, random_window, resized
from squeezecam.fit.progress import Progress
from squeezecam.locator import Locator
from squeezecam.misfed import check_batches
from squeezecam.module import Squeeze
from squeezecam.origin import LOCATE
from squeezecam.randomness import torch_seeded
from squeezecam.refiner import evidence_of
from squeezecam.tap import evaluating

WINDOWS = {1.0: (0.0,), 0.75: (0.0, 0.125, 0.25), 0.5: (0.0, 0.25, 0.5)}
"""Sides of the windows as shares of the picture's, and where they begin."""
KEPT = 56
"""Side of the grid that slow maps are averaged on."""
CROPPED, SMALLEST = 0.5, 0.55
"""Share of the batches that are cut to a window while learning, and its smallest side as a share."""
PRESENT = 0.3
"""A window in which the slow map stays below this has no object of its own, and is not scaled up."""
STARTING = 0.21
"""Share of the steps in which the learning rate rises; of no number of steps just one, over which the schedule divides
by nothing."""
LOOKED_AT = 64
"""Batches that the mean and deviation of the features are taken from."""


@dataclass
class LocateReport:
    """What a locator's fit did. ``before`` and ``after``: correlation with the slow map, over held-out pictures;
    ``kept``: the epoch whose state was kept, 0: the start.
    """

    output: str
    finer: str
    samples: int
    held_out: int
    epochs: int
    kept: int
    seconds: float
    before: float
    after: float
    history: list[float] = field(default_factory=list)
    seed: int = 0

    def __str__(self) -> str:
        return (
            f"locator of '{self.output}': {self.samples} pictures, {self.epochs} epochs (kept: {self.kept}), looks at "
            f"'{self.finer}', {self.seconds:.0f} s\n"
            f"  correlation to the slow map {self.before:.3f} -> {self.after:.3f} on {self.held_out} held-out pictures"
        )

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return dict(self.__dict__)


def locate(
    squeeze: Squeeze,
    batches: Iterable[Any],
    *,
    inputs: Pick | None = None,
    output: str | None = None,
    epochs: int = 16,
    lr: float = 2e-3,
    hold_out: float = 0.1,
    width: int = 16,
    hidden: int = 32,
    decay: float = 0.01,
    seed: int = 0,
    progress: bool | None = None,
) -> LocateReport:
    """Fit the locator of one output, without labels; ``explain(method="focus")`` shows its maps from then on.

    It takes 38 passes a picture, and one more for every epoch: minutes. Worth it where the map is coarse, such as 7x7.

    Args:
        squeeze: with one stream whose maps have height and width, and class evidence.
        batches: pictures in batches, in the same mixed order each time they are gone through.
        inputs: says what in a batch is the input; the usual ``(x, y)`` is understood.
        output: name of the output whose classes to locate, where there are several.
        epochs, lr, decay: of AdamW, ``lr`` at its peak; the epoch with the lowest loss on held-out batches is kept.
        hold_out: share of the batches (at least one) that decides which epoch that is.
        width, hidden: of the :class:`~squeezecam.locator.Locator`.
        seed: of everything random.
        progress: a bar on standard error; None: where that is a terminal.

    Raises:
        FitError: fewer than two batches, or batches that come in another order the second time.
        InputError: no class evidence, no map with height and width, no finer map before it.

    """
    check_batches(squeeze, batches)
    pictures = Pictures(squeeze, output, inputs)
    total, held = counted(batches, hold_out, "locating")
    if epochs < 1:
        raise InputError(f"epochs must be at least 1, got {epochs}")
    place, finer = pictures.place, squeeze.finer
    if finer is None:
        raise InputError(
            f"the locator looks at a map that is finer than that at the {place.describe()}, and the model has none "
            "before it: use method='focus' as it is"
        )
    started = time.perf_counter()
    device = next(squeeze.parameters()).device
    with torch_seeded(seed, [device]), torch.inference_mode(False):
        locator = Locator(pictures.output, place.channels, finer.channels, width=width, hidden=hidden).to(device)
        with Progress(progress) as bar, evaluating(squeeze):
            work = _Locating(pictures, locator)
            with bar.task("slow maps", total) as advance:
                work.look(batches, advance)
            before = work.validate(batches, held)
            best, state, best_epoch, history = before, copy.deepcopy(locator.state_dict()), 0, [before[0]]
            optimiser = torch.optim.AdamW(locator.parameters(), lr, weight_decay=decay)
            steps = epochs * (total - held)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps, pct_start=STARTING)
            with bar.task("locate", steps) as advance:
                for epoch in range(epochs):
                    locator.train()
                    for number, batch in enumerate(batches):
                        if number < held:
                            continue
                        loss = work.loss(number, batch, varied=True)[0]
                        optimiser.zero_grad()
                        loss.backward()
                        optimiser.step()
                        schedule.step()
                        advance(1)
                    now = work.validate(batches, held)
                    history.append(now[0])
                    if now[0] < best[0]:
                        best, best_epoch, state = now, epoch + 1, copy.deepcopy(locator.state_dict())
    optimiser.zero_grad()
    locator.load_state_dict(state)
    squeeze.set_locator(locator, finer)
    squeeze.origins.mark(squeeze, LOCATE)
    seen = [len(maps) for maps in work.slow]
    return LocateReport(
        pictures.output, finer.module, sum(seen[held:]), sum(seen[:held]), epochs, best_epoch,
        round(time.perf_counter() - started, 1), round(before[1], 4), round(best[1], 4), history, seed,
    )  # fmt: skip


class _Locating:
    """Pictures, locator, and the slow map of every picture in the order in which they came."""

    def __init__(self, pictures: Pictures, locator: Locator) -> None:
        self.pictures, self.locator = pictures, locator
        self.slow: list[Tensor] = []
        self.targets: list[Tensor] = []
        self.marks: list[float] = []

    def look(self, batches: Iterable[Any], advance: Any) -> None:
        """Slow maps of all pictures; mean and deviation of the features of the first of them."""
        moments, finer_moments = Moments(), Moments()
        with torch.no_grad():
            for number, batch in enumerate(batches):
                if number == 0:
                    self.pictures.choose_layout(batch)
                call, given = self.pictures.call(batch)
                self.marks.append(float(given.double().mean()))
                values, features, finer = self.pictures.seen(call)
                assert finer is not None
                target = values.argmax(1)
                if number < LOOKED_AT:
                    moments.add(features)
                    finer_moments.add(finer)
                self.targets.append(target)
                self.slow.append(slow_map(self.pictures, call, given, target))
                advance(1)
        self.locator.standardise(moments.found(), finer_moments.found())

    def validate(self, batches: Iterable[Any], held: int) -> tuple[float, float]:
        """Loss and correlation, means over the first ``held`` batches."""
        self.locator.eval()
        rows = []
        with torch.no_grad():
            for number, batch in enumerate(batches):
                if number >= held:
                    break
                loss, found, wanted = self.loss(number, batch)
                one, other = (m.flatten(1) - m.flatten(1).mean(1, keepdim=True) for m in (found, wanted))
                alike = (one * other).sum(1) / (one.square().sum(1) * other.square().sum(1)).clamp_min(1e-12).sqrt()
                rows.append((float(loss), float(alike.mean())))
        return sum(row[0] for row in rows) / len(rows), sum(row[1] for row in rows) / len(rows)

    def loss(self, number: int, batch: Any, varied: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Binary cross-entropy, the map found and the slow map on its grid; ``varied``: mirrored and cut at random."""
        call, given = self.pictures.call(batch)
        if number >= len(self.slow) or self.marks[number] != float(given.double().mean()):
            raise FitError(
                "the batches came in another order the second time: pass a list, or a DataLoader without shuffle=True"
            )
        slow, target = self.slow[number], self.targets[number]
        if varied:
            given, slow = _varied(given, slow)
        given = given.contiguous(memory_format=self.pictures.layout)
        with torch.no_grad():
            values, features, finer = self.pictures.seen(tree.replace(call, self.pictures.path, given))
            assert finer is not None
            evidence = evidence_of(self.pictures.head, self.pictures.squeeze.model, features, target, values)
        logits = self.locator.logits(features, finer, heatmap.principal(features), evidence)
        wanted = F.interpolate(slow[:, None], logits.shape[1:], mode="area")[:, 0].to(logits)
        return F.binary_cross_entropy_with_logits(logits, wanted), logits.sigmoid(), wanted


def slow_map(pictures: Pictures, call: Any, given: Tensor, target: Tensor) -> Tensor:
    """The average over windows, ``(N, KEPT, KEPT)`` in [0, 1], of what speaks for class ``target (N,)``."""
    height, width = given.shape[-2:]
    scales = []
    for share, starts in WINDOWS.items():
        total, count = torch.zeros(len(given), KEPT, KEPT, device=given.device), torch.zeros(KEPT, KEPT)
        side, high, wide = round(share * KEPT), round(share * height), round(share * width)
        for top in starts:
            for left in starts:
                y, x = round(top * height), round(left * width)
                cut = resized(given[:, :, y : y + high, x : x + wide], height, width)
                both = [pictures.speaking(call, one, target) for one in (cut, cut.flip(3))]
                found = resized(((both[0] + both[1].flip(2)) / 2)[:, None], side, side)[:, 0]
                row, column = round(top * KEPT), round(left * KEPT)
                total[:, row : row + side, column : column + side] += found
                count[row : row + side, column : column + side] += 1
        scales.append(heatmap.over_maximum(total / count.to(total)))
    return heatmap.over_maximum(torch.stack(scales).mean(0))


def _varied(given: Tensor, slow: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures and their slow maps mirrored, and cut to one window of the picture, at random and alike."""
    height, width = given.shape[-2:]
    if torch.rand(()) < 0.5:
        given, slow = given.flip(3), slow.flip(2)
    if torch.rand(()) >= CROPPED:
        return given, slow
    top, left, high, wide = random_window(height, width, SMALLEST, 1.0)
    large = resized(slow[:, None], height, width)[:, 0, top : top + high, left : left + wide]
    slow = resized(large[:, None], KEPT, KEPT)[:, 0]
    peak = slow.flatten(1).amax(1).view(-1, 1, 1)
    slow = torch.where(peak > PRESENT, slow / peak.clamp_min(PRESENT), slow)
    return resized(given[:, :, top : top + high, left : left + wide], height, width), slow
