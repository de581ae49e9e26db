"""Fitting the refiner: masks that the frozen model confirms, learned without labels.

For every picture the mask goes through the model three times: the picture times the mask (what *average drop* and ADCC
measure), the masked share put into a blurred picture (insertion) and cut out of the picture (deletion), for a share of
the pixels drawn anew each time. The loss asks for the probability of the model's own prediction to stay, to rise and to
fall, by a mask of small area that comes out again when the masked picture is explained (coherency). Pictures are
mirrored and cut at random, so that a thousand go a long way. Gradients run through the frozen model here, at fit time,
and nowhere else.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from squeezecam import tree
from squeezecam.errors import FitError, InputError
from squeezecam.fit.batches import Pick, split
from squeezecam.fit.progress import Progress
from squeezecam.head import Head
from squeezecam.heatmap import at_least_float32
from squeezecam.metrics.baseline import baseline
from squeezecam.metrics.normalise import min_max
from squeezecam.module import Squeeze
from squeezecam.readout import ReadoutHead
from squeezecam.refiner import Refiner, check_refinable, refined_map
from squeezecam.tap import evaluating

Call = tuple[tuple[Any, ...], dict[str, Any]]

SOFTNESS = 0.05
"""Width of the soft threshold that cuts a share of the pixels out of a mask of range 1."""
SHARES = (0.1, 0.9)
CONFIRMING, ORDERING, STAYING = 2.0, 2.0, 0.5
"""Weights in the loss: of ADCC, of insertion less deletion, and of the probability that the masked picture keeps, which
alone goes on rising where nothing drops any more."""
CROPPED, SMALLEST = 0.5, 0.6
"""Share of the batches that are cut to a window and enlarged again, and the window's smallest side as a share."""
LOOKED_AT = 16
"""Batches that the mean and deviation of the features are taken from."""
FASTER = 10.0
"""How much faster slope and balance of the refiner learn."""


