"""The four controls, maps without selection or without a look at the model, and the package's own in the same form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from squeezecam import heatmap, tree
from squeezecam.canvas import one_stream
from squeezecam.change import AGGREGATE as CHANGE
from squeezecam.errors import InputError
from squeezecam.methods import METHODS, options_of
from squeezecam.metrics.controls import all_channel_mean, centred_gaussian, random_channels, random_map
from squeezecam.module import Squeeze
from squeezecam.peers.method import MapMethod, Run
from squeezecam.sizes import size_under
from squeezecam.tap import evaluating

SHARE = 0.1
_Native = Callable[[Tensor, Sequence[int]], Tensor]


def own(name: str) -> Run:
    """A map of :func:`squeezecam.explanation.explain`."""
    options: dict[str, Any] = dict(options_of(name))

    def run(
        squeeze: Squeeze,
        inputs: Any,
        target: Tensor | None,
        *,
        output: str | None = None,
        seeds: Sequence[int] | None = None,
        stream: str | None = None,
    ) -> Tensor:
        which = one_stream(squeeze, stream)
        found = squeeze.explain(inputs, target=target, output=output, **options).heatmap
        maps: Tensor = found[which] if isinstance(found, dict) else found
        return maps

    return run


def _on_features(native: _Native) -> Run:
    """A control made of the features, enlarged as our maps are; of positive parts where the mean would cancel."""

    def run(
        squeeze: Squeeze,
        inputs: Any,
        target: Tensor | None,
        *,
        output: str | None = None,
        seeds: Sequence[int] | None = None,
        stream: str | None = None,
    ) -> Tensor:
        which = one_stream(squeeze, stream)
        with torch.no_grad(), evaluating(squeeze):
            _, captures = squeeze.capture(inputs)
        features = captures[which].features.relu() if squeeze.signed[which] else captures[which].features
        maps = native(features, _seeds(seeds, len(features)))
        return heatmap.upsample(maps, _size(squeeze, inputs, which)).clamp_min(0)

    return run


def _without_model(
    squeeze: Squeeze,
    inputs: Any,
    target: Tensor | None,
    *,
    output: str | None = None,
    seeds: Sequence[int] | None = None,
    stream: str | None = None,
) -> Tensor:
    count, device = _batch(inputs)
    which = one_stream(squeeze, stream)
    grid = squeeze.places[which].grid
    maps = torch.cat([random_map(1, grid, _generator(seed)) for seed in _seeds(seeds, count)])
    return heatmap.upsample(maps.to(device), _size(squeeze, inputs, which)).clamp_min(0)


def _gaussian(
    squeeze: Squeeze,
    inputs: Any,
    target: Tensor | None,
    *,
    output: str | None = None,
    seeds: Sequence[int] | None = None,
    stream: str | None = None,
) -> Tensor:
    count, device = _batch(inputs)
    return centred_gaussian(count, *_size(squeeze, inputs, one_stream(squeeze, stream)), device=device)


def _random_channels(features: Tensor, seeds: Sequence[int]) -> Tensor:
    return torch.cat([random_channels(features[i : i + 1], SHARE, _generator(seed)) for i, seed in enumerate(seeds)])


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _seeds(seeds: Sequence[int] | None, count: int) -> Sequence[int]:
    if seeds is not None and len(seeds) != count:
        raise InputError(f"{len(seeds)} seeds for {count} samples")
    return range(count) if seeds is None else seeds


def _batch(inputs: Any) -> tuple[int, torch.device]:
    call = tree.as_call(inputs)
    return tree.batch_size(*call), tree.leaves(call)[0][1].device


def _size(squeeze: Squeeze, inputs: Any, stream: str) -> tuple[int, ...]:
    return size_under(squeeze, stream, tree.as_call(inputs))


def methods() -> list[MapMethod]:
    """Ours, then the controls."""
    mean: _Native = lambda features, seeds: all_channel_mean(features)  # noqa: E731
    return [
        *(MapMethod(name, name, "own", own(name), lambda squeeze, shape: 1.0) for name in METHODS),
        MapMethod(CHANGE, f"published, {CHANGE}", "own", own(CHANGE), lambda squeeze, shape: 1.0),
        MapMethod("all-channel-mean", "all-channel mean", "control", _on_features(mean), lambda squeeze, shape: 1.0),
        MapMethod(
            "random-channels",
            f"random {SHARE:.0%} of channels".replace("%", " %"),
            "control",
            _on_features(_random_channels),
            lambda squeeze, shape: 1.0,
        ),
        MapMethod("random-map", "random map", "control", _without_model, lambda squeeze, shape: 0.0),
        MapMethod("centred-gaussian", "centred Gaussian", "control", _gaussian, lambda squeeze, shape: 0.0),
    ]
