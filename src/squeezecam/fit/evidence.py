"""Class read-outs for the outputs whose head is no known form: what is collected for them, and the fit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from squeezecam.block import IDENTITY_GATE, squeeze_positions
from squeezecam.errors import FitError
from squeezecam.frames import fold_time, time_axis
from squeezecam.layout import Layout
from squeezecam.module import Squeeze
from squeezecam.readout import Fitted, Pool, Readout, ReadoutHead, fit, pool_for, position_features
from squeezecam.tap import evaluating

if TYPE_CHECKING:
    from squeezecam.fit.cache import Cache

CHUNK = 64
ALIKE = 0.02
"""How far an output may be from the one that was collected, as a share of it: maps are kept in half precision."""


@dataclass
class Evidence:
    """Samples to fit read-outs on, batch by batch.

    Attributes:
        pools: ``{stream: what is squeezed}``.
        vectors: ``{stream: [(n, C) or (n, T, C)]}``, squeezed as the read-out squeezes; ``2 C`` for contrasts.
        answers: ``{output: [(n, K) or (n, T, K)]}``, of the outputs without a known head.

    """

    pools: dict[str, Pool]
    vectors: dict[str, list[Tensor]] = field(default_factory=dict)
    answers: dict[str, list[Tensor]] = field(default_factory=dict)

    @classmethod
    def of(cls, squeeze: Squeeze) -> Evidence:
        """Nothing yet, for the outputs of ``squeeze`` that need a read-out."""
        answers: dict[str, list[Tensor]] = {name: [] for name in squeeze.outputs if squeeze.head(name) is None}
        if not answers:
            return cls({})
        return cls({s: pool_for(squeeze.aggregates.get(s, "mean")) for s in squeeze.places}, {}, answers)

    def add(self, squeeze: Squeeze, features: dict[str, Tensor], result: Any, good: Tensor) -> None:
        """The samples of one batch: canonical features of the samples that are ``good``, and what the model said."""
        frames = 0
        for name, kept in self.answers.items():
            values = squeeze.select(result, name)[good].float()
            frames = values.shape[1] if values.ndim == 3 else frames
            kept.append(values)
        if not self.answers:
            return
        for stream, pool in self.pools.items():
            if stream in features:
                layout = squeeze.places[stream].layout
                found = squeezed(features[stream], layout, pool, per_frame=squeeze.per_frame, frames=frames)
                self.vectors.setdefault(stream, []).append(found)


def squeezed(features: Tensor, layout: Layout, pool: Pool, *, per_frame: bool, frames: int) -> Tensor:
    """Vectors ``(N, C)`` of canonical features, or ``(N, T, C)`` where the gates or the ``frames`` scores of the output
    are per frame; what counts at a position is what ``explain`` will take there.
    """
    axis = time_axis(layout)
    seen = position_features(fold_time(features, layout) if per_frame else features, pool)
    if not per_frame:
        if axis is None or not frames or features.shape[axis] != frames:
            return squeeze_positions(seen)
        seen = fold_time(seen, layout)
    of_frames: Tensor = squeeze_positions(seen).unflatten(0, (len(features), -1))
    return of_frames


@torch.no_grad()
def read_out(squeeze: Squeeze, cache: Cache, held: Tensor, *, gated: bool) -> tuple[dict[str, Any], list[str]]:
    """Fit the class read-outs and give them to ``squeeze``; what the report says of them, and notes.

    Args:
        squeeze: whose read-outs are replaced.
        cache: of :func:`squeezecam.fit.collecting.collect`.
        held: indices of the samples that R squared is measured on, and nothing else.
        gated: whether gates that were trained stand in the path, so that the read-out has to hold for gated features.

    """
    factors, answers, said_before = None, {}, []
    if gated and cache.evidence.answers:
        factors = {s: squeeze.block(s).gates(z) / IDENTITY_GATE for s, z in cache.squeezed.items()}
        for name in _not_of_the_map(squeeze, cache):
            del cache.evidence.answers[name]
            said_before.append(f"no class read-out of '{name}': it depends on more than the map that the fit kept")
        answers = _answers(squeeze, cache, factors)
    found, notes = fit_readouts(squeeze, cache.evidence, held, factors, answers)
    notes = said_before + notes
    squeeze.set_readouts(found)
    said = {
        readout.output: {"r2": readout.r2, "pools": {stream: readout[stream].pool for stream in readout}}
        for readout in found
    }
    return said, notes


def _not_of_the_map(squeeze: Squeeze, cache: Cache) -> list[str]:
    """Outputs that the head, run on what is cached, does not give: one that is made of an earlier map, say."""
    index = torch.arange(min(CHUNK, len(cache)))
    with evaluating(squeeze):
        result = cache.run(cache.raws(squeeze, index), index)
    found = []
    for name, kept in cache.evidence.answers.items():
        given = torch.cat([part[: len(index)] for part in kept[: len(index)]])[: len(index)]
        again = squeeze.select(result, name).float()
        if float((again - given).abs().amax()) > ALIKE * float(given.abs().amax()):
            found.append(name)
    return found


def _answers(squeeze: Squeeze, cache: Cache, factors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the model says with its channels scaled by ``factors``, for every output that needs a read-out."""
    parts: dict[str, list[Tensor]] = {name: [] for name in cache.evidence.answers}
    with evaluating(squeeze):
        for chunk in torch.arange(len(cache)).split(CHUNK):
            raws = cache.raws(squeeze, chunk, {s: f[chunk] for s, f in factors.items()})
            result = cache.run(raws, chunk)
            for name, kept in parts.items():
                kept.append(squeeze.select(result, name))
    return {name: torch.cat(kept) for name, kept in parts.items()}


