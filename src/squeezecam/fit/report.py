"""What a fit did, measured on samples that it did not train on."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from squeezecam import vector
from squeezecam.block import IDENTITY_GATE
from squeezecam.fit.batches import class_indices
from squeezecam.fit.cache import Cache
from squeezecam.links import last_of
from squeezecam.module import Squeeze

CHUNK = 128
CHUNK_BYTES = 256 << 20
ALIKE = 1e-5
"""Largest difference between squeezed vectors of the same picture, as a share of their largest value."""


@dataclass
class FitReport:
    """The outcome of a fit; every share is measured on the held-out samples.

    Attributes:
        unchanged: share of predictions that are the model's own when the block is in the path.
        unchanged_interval: its 95 % interval (Wilson).
        accuracy_before, accuracy_after: where labels were given: accuracy, label-wise accuracy, or R² for regression.
        gate_spread: standard deviation of the gates over the channels of one sample, mean over samples.
        share_kept: share of channels that the published rule keeps: 5 %, median, 95 % of the samples.
        fallback: share of samples for which the rule kept nothing and the top tenth was taken.
        stability: overlap (Jaccard) of the channels kept for a sample and for the same sample with 5 % noise on its
        squeezed vector.
        seconds: of the feature pass and of the fit itself.
        readouts: for every output whose classification layer is no known form: R² of the class read-out on the samples
        held out (``r2``), and what it squeezes (``pools``, per stream).
        shown: the method whose map ``explain`` shows from now on where none is named.

    """

    objective: str
    train: str
    task: str
    output: str
    mode: str
    samples: int
    held_out: int
    unchanged: float
    unchanged_interval: tuple[float, float]
    gate_spread: float
    share_kept: tuple[float, float, float]
    fallback: float
    stability: float
    seconds: dict[str, float]
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)
    accuracy_before: float | None = None
    accuracy_after: float | None = None
    history: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    readouts: dict[str, dict[str, Any]] = field(default_factory=dict)
    shown: str = ""

    def as_dict(self) -> dict[str, Any]:
        """All fields as plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        low, high = self.unchanged_interval
        low_kept, median, high_kept = self.share_kept
        seconds = ", ".join(f"{name} {value:.1f} s" for name, value in self.seconds.items())
        lines = [
            f"fit: {self.objective} objective, {self.train}, {self.task} on '{self.output}', "
            f"cached {self.mode}, seed {self.seed}",
            f"samples: {self.samples} fitted on, {self.held_out} held out; {seconds}",
            f"predictions unchanged with the block in the path: {self.unchanged:.1%} "
            f"(95 % interval {low:.1%} to {high:.1%})",
            f"gates: spread {self.gate_spread:.4f}; published rule keeps {median:.1%} of the channels "
            f"(5 to 95 % of samples: {low_kept:.1%} to {high_kept:.1%}), fallback in {self.fallback:.1%}, "
            f"keep-set stability {self.stability:.2f}",
        ]
        if self.accuracy_before is not None and self.accuracy_after is not None:
            name = "R²" if self.task == "regression" else "accuracy"
            lines.append(
                f"{name} on held-out labels: {self.accuracy_before:.4f} before, {self.accuracy_after:.4f} after"
            )
        for name, found in self.readouts.items():
            pools = " and ".join(dict.fromkeys(found["pools"].values()))
            lines.append(
                f"class read-out of '{name}' (its head is no known form): R² {found['r2']:.2f} on the samples held "
                f"out, from the {pools} of each channel"
            )
        if self.shown:
            own = "" if self.shown == "published" else "; method='published' shows the channels that the gates choose"
            lines.append(f"map by default: {self.shown}{own}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def wilson(share: float, count: int) -> tuple[float, float]:
    """95 % Wilson interval of a share measured on ``count`` samples."""
    if count == 0:
        return 0.0, 1.0
    z = 1.96
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def same_prediction(before: Tensor, after: Tensor, task: str, cut: float = 0.0) -> Tensor:
    """Which samples keep their prediction, ``(n,)`` bool.

    Classification: the same top class. Multi-label: every label on the same side of ``cut``, see :func:`cut_of`.
    Regression: within a tenth of the standard deviation of the predictions.
    """
    if task == "classification":
        return before.argmax(-1).flatten() == after.argmax(-1).flatten()
    if task == "multi-label":
        same = (before > cut) == (after > cut)
        return same.flatten(1).all(1) if before.ndim > 1 else same
    spread = before.std(0, correction=0).clamp_min(1e-6)
    near = (before - after).abs() <= 0.1 * spread
    return near.flatten(1).all(1) if near.ndim > 1 else near


def cut_of(squeeze: Squeeze, output: str) -> float:
    """What the value of a label is above where the model says yes: half, where it ends with a sigmoid, else 0."""
    return 0.5 if last_of(squeeze, output) == "sigmoid" else 0.0


def accuracy(values: Tensor, labels: Tensor, task: str, cut: float = 0.0) -> float:
    """Accuracy, label-wise accuracy over the labels that are known (not NaN), or R² for regression."""
    if task == "classification":
        return float((values.argmax(-1) == class_indices(labels, values)).float().mean())
    labels = labels.to(values.dtype).reshape(values.shape)
    if task == "multi-label":
        known = ~labels.isnan()
        return float(((values > cut) == (labels > 0.5))[known].float().mean())
    residual = (values - labels).square().mean()
    return float(1 - residual / labels.var(correction=0).clamp_min(1e-12))


@torch.no_grad()
def gated_values(squeeze: Squeeze, cache: Cache, output: str, index: Tensor, strength: float = 1.0) -> Tensor:
    """Output with the block in the path for the samples in ``index``; ``strength`` multiplies the gates' logits."""
    parts = []
    for chunk in index.split(_chunk(cache)):
        factors = {
            stream: torch.sigmoid(strength * squeeze.block(stream).logits(z[chunk])) / IDENTITY_GATE
            for stream, z in cache.squeezed.items()
        }
        parts.append(cache.head(squeeze, output, chunk, factors))
    return torch.cat(parts)


def all_alike(cache: Cache) -> bool:
    """Whether every sample has the same squeezed vectors, up to the rounding of single precision."""
    for z in cache.squeezed.values():
        vectors = z.float()
        if float((vectors - vectors[:1]).abs().amax()) > ALIKE * float(vectors.abs().amax()):
            return False
    return True


def _chunk(cache: Cache) -> int:
    """Samples at once: fewer where whole clips of maps are cached."""
    each = sum(4 * maps[0].numel() for maps in cache.maps.values())
    return max(1, min(CHUNK, CHUNK_BYTES // each)) if each else CHUNK


@torch.no_grad()
def gated_windows(squeeze: Squeeze, cache: Cache, output: str, index: Tensor, strength: float = 1.0) -> Tensor:
    """The same on random windows of the samples' maps, ``(len(index) * windows, K)``; strength 0: the model itself."""
    parts = []
    count = len(next(iter(cache.windows.values()))) // len(cache)
    for draw in range(count):
        for chunk in (index + draw * len(cache)).split(CHUNK):
            vectors = {}
            for stream, z in cache.windows.items():
                gates = torch.sigmoid(strength * squeeze.block(stream).logits(z[chunk]))
                vectors[stream] = z[chunk] * (gates / IDENTITY_GATE)
            parts.append(cache.head_on(squeeze, output, vectors, chunk % len(cache)))
    return torch.cat(parts)


@torch.no_grad()
def gate_statistics(squeeze: Squeeze, cache: Cache, index: Tensor, generator: torch.Generator) -> dict[str, Any]:
    """Spread, share kept, fallback and stability over the samples in ``index``; the mean over streams."""
    rows = []
    for stream, z in cache.squeezed.items():
        block, vectors = squeeze.block(stream), z[index].flatten(0, -2)
        gates = block.gates(vectors)
        kept = vector.zscore(gates)
        noise = 1 + 0.05 * torch.randn(vectors.shape, generator=generator).to(vectors)
        again = vector.zscore(block.gates(vectors * noise)).mask
        jaccard = (kept.mask & again).sum(1) / (kept.mask | again).sum(1).clamp_min(1)
        share = kept.share
        quantiles = torch.quantile(share.float().cpu(), torch.tensor([0.05, 0.5, 0.95])).tolist()
        rows.append(
            (
                float(gates.std(1, correction=0).mean()),
                quantiles,
                float(kept.fallback.float().mean()),
                float(jaccard.mean()),
            )
        )
    count = len(rows)
    return {
        "gate_spread": sum(r[0] for r in rows) / count,
        "share_kept": tuple(sum(r[1][i] for r in rows) / count for i in range(3)),
        "fallback": sum(r[2] for r in rows) / count,
        "stability": sum(r[3] for r in rows) / count,
    }
