"""The model under measurement, as metrics see it: pictures in, scores out, with answers that are known already kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from squeezecam import tree
from squeezecam.errors import MODEL_FAILED, InputError
from squeezecam.links import score_kind
from squeezecam.metrics.predict import Outputs
from squeezecam.misfed import named
from squeezecam.module import Squeeze
from squeezecam.tap import evaluating

SAMPLED = 64
"""Values of a picture that are compared before all of them are."""


def as_is(batch: Tensor) -> Any:
    """The batch itself."""
    return batch


def check_squeeze(squeeze: Any, call: str) -> None:
    """Refuse a model that no block was attached to.

    Raises:
        InputError: ``squeeze`` is not what :func:`squeezecam.attach` makes.

    """
    if not isinstance(squeeze, Squeeze):
        raise InputError(
            f"{call} takes what squeezecam.attach(model, example) returns; got {named(squeeze)}: attach first"
        )


@dataclass(frozen=True)
class Subject:
    """A squeeze, the output that is meant, and how a batch of pictures becomes what the model takes."""

    squeeze: Squeeze
    output: str
    make_inputs: Callable[[Tensor], Any] = as_is
    scores: Outputs | None = None

    @property
    def outputs(self) -> Outputs:
        """What the scores are: as told, else as the model and the fit say."""
        return self.scores or score_kind(self.squeeze, self.output)

    @property
    def rank(self) -> int:
        """Axes of the map: 2 of a picture, 3 where there are frames or slices."""
        return len(next(iter(self.squeeze.places.values())).grid)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next((p.device for p in self.squeeze.parameters()), torch.device("cpu"))

    def check_pictures(self, images: Any) -> None:
        """Raise where ``images`` are the inputs of a call, of a model of several, and not pictures."""
        inputs = list(images.values()) if isinstance(images, dict) else images
        is_call = isinstance(inputs, (tuple, list)) and all(
            (isinstance(one, Tensor) and one.ndim != self.rank + 1) or isinstance(one, (tuple, list, dict))
            for one in inputs
        )
        if self._asks_for_more and is_call:
            raise InputError(f"expected pictures, one after the other, and got the inputs of a call: {self._how}")

    @property
    def _asks_for_more(self) -> bool:
        return self.make_inputs is as_is and len(self.squeeze.example_leaves) > 1

    @property
    def _how(self) -> str:
        if len(self.squeeze.places) > 1:
            return (
                f"the model has maps of {', '.join(self.squeeze.places)}, and what is measured here is one map of one "
                "picture; squeeze.explain shows them all"
            )
        return (
            f"the model was attached with {len(self.squeeze.example_leaves)} inputs, and what is measured here changes "
            "one picture: pass make_inputs=, which makes the model's inputs of a batch of pictures and holds the rest "
            "fixed; squeeze.explain takes all inputs as they are"
        )

    def predict(self, pictures: Tensor) -> Tensor:
        """Scores ``(N, K)``, with gates in the path only in ``gate`` mode."""
        args, kwargs = tree.as_call(self.make_inputs(pictures))
        with torch.no_grad(), evaluating(self.squeeze):
            try:
                values = self.squeeze.select(self.squeeze(*args, **kwargs), self.output)
            except MODEL_FAILED as error:  # the model itself, on this input
                line = " ".join(str(error).split())[:300]
                hint = f"; {self._how}" if self._asks_for_more else ""
                shape = tuple(pictures.shape)
                raise InputError(f"the model failed on pictures of shape {shape}: {line}{hint}") from error
        if values.ndim > 2:
            raise InputError(
                f"output '{self.output}' has shape {tuple(values.shape)}, expected one row of classes a picture"
            )
        return values[:, None] if values.ndim == 1 else values


class Remembering:
    """``predict`` that keeps the answers for some pictures: the curves of all methods share their end points."""

    def __init__(self, predict: Callable[[Tensor], Tensor]) -> None:
        self.predict = predict
        self.known: list[tuple[Tensor, Tensor, Tensor]] = []

    def learn(self, pictures: Tensor) -> Tensor:
        """Ask once about ``pictures (N, C, *S)`` and keep the answers; returns them."""
        answers = self.predict(pictures)
        self.known.append((pictures, self._sampled(pictures), answers))
        return answers

    def __call__(self, pictures: Tensor) -> Tensor:
        """Scores ``(N, K)``."""
        found: dict[int, Tensor] = {}
        sampled = self._sampled(pictures)
        for known, known_sampled, answers in self.known:
            alike = (sampled[:, None] == known_sampled[None]).all(2).nonzero().tolist()
            for row, number in alike:
                if row not in found and torch.equal(pictures[row], known[number]):
                    found[row] = answers[number]
        new = [row for row in range(len(pictures)) if row not in found]
        if not found:
            return self.predict(pictures)
        if new:
            found.update(zip(new, self.predict(pictures[new]), strict=True))
        return torch.stack([found[row] for row in range(len(pictures))])

    @staticmethod
    def _sampled(pictures: Tensor) -> Tensor:
        flat = pictures.flatten(1)
        return flat[:, :: max(1, flat.shape[1] // SAMPLED)]
