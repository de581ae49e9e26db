"""What the SE vectors of a trained block look like, and whether they say anything about the class."""

from __future__ import annotations

import torch
from torch import Tensor

from squeezecam import tree, vector
from squeezecam.module import Squeeze
from squeezecam.parity.samples import Samples
from squeezecam.parity.training import CHUNK
from squeezecam.tap import evaluating

HIGH, LOW = 0.95, 0.05


def collect_gates(squeeze: Squeeze, samples: Samples) -> dict[str, Tensor]:
    """SE vectors of all samples, ``(N, C)`` per stream."""
    device = next(squeeze.parameters()).device
    parts: dict[str, list[Tensor]] = {}
    with torch.no_grad(), evaluating(squeeze):
        for index in torch.arange(len(samples)).split(CHUNK):
            _, captures = squeeze.capture(tree.to_device(samples.inputs(index), device))
            for stream, seen in captures.items():
                gates = seen.gates.float().cpu()
                parts.setdefault(stream, []).append(gates if gates.ndim == 2 else gates.mean(1))
    return {stream: torch.cat(found) for stream, found in parts.items()}


def describe_gates(gates: Tensor, classes: Tensor | None = None) -> dict[str, float]:
    """Figures of SE vectors ``(N, C)``.

    * ``mean``; ``spread``: standard deviation over the channels of one sample, mean over samples.
    * ``high``, ``low``: share of gates above .95, below .05.
    * ``kept``, ``fallback``: share of channels that the published rule keeps, share of samples where it keeps nothing.
    * ``between samples``: share of the variance of the gates that lies between samples (the rest is between channels,
      the same for every sample: no such vector can tell one picture from another).
    * ``between classes``: of the variance between samples, the share that lies between classes ``(N,)``, mean over the
      channels weighted by their variance. What classes of that size explain by chance is taken off (epsilon squared).
    """
    gates = gates.double()
    kept = vector.zscore(gates)
    overall = gates.mean(0)
    within = (gates - overall).square().mean(0)
    total = (gates - gates.mean()).square().mean()
    found = {
        "mean": float(gates.mean()),
        "spread": float(gates.std(1, correction=0).mean()),
        "high": float((gates > HIGH).double().mean()),
        "low": float((gates < LOW).double().mean()),
        "kept": float(kept.share.mean()),
        "fallback": float(kept.fallback.double().mean()),
        "between samples": float(within.mean() / total) if total > 1e-14 else float("nan"),
    }
    if classes is not None:
        found["between classes"] = _between(gates, classes)
    return found


def _between(gates: Tensor, classes: Tensor) -> float:
    kinds = classes.unique()
    count = len(gates)
    squares = (gates - gates.mean(0)).square().sum()
    if squares <= 1e-14 * gates.numel() or not 1 < len(kinds) < count:
        return float("nan")
    inside = sum(
        ((gates[classes == kind] - gates[classes == kind].mean(0)).square().sum() for kind in kinds),
        start=torch.zeros((), dtype=gates.dtype),
    )
    chance = (len(kinds) - 1) / (count - len(kinds)) * inside
    return float(((squares - inside - chance) / squares).clamp_min(0))