@dataclass
class RefineReport:
    """What a refiner's fit did.

    ``before`` and ``after`` are means over held-out pictures: ``drop`` of the probability under the mask, ``area``,
    ``coherency``, ``insertion`` and ``deletion`` probability at half the pixels, and the ``loss`` that decides.
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
    epochs: int = 6,
    lr: float = 1e-3,
    hold_out: float = 0.15,
    width: int = 8,
    hidden: int = 16,
    factor: int = 2,
    decay: float = 0.01,
    seed: int = 0,
    progress: bool | None = None,
) -> RefineReport:
    """Fit the refiner of one output, without labels; ``explain(method="refined")`` shows its maps from then on.

    It takes about eleven passes a picture and epoch, so minutes where the block takes seconds.

    Args:
        squeeze: with one stream whose maps have height and width, and class evidence: a classification layer of a known
            form, or a read-out from ``squeeze.fit``.
        batches: pictures in batches, in mixed order, gone through several times: a list or a ``DataLoader``.
        inputs: says what in a batch is the input; the usual ``(x, y)`` is understood.
        output: name of the output to explain, where there are several.
        epochs, lr, decay: of AdamW; the epoch with the lowest loss on held-out batches is kept.
        hold_out: share of the batches (at least one) that decides which epoch that is.
        width, hidden, factor: of the :class:`~squeezecam.refiner.Refiner`.
        seed: of everything random.
        progress: a bar on standard error; None: where that is a terminal.

    Raises:
        FitError: fewer than two batches, or batches that cannot be gone through twice.
        InputError: no class evidence, no map with height and width, one value instead of classes.

    """
    name = squeeze.output_name(output)
    head = squeeze.evidence(name)
    if head is None:
        raise InputError(
            f"refining starts from class evidence, and output '{name}' has none: its classification layer is of no "
            "known form; squeeze.fit(batches) makes a read-out"
        )
    if len(squeeze.places) > 1:
        raise InputError(f"the refiner is for one stream, this model has {', '.join(squeeze.places)}")
    place = next(iter(squeeze.places.values()))
    check_refinable(len(place.grid), name)
    if iter(batches) is batches:
        raise FitError("refining goes over the data several times: pass a list or a DataLoader, not an iterator")
    total = len(batches) if isinstance(batches, Sized) else sum(1 for _ in batches)
    held = max(1, round(total * hold_out))
    if total < 2:
        raise FitError(f"refining needs at least two batches, one of them to stop by: got {total}")
    if epochs < 1:
        raise InputError(f"epochs must be at least 1, got {epochs}")
    started = time.perf_counter()
    reference = next(squeeze.parameters())
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
        torch.manual_seed(seed)
        refiner = Refiner(name, place.channels, width=width, hidden=hidden, factor=factor).to(reference.device)
        fitting = _Fitting(squeeze, head, refiner, name, inputs)
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
            rates = [2 * lr, 2 * lr * FASTER]
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rates, total_steps=steps, pct_start=0.2)
            with bar.task("refine", steps) as advance:
                for epoch in range(epochs):
                    refiner.train()
                    fitting.samples = 0
                    for batch in _after(batches, held):
                        loss = fitting.loss(batch, None, varied=True)["loss"]
                        optimiser.zero_grad()
                        loss.backward()
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
    """What a fit has at hand: the model, its head, the refiner."""

    def __init__(
        self, squeeze: Squeeze, head: Head | ReadoutHead, refiner: Refiner, output: str, inputs: Pick | None
    ) -> None:
        self.squeeze, self.head, self.refiner, self.output, self.pick = squeeze, head, refiner, output, inputs
        self.samples = self.held = 0
        self.layout = torch.contiguous_format
        stream = next(iter(squeeze.places))
        self.path = squeeze.input_paths[stream]

    def look(self, batches: Iterable[Any], held: int) -> None:
        """Mean and deviation of the features over a few batches, and how many samples are held out."""
        seen, sums, squares = 0, None, None
        for number, batch in enumerate(batches):
            if number == held + LOOKED_AT:
                break
            if number == 0:
                self.layout = self._faster_layout(batch)
            call, pictures = self._call(batch)
            if number < held:
                self.held += len(pictures)
                continue
            flat = self._capture(call)[1].transpose(0, 1).flatten(1).double()
            sums = flat.sum(1) if sums is None else sums + flat.sum(1)
            squares = flat.square().sum(1) if squares is None else squares + flat.square().sum(1)
            seen += flat.shape[1]
        assert sums is not None
        assert squares is not None
        mean = sums / seen
        self.refiner.standardise(mean, (squares / seen - mean.square()).clamp_min(0).sqrt())

    def _faster_layout(self, batch: Any) -> torch.memory_format:
        """Channels last where that is faster, on a CPU, and the model takes it (``view`` may not)."""
        call, pictures = self._call(batch)
        if pictures.device.type != "cpu":
            return torch.contiguous_format
        last = torch.channels_last
        try:
            self._capture(tree.replace(call, self.path, pictures.contiguous(memory_format=last)))
        except RuntimeError:
            return torch.contiguous_format
        return last

    def validate(self, batches: Iterable[Any], held: int) -> dict[str, float]:
        """Means over the first ``held`` batches, at fixed shares."""
        self.refiner.eval()
        rows: list[dict[str, float]] = []
        with torch.no_grad():
            for number, batch in enumerate(batches):
                if number >= held:
                    break
                found = [self.loss(batch, share) for share in (0.2, 0.5)]
                rows.append({k: sum(float(f[k]) for f in found) / len(found) for k in found[0]})
        return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}

    def loss(self, batch: Any, share: float | None, varied: bool = False) -> dict[str, Tensor]:
        """The loss and its parts for one batch; ``share`` None: drawn for every sample; ``varied``: cut, mirrored."""
        call, pictures = self._call(batch)
        self.samples += len(pictures)
        pictures = (_varied(pictures) if varied else pictures).contiguous(memory_format=self.layout)
        call = tree.replace(call, self.path, pictures)
        values, features = self._capture(call)
        target = values.argmax(1)
        full = self._probability(values, target)
        masks = refined_map(self.refiner, self.head, self.squeeze.model, features, target, values)
        large = F.interpolate(masks[:, None], pictures.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
        soft = min_max(large)
        chosen = _cut(soft, torch.full((len(soft),), share) if share else _shares(len(soft)))[:, None]
        masked = pictures * soft[:, None]
        put_in = torch.where(chosen > 0, chosen * pictures + (1 - chosen) * baseline(pictures, "blur"), pictures)
        cut_out = (1 - chosen) * pictures + chosen * baseline(pictures, "mean")
        kept, risen, fallen = (self._ask(call, changed, target) for changed in (masked, put_in, cut_out))
        drop, area = ((full - kept).relu() / full.clamp_min(1e-6)).clamp_max(0.999), soft.flatten(1).mean(1)
        alike = self._coherency(call, masked, masks, target)
        confirmed = 3 / (1 / alike + 1 / (1 - area).clamp_min(1e-3) + 1 / (1 - drop))
        loss = -ORDERING * (risen - fallen).mean() - CONFIRMING * confirmed.mean() - STAYING * kept.mean()
        return {
            "loss": loss, "drop": drop.mean(), "area": area.mean(), "coherency": alike.mean(),
            "insertion": risen.mean(), "deletion": fallen.mean(),
        }  # fmt: skip

    def _coherency(self, call: Call, masked: Tensor, masks: Tensor, target: Tensor) -> Tensor:
        """How much the mask of the masked picture is like the mask, ``(N,)`` in (0, 1].

        The features of the masked picture count as given: the gradient goes through what the refiner makes of them.
        """
        values, features = self._capture(tree.replace(call, self.path, masked.detach()))
        again = refined_map(self.refiner, self.head, self.squeeze.model, features, target, values)
        first, second = (m.flatten(1) - m.flatten(1).mean(1, keepdim=True) for m in (masks, again))
        length = (first.square().sum(1) * second.square().sum(1)).clamp_min(1e-12).sqrt()
        return ((first * second).sum(1) / length + 1).clamp_min(0.02) / 2

    def _call(self, batch: Any) -> tuple[Call, Tensor]:
        given, _ = split(batch, self.squeeze.positional, self.pick, None)
        device = next(self.squeeze.parameters()).device
        call = tree.as_call(tree.to_device(given, device))
        try:
            pictures = tree.get(call, self.path)
        except (KeyError, IndexError, TypeError):
            pictures = None
        if not isinstance(pictures, Tensor) or pictures.ndim != 4 or not pictures.is_floating_point():
            raise InputError("the refiner masks pictures: expected a float tensor (N, C, H, W) as the model's input")
        return call, pictures

    def _capture(self, call: Call) -> tuple[Tensor, Tensor]:
        """Values ``(N, K)`` of the output and features, without gradients."""
        with torch.no_grad():
            result, seen = self.squeeze.capture(call[0] or call[1])
            capture = next(iter(seen.values()))
            features = at_least_float32(capture.features)
            if self.squeeze.apply_mode == "gate":
                features = features * (2 * capture.gates).view(*capture.gates.shape, 1, 1)
            values = self.squeeze.select(result, self.output)
        if values.ndim != 2 or values.shape[1] < 2:
            raise InputError(
                f"output '{self.output}' has shape {tuple(values.shape)}; refining needs classes (N, K), K at least 2"
            )
        return values.float(), features

    def _ask(self, call: Call, pictures: Tensor, target: Tensor) -> Tensor:
        args, kwargs = tree.replace(call, self.path, pictures)
        return self._probability(self.squeeze.select(self.squeeze(*args, **kwargs), self.output).float(), target)

    def _probability(self, values: Tensor, target: Tensor) -> Tensor:
        known = self.head.link in ("softmax", "sigmoid")
        values = values if known else values.exp() if self.head.link == "log-softmax" else values.softmax(1)
        return values.gather(1, target[:, None])[:, 0]


def _cut(masks: Tensor, shares: Tensor) -> Tensor:
    """Soft selection ``(N, H, W)`` of the given shares ``(N,)`` of the pixels with the highest values.

    The threshold moves with the mask, so that raising all values gains nothing.
    """
    flat = masks.flatten(1)[:, ::7]
    places = (shares.to(flat.device) * (flat.shape[1] - 1)).long()
    levels = flat.sort(1, descending=True).values.gather(1, places[:, None])
    return torch.sigmoid((masks - levels[:, :, None]) / SOFTNESS)


def _varied(pictures: Tensor) -> Tensor:
    """A batch ``(N, C, H, W)``, half of the time mirrored, and as often cut to one random window of its proportions."""
    if torch.rand(()) < 0.5:
        pictures = pictures.flip(3)
    if torch.rand(()) >= CROPPED:
        return pictures
    height, width = pictures.shape[-2:]
    side = SMALLEST + (1 - SMALLEST) * float(torch.rand(()))
    high, wide = max(1, round(side * height)), max(1, round(side * width))
    top, left = (int(torch.randint(0, room + 1, ())) for room in (height - high, width - wide))
    window = pictures[:, :, top : top + high, left : left + wide]
    return F.interpolate(window, (height, width), mode="bilinear", align_corners=False)


def _shares(count: int) -> Tensor:
    return torch.rand(count) * (SHARES[1] - SHARES[0]) + SHARES[0]


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
