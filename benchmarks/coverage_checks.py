"""What must hold for any model: the checks of the coverage sweep, on one model and one example."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import squeezecam
from squeezecam import tree
from squeezecam.module import Squeeze

MAX_ATTACH_CALLS = 3
NOISE = 100.0
"""The spread of a map has to be this many times what rounding makes of it."""


@dataclass
class Outcome:
    """The checks by name with True or False, what was found, and what is worth saying."""

    checks: dict[str, bool] = field(default_factory=dict)
    site: str = ""
    grid: tuple[int, ...] = ()
    channels: int = 0
    head: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return bool(self.checks) and all(self.checks.values())


def check(model: nn.Module, example: Any, *, size: tuple[int, ...] | None = None, at: Any = None) -> Outcome:
    """Attach to ``model`` without a hint and check everything that has to hold; ``example`` has at least two samples.

    Args:
        model: any classifier. Layers that start at zero are drawn anew, in place.
        example: tensor, tuple or dict with a batch of at least two.
        size: expected size of the heatmap; None: the trailing axes of the input.
        at: a hint, for models that need one.

    """
    model.eval()
    redraw_zeros(model)
    outcome = _checked(model, example, size, at)
    if not outcome.passed and calibrate(model, example):  # random weights can fade or explode on the way
        outcome = _checked(model, example, size, at)
        outcome.notes.append("batch norms calibrated")
    return outcome


def _checked(model: nn.Module, example: Any, size: tuple[int, ...] | None, at: Any) -> Outcome:
    outcome = Outcome()
    args, kwargs = tree.as_call(example)
    with torch.no_grad():
        plain = model(*args, **kwargs)
    calls = _Calls(model)
    squeeze = squeezecam.attach(model, example, at=at)
    outcome.checks["attach"] = calls.count <= MAX_ATTACH_CALLS
    describe(squeeze, outcome)
    calls.count = 0
    explained = squeeze.explain(example)
    outcome.checks["one pass"] = calls.count == 1
    calls.remove()
    outcome.checks["observe"] = same(plain, explained.output)
    gate(squeeze, args, kwargs, plain, outcome)
    alone = squeeze.explain(first_sample(example))
    maps(squeeze, explained, alone, size, outcome)
    return outcome


def gate(squeeze: Squeeze, args: Any, kwargs: Any, plain: Any, outcome: Outcome) -> None:
    """Identity at the start, and in the path afterwards, on every stream by itself."""
    squeeze.apply_mode = "gate"
    squeeze.eval()
    with torch.no_grad():
        output, seen = squeeze.capture(args if args else kwargs)
        outcome.checks["gate identity"] = same(plain, output)
        before = squeeze.select(plain)
        outcome.checks["gate acts"] = True
        for stream in squeeze.places:
            weight, vector = squeeze.block(stream).expand.weight, seen[stream].squeezed[0]
            squeeze.block(stream).reduce.weight.copy_(vector / vector.square().sum().clamp_min(1e-30))  # hidden at 1
            weight.normal_(0, 4 / math.sqrt(weight.shape[1]), generator=torch.Generator().manual_seed(1))
            after = squeeze.select(squeeze(*args, **kwargs))
            change = (after - before).abs().amax() / before.abs().amax().clamp_min(1e-12)
            if not change > 1e-6:
                outcome.checks["gate acts"] = False
                outcome.notes.append(f"{stream}: other gates change the output by {float(change):.1e} of its maximum")
            weight.zero_()
    squeeze.apply_mode = "observe"


def maps(squeeze: Squeeze, explained: Any, alone: Any, size: tuple[int, ...] | None, outcome: Outcome) -> None:
    """Finite, as large as the input, per sample, and more than rounding noise."""
    heatmaps = explained.heatmap if isinstance(explained.heatmap, dict) else {"map": explained.heatmap}
    outcome.checks.update({"finite": True, "size": True, "per sample": True, "above noise": True})
    for stream, heatmap in heatmaps.items():
        several = isinstance(explained.heatmap, dict)
        raw = explained.raw[stream] if several else explained.raw
        single = alone.raw[stream] if several else alone.raw
        if size is not None and tuple(heatmap.shape[1:]) != tuple(size):
            outcome.checks["size"] = False
            outcome.notes.append(f"{stream}: the heatmap is {tuple(heatmap.shape[1:])}, the input {size}")
        if not bool(raw.isfinite().all()) or not bool(heatmap.isfinite().all()):
            outcome.checks["finite"] = False
            outcome.notes.append(f"{stream}: not finite")
            continue
        spread = float(raw[0].amax() - raw[0].amin())
        peak = float(raw[0].abs().amax())
        noise = float((raw[0] - single[0]).abs().amax())
        if noise > 1e-4 * peak:
            outcome.checks["per sample"] = False
            outcome.notes.append(f"{stream}: differs by {noise / max(peak, 1e-30):.1e} of its maximum when alone")
        floor = NOISE * max(noise, float(torch.finfo(torch.float32).eps) * peak)
        if not spread > floor:
            outcome.checks["above noise"] = False
            outcome.notes.append(f"{stream}: spread {spread:.1e}, rounding {floor / NOISE:.1e}")


def describe(squeeze: Squeeze, outcome: Outcome) -> None:
    """The place of the (first) block and the head, for the table."""
    place = next(iter(squeeze.places.values()))
    outcome.site = " ".join(f"{p.module}.{p.when} [{p.layout}]" for p in squeeze.places.values())
    outcome.grid, outcome.channels = place.grid, place.channels
    head = squeeze.head()
    outcome.head = head.kind if head is not None else "-"


def same(one: Any, two: Any) -> bool:
    """Whether two results are equal to the bit, NaN in the same places included."""
    first, second = tree.leaves(one), tree.leaves(two)
    return len(first) == len(second) and all(
        p == q and a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num())
        for (p, a), (q, b) in zip(first, second, strict=True)
    )


def first_sample(example: Any) -> Any:
    """The example with its first sample only."""
    args, kwargs = tree.as_call(example)
    batch = tree.batch_size(args, kwargs)
    for path, tensor in tree.leaves(example):
        if tensor.ndim and tensor.shape[0] == batch:
            example = tree.replace(example, path, tensor[:1])
    return example


def redraw_zeros(model: nn.Module) -> None:
    """Draw layers that start at zero anew, and open layer scales that start near zero: such a model answers the same to
    everything.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.is_floating_point() or parameter.numel() < 2:
                continue
            low, high = float(parameter.amin()), float(parameter.amax())
            if low != high or abs(low) > 1e-3:
                continue
            leaf = name.rpartition(".")[2]
            if leaf == "weight" and parameter.ndim >= 2:
                parameter.normal_(0, 0.02, generator=generator)
            elif low != 0 or (leaf == "weight" and parameter.ndim == 1) or "gamma" in leaf or "scale" in leaf:
                parameter.fill_(0.5)


def calibrate(model: nn.Module, example: Any) -> bool:
    """Give batch norms the statistics of ``example``; False where there are none or they cannot be had."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not norms:
        return False
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum, norm.eps = 1.0, 1e-30  # features may have faded below the usual constant
        norm.train()
    args, kwargs = tree.as_call(example)
    try:
        with torch.no_grad():
            model(*args, **kwargs)
    except ValueError:  # one value per channel has no variance
        return False
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.eval()
    return True


class _Calls:
    """Counts the forward calls of a module."""

    def __init__(self, model: nn.Module) -> None:
        self.count = 0
        self.handle = model.register_forward_pre_hook(self._seen)

    def _seen(self, module: nn.Module, args: Any) -> None:
        self.count += 1

    def remove(self) -> None:
        self.handle.remove()


def random_like(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Inputs with structure at several scales, so that maps have something to show."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(shape, generator=generator)
    if len(shape) < 3:
        return noise
    rank = len(shape) - 2
    coarse = torch.randn((*shape[:2], *[4] * rank), generator=generator)
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}.get(rank)
    if mode is None:
        return noise
    return noise * 0.3 + torch.nn.functional.interpolate(coarse, shape[2:], mode=mode)