def fit_readouts(
    squeeze: Squeeze, evidence: Evidence, held: Tensor, factors: dict[str, Tensor] | None, answers: dict[str, Tensor]
) -> tuple[list[Readout], list[str]]:
    """A read-out for every output without a known head, and what has to be said.

    Args:
        squeeze: for places and outputs.
        evidence: what was collected.
        held: indices of the samples that R squared is measured on, and nothing else.
        factors: ``{stream: (M, C)}`` by which the channels are scaled in the path; None: by nothing.
        answers: ``{output: values}`` in place of those collected, where the path has changed since.

    """
    found: list[Readout] = []
    notes: list[str] = []
    for output, kept in evidence.answers.items():
        values = answers.get(output)
        values = torch.cat(kept) if values is None else values.float()
        vectors = {stream: torch.cat(parts) for stream, parts in evidence.vectors.items()}
        if not vectors or any(len(z) != len(values) for z in vectors.values()):
            notes.append(f"no class read-out of '{output}': not every batch ran every stream")
            continue
        if factors is not None:
            vectors = {s: _scaled(z, factors[s], evidence.pools[s]) for s, z in vectors.items()}
        apart = torch.zeros(len(values), dtype=torch.bool, device=values.device)
        apart[held] = True
        values, link = logits_of(values, "identity" if output in squeeze.binary else squeeze.links.get(output))
        rows, vectors, apart = matched(values, vectors, apart)
        try:
            pool: Pool = "contrast" if "contrast" in evidence.pools.values() else "mean"
            fitted = fit(torch.cat(list(vectors.values()), 1), rows, held=apart, pool=pool)
        except FitError as error:
            notes.append(f"no class read-out of '{output}': {error}")
            continue
        found.append(_readout(squeeze, output, fitted, vectors, evidence.pools, link))
        doubt = found[-1].first.doubt()
        notes += [f"'{output}': {doubt}"] if doubt else []
    return found, notes


def matched(values: Tensor, vectors: dict[str, Tensor], apart: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """One row of scores per vector: a frame is a sample where scores and all streams have the same frames, else the
    mean over the frames stands for the clip.
    """
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim == 3 and all(z.ndim == 3 and z.shape[1] == values.shape[1] for z in vectors.values()):
        apart = apart.repeat_interleave(values.shape[1])
        return values.flatten(0, 1), {s: z.flatten(0, 1) for s, z in vectors.items()}, apart
    rows = values.mean(1) if values.ndim == 3 else values
    return rows, {s: z.mean(1) if z.ndim == 3 else z for s, z in vectors.items()}, apart


def logits_of(values: Tensor, link: str | None = None) -> tuple[Tensor, str]:
    """Scores to fit on and what stands between them and the output: of what a sigmoid gave (``link``) what it was
    given, of probabilities that add up to 1 the logarithms, less their mean over the classes, which is what the softmax
    was given, less its mean.
    """
    if link == "sigmoid":
        return torch.logit(values, 1e-6), "sigmoid"
    several = values.ndim > 1 and values.shape[-1] > 1
    if several and bool((values >= 0).all()) and bool(((values.sum(-1) - 1).abs() < 1e-3).all()):
        logs = values.clamp_min(1e-6).log()
        return logs - logs.mean(-1, keepdim=True), "softmax"
    return values, "identity"


def _scaled(vectors: Tensor, factors: Tensor, pool: Pool) -> Tensor:
    """What the vectors are once the channels are scaled: contrasts are squares, of two sides."""
    if pool == "contrast":
        factors = torch.cat([factors, factors], -1).square()
    if vectors.ndim == 3 and factors.ndim == 2:
        factors = factors[:, None]
    return vectors * factors


def _readout(
    squeeze: Squeeze, output: str, fitted: Fitted, vectors: dict[str, Tensor], pools: dict[str, Pool], link: str
) -> Readout:
    weights = fitted.weight.split([z.shape[-1] for z in vectors.values()], 1)
    path = squeeze.outputs[output]
    return Readout(
        {
            stream: ReadoutHead(output, path, weight, fitted.bias, fitted.r2, pools[stream], link)
            for stream, weight in zip(vectors, weights, strict=True)
        }
    )
