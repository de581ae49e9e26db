"""What the tests on an accelerator share: moving things there, and holding what comes from there against the CPU."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

import squeezecam
from squeezecam import tree
from squeezecam.data.demo import DemoImages
from squeezecam.explanation import Explanation
from squeezecam.models.demo import demo_model

TOLERANCE = 2e-4
"""Of the largest value: float32, summed in another order in every layer."""
NEAR_THRESHOLD = 0.02
"""Share of the channels that may lie so near the keep rule's threshold that rounding decides."""


def demo_pictures(count: int, split: str = "test") -> Tensor:
    """Pictures as the demo network takes them."""
    return DemoImages(split, count, seed=1).batch(range(count)).images


def demo_on(device: torch.device) -> nn.Module:
    """The demo network there."""
    return demo_model()[0].to(device)


def moved(value: Any, device: torch.device) -> Any:
    """Tensors, or anything that holds tensors, there; modules as copies."""
    return copy.deepcopy(value).to(device) if isinstance(value, nn.Module) else tree.to_device(value, device)


def lies_on(value: Any, device: torch.device) -> None:
    """All tensors in ``value`` lie on ``device``."""
    assert {tensor.device for _, tensor in tree.leaves(value)} == {device}


def agree(found: Any, expected: Any, tolerance: float = TOLERANCE) -> None:
    """Tensors, or nests of them, agree within ``tolerance`` of the largest value; NaN only where NaN is expected."""
    pairs = list(zip(tree.leaves(found), tree.leaves(expected), strict=True))
    assert pairs
    for (path, one), (_, other) in pairs:
        one, other = (tensor.detach().cpu().double() for tensor in (one, other))
        assert one.shape == other.shape, path
        assert torch.equal(one.isnan(), other.isnan()), path
        one, other = one.nan_to_num(), other.nan_to_num()
        if other.numel():
            assert float((one - other).abs().max()) <= tolerance * max(float(other.abs().max()), 1e-6), path


def explained_alike(found: Explanation, expected: Explanation, tolerance: float = TOLERANCE) -> None:
    """Outputs and gates agree, and so do the maps of the samples for which the same channels were kept."""
    assert found.method == expected.method
    assert found.status == expected.status
    agree(found.scores, expected.scores, tolerance)
    for stream in expected.streams():
        one, other = (_of(e, stream) for e in (found, expected))
        agree(one["gates"], other["gates"], tolerance)
        differ = (one["kept"].cpu() != other["kept"].cpu()).flatten(1)
        assert float(differ.float().mean()) <= NEAR_THRESHOLD
        same = ~differ.any(1)
        assert bool(same.any())
        for name in ("raw", "heatmap"):
            agree(one[name].cpu()[same], other[name].cpu()[same], 5 * tolerance)  # a map is a small part of large sums


def _of(explanation: Explanation, stream: str) -> dict[str, Tensor]:
    names = ("gates", "kept", "raw", "heatmap")
    parts = {name: getattr(explanation, name) for name in names}
    return {name: part[stream] if isinstance(part, dict) else part for name, part in parts.items()}


def correlation(found: Tensor, expected: Tensor) -> float:
    """The lowest over the samples ``(N, *S)``."""
    one, other = (m.detach().cpu().double().flatten(1) for m in (found, expected))
    one, other = (m - m.mean(1, keepdim=True) for m in (one, other))
    return float(((one * other).sum(1) / (one.norm(dim=1) * other.norm(dim=1)).clamp_min(1e-12)).min())


def generator_state(device: torch.device) -> Tensor:
    """Where the random numbers of the device stand."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.random.get_rng_state()


def quietly_fitted(squeeze: squeezecam.Squeeze, batches: list[Any], **options: Any) -> squeezecam.Squeeze:
    """The same, fitted."""
    squeeze.fit(batches, progress=False, **options)
    return squeeze
