"""Figures about the channels that a method chooses, by running what comes after the map again without them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from squeezecam import tree
from squeezecam.block import IDENTITY_GATE
from squeezecam.errors import InputError
from squeezecam.evaluation.subject import Subject
from squeezecam.fit.runner import HeadRunner
from squeezecam.methods import METHODS, channel_scores
from squeezecam.metrics import channel_faithfulness, opposing_share
from squeezecam.metrics.predict import Outputs
from squeezecam.peers.front import repacked
from squeezecam.tap import evaluating, tapped


def channel_figures(
    subject: Subject, pictures: Tensor, method: str, target: Tensor, kind: Outputs
) -> dict[str, Tensor]:
    """Per picture ``(N,)`` for one of squeezecam's own methods and the classes ``target (N,)``.

    ``channel_faithfulness``: loss of the class score when the chosen channels are set to 0, less that of as many random
    ones (mean of 4 draws); NaN where all channels are kept, for then nothing was chosen. ``channel_correlation``:
    Spearman correlation of the channels' scores with the loss when they are ablated, in up to 64 groups.
    ``opposing_share``: share of the chosen channels that vote against the class: whose gradient times activation, of
    the model's output for the class, is negative. For a linear layer after mean pooling that is the weight times the
    channel's mean.

    Raises:
        InputError: a model whose head cannot be run on its own.

    """
    squeeze, output = subject.squeeze, subject.output
    inputs = subject.make_inputs(pictures)
    with torch.no_grad(), evaluating(squeeze):
        captured = squeeze.capture(inputs)
    (stream, seen), *others = captured[1].items()
    if others or seen.features.ndim != 4:
        raise InputError("channel figures are for models with one map with height and width per picture")
    kept = squeeze.explain(inputs, method=method, target=target, output=output, captured=captured).kept
    score = channel_scores(squeeze, seen, output, METHODS[method], target)
    features = seen.features
    if squeeze.apply_mode == "gate":
        features = features * (seen.gates / IDENTITY_GATE)[..., None, None].to(features)
    with evaluating(squeeze):
        raw = _raw(subject, inputs, stream)
        head = _head(subject, inputs, stream, raw, squeeze.select(captured[0], output), features)
        rows = [
            channel_faithfulness(
                head(i), features[i : i + 1], kept[i : i + 1], score[i : i + 1], target[i : i + 1], outputs=kind
            )
            for i in range(len(pictures))
        ]
        evidence = torch.cat([_evidence(head(i), features[i : i + 1], target[i : i + 1]) for i in range(len(pictures))])
    apart = torch.cat([row.kept_drop - row.random_drop for row in rows])
    return {
        "channel_faithfulness": apart.masked_fill(kept.all(1).to(apart.device), float("nan")),
        "channel_correlation": torch.cat([row.correlation for row in rows]),
        "opposing_share": opposing_share(kept, evidence),
    }


_Head = Callable[[Tensor], Tensor]


def _raw(subject: Subject, inputs: Any, stream: str) -> Tensor:
    """The tensor at the place as the model has it, tokens beside the map included."""
    seen: list[Tensor] = []
    args, kwargs = tree.as_call(inputs)
    place = {stream: subject.squeeze.places[stream]}
    with (
        torch.no_grad(),
        tapped(subject.squeeze.model, place, {stream: lambda tensor: seen.append(tensor.detach().clone())}),
    ):
        subject.squeeze.model(*args, **kwargs)
    return seen[0]


def _head(
    subject: Subject, inputs: Any, stream: str, raw: Tensor, values: Tensor, features: Tensor
) -> Callable[[int], _Head]:
    """What comes after the map of sample ``i``, as a function of features ``(B, C, H, W)``."""
    squeeze, layout = subject.squeeze, subject.squeeze.places[stream].layout
    runner = next(
        (
            found
            for found in (HeadRunner(squeeze, inputs, skip=skip, output=subject.output) for skip in (True, False))
            if found.reproduces({stream: repacked(layout, raw, features)}, values, subject.output)
        ),
        None,
    )
    if runner is None:
        raise InputError(
            "channel figures need the part of the model after the map on its own, and this model's could not be run: "
            "leave channel_faithfulness, channel_correlation and opposing_share out"
        )

    def of(sample: int) -> _Head:
        def run(given: Tensor) -> Tensor:
            there = raw[sample : sample + 1].expand(len(given), *raw.shape[1:])
            beside = runner.rows(torch.full((len(given),), sample))
            result = runner.run({stream: repacked(layout, there, given)}, len(given), beside)
            answers = squeeze.select(result, subject.output)
            return answers[:, None] if answers.ndim == 1 else answers

        return run

    return of


def _evidence(head: _Head, features: Tensor, target: Tensor) -> Tensor:
    """Gradient times activation, summed over the positions, ``(1, C)``."""
    with torch.enable_grad():
        given = features.detach().clone().requires_grad_()
        score = head(given * 1).gather(1, target[:, None].to(given.device)).sum()
        (gradient,) = torch.autograd.grad(score, given)
    return (gradient * features).sum((2, 3)).detach()
