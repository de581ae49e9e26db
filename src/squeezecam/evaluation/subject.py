"""The model under measurement, as metrics see it: pictures in, scores out, with answers that are known already kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from squeezecam import tree
from squeezecam.arguments import by_name, left_out
from squeezecam.canvas import one_stream
from squeezecam.errors import MODEL_FAILED, InputError
from squeezecam.links import score_kind
from squeezecam.metrics.predict import Outputs
from squeezecam.misfed import named
from squeezecam.module import Squeeze
from squeezecam.peers import MapMethod
from squeezecam.tap import evaluating
from squeezecam.targets import score_rows

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


def check_rows(rows: Tensor, count: int, output: str) -> None:
    """Refuse scores that are not a row for each of ``count`` pictures.

    Raises:
        InputError: they are more or fewer, as those of a model that drops the batch axis of a single picture.

    """
    if len(rows) != count:
        raise InputError(
            f"output '{output}' has {len(rows)} rows for {count} of the pictures, which run one by one where each has "
            "inputs of its own: the model has to give one row for each, also for one alone; squeeze() without an axis "
            "takes the batch axis too"
        )


@dataclass(frozen=True)
class Subject:
    """A squeeze, the output that is meant, and how a batch of pictures becomes what the model takes; of several maps
    the one that is meant.
    """

    squeeze: Squeeze
    output: str
    make_inputs: Callable[[Tensor], Any] = as_is
    scores: Outputs | None = None
    stream: str | None = None

    @property
    def outputs(self) -> Outputs:
        """What the scores are: as told, else as the model and the fit say."""
        return self.scores or score_kind(self.squeeze, self.output)

    @property
    def rank(self) -> int:
        """Axes of the map: 2 of a picture, 3 where there are frames or slices."""
        return len(self.squeeze.places[self.place_name].grid)

    @property
    def place_name(self) -> str:
        """Name of the map that is meant, or the error that says that there are several."""
        return one_stream(self.squeeze, self.stream)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next((p.device for p in self.squeeze.parameters()), torch.device("cpu"))

    def check_pictures(self, images: Any) -> None:
        """Raise where ``images`` are the inputs of a call, of a model of several, and not pictures."""
        inputs = list(images.values()) if isinstance(images, dict) else images
        if isinstance(images, Tensor):
            neither = images.ndim != self.rank + 2
        else:
            neither = isinstance(inputs, (tuple, list)) and all(
                (isinstance(one, Tensor) and one.ndim != self.rank + 1) or isinstance(one, (tuple, list, dict))
                for one in inputs
            )
        if self._asks_for_more and neither:
            raise InputError(f"expected pictures, or the inputs of a call, and got neither: {self._how}")

    def holds_calls(self, images: Any) -> bool:
        """Whether ``images`` are what a model takes by name, or in several inputs, or a list of such batches."""
        if self.make_inputs is not as_is or isinstance(images, Tensor):
            return False
        if len(self.squeeze.example_leaves) > 1:
            return self.is_call(images) or self.holds_batches(images)
        dicts = isinstance(images, (tuple, list)) and all(isinstance(one, Mapping) for one in images)
        return isinstance(images, Mapping) or (dicts and self.holds_batches(images))

    def holds_batches(self, images: Any) -> bool:
        """Whether ``images`` is a list of what the model takes."""
        return isinstance(images, (tuple, list)) and bool(images) and all(self.is_call(batch) for batch in images)

    def is_call(self, inputs: Any) -> bool:
        """Whether ``inputs`` have the axes of the example, tensor by tensor, whatever their order by name.

        What the model can do without may be left out, but for the input that the map lies on.
        """
        call, model = tree.as_call(inputs), self.squeeze.model
        found = {by_name(model, path): tensor.ndim for path, tensor in tree.leaves(call)}
        known = {by_name(model, path): len(shape) for path, (shape, _) in self.squeeze.example_leaves.items()}
        under = by_name(model, self.squeeze.input_paths[self.place_name])
        return under in found and found.items() <= known.items() and not left_out(model, call)

    @property
    def _asks_for_more(self) -> bool:
        return self.make_inputs is as_is and len(self.squeeze.example_leaves) > 1

    @property
    def _how(self) -> str:
        axes = ", ".join(str(len(shape)) for shape, _ in self.squeeze.example_leaves.values())
        return (
            f"the model was attached with {len(self.squeeze.example_leaves)} inputs of {axes} axes: pass these, of all "
            "samples, or a list of such batches; or pass pictures alone and make_inputs=, which makes the model's "
            "inputs of a batch of them"
        )

    def maps(self, method: MapMethod, target: Tensor, pictures: Tensor, seeds: Sequence[int]) -> Tensor:
        """Maps ``(N, *S)`` of ``method`` for classes ``(N,)`` and pictures ``(N, C, *S)``."""
        which = self.stream if len(self.squeeze.places) > 1 else None
        inputs = self.make_inputs(pictures)
        return method(self.squeeze, inputs, target, output=self.output, seeds=seeds, stream=which)

    def predict(self, pictures: Tensor) -> Tensor:
        """Scores ``(N, K)``, of scores for every frame their mean, with gates in the path only in ``gate`` mode."""
        args, kwargs = tree.as_call(self.make_inputs(pictures))
        with torch.no_grad(), evaluating(self.squeeze):
            try:
                values = self.squeeze.select(self.squeeze(*args, **kwargs), self.output)
            except MODEL_FAILED as error:  # the model itself, on this input
                line = " ".join(str(error).split())[:300]
                hint = f"; {self._how}" if self._asks_for_more else ""
                shape = tuple(pictures.shape)
                raise InputError(f"the model failed on pictures of shape {shape}: {line}{hint}") from error
        if values.ndim > 3:
            raise InputError(
                f"output '{self.output}' has shape {tuple(values.shape)}, expected one row of classes a picture, or "
                "one for every frame"
            )
        rows = score_rows(values)
        check_rows(rows, len(pictures), self.output)
        return rows


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
