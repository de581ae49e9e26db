"""The model as other libraries want it: a tensor of pictures in, scores out, the feature map in its own module."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from squeezecam import heatmap, tree
from squeezecam.errors import InputError
from squeezecam.fit.runner import HeadRunner
from squeezecam.layout import Layout
from squeezecam.module import Squeeze
from squeezecam.tap import Handler, evaluating, tapped


class Front(nn.Module):
    """``pictures (N, C, *S) -> scores (N, K)`` of one output; the map passes through ``tap`` as ``(N, C, *S)``.

    A library hooks, differentiates or replaces ``tap`` as it would a layer, wherever the place is (a module's input or
    output, channels first or last, tokens, an item of a tuple). The tensor that goes on is a copy, so that an
    activation in place does not change what was recorded.

    Args:
        squeeze: the attached model, in the mode it is in (``gate``: the map before the gates).
        inputs: what the model takes, with exactly one tensor in it, the pictures.
        output: name of the output.

    Raises:
        InputError: not one tensor of pictures or clips, or not one map with as many axes.

    """

    def __init__(self, squeeze: Squeeze, inputs: Any, output: str | None = None) -> None:
        super().__init__()
        self.tap: nn.Module = nn.Identity()
        self.squeeze = squeeze
        self.output = squeeze.output_name(output)
        self.call = tree.as_call(inputs)
        ranks = [len(place.grid) for place in squeeze.places.values()]
        self.path, self.pictures = picture_of(inputs, ranks[0])
        if len(ranks) != 1 or ranks[0] not in (2, 3):
            raise InputError(
                "other libraries' methods are for one map with height and width per picture, or frames too per clip; "
                "this model has " + "; ".join(place.describe() for place in squeeze.places.values())
            )
        (self.stream, self.place), *_ = squeeze.places.items()
        self.runner: HeadRunner | None = None
        self.dtype = torch.float32

    def forward(self, pictures: Tensor) -> Tensor:
        """Scores ``(N, K)``; a single value per sample becomes ``(N, 1)``."""
        if self.runner is not None and not isinstance(self.tap, nn.Identity):
            return self._head_only()
        args, kwargs = tree.replace(self.call, self.path, self._laid_out(pictures))
        with tapped(self.squeeze.model, {self.stream: self.place}, {self.stream: self._handle}):
            return self._scores(self.squeeze(*args, **kwargs))

    def _laid_out(self, pictures: Tensor) -> Tensor:
        """As the caller's pictures are and lie in memory: libraries make perturbed ones anew, in float32 and channels
        first.
        """
        last, pictures = torch.channels_last, pictures.to(self.pictures.dtype)
        wanted = self.pictures.is_contiguous(memory_format=last) and not self.pictures.is_contiguous()
        return pictures.contiguous(memory_format=last) if wanted else pictures

    def skip_trunk(self) -> None:
        """Once ``tap`` is replaced by a layer that makes the map itself, run only what follows, if that is the same."""
        if self.squeeze.apply_mode != "observe" or _extra(self.place.layout):
            return
        seen: list[Tensor] = []
        args, kwargs = self.call
        keep: dict[str, Handler] = {self.stream: lambda tensor: seen.append(tensor.detach().clone())}
        with torch.no_grad(), tapped(self.squeeze.model, {self.stream: self.place}, keep):
            values = self.squeeze.select(self.squeeze.model(*args, **kwargs), self.output)
        runner = HeadRunner(self.squeeze, args if args else kwargs, output=self.output)
        if runner.reproduces({self.stream: seen[0]}, values, self.output):
            self.runner = runner

    def _head_only(self) -> Tensor:
        assert self.runner is not None
        features = self.tap(None)
        raw = {self.stream: self.place.layout.pack(features).to(self.dtype)}
        return self._scores(self.runner.run(raw, len(features)))

    def _scores(self, result: Any) -> Tensor:
        values = self.squeeze.select(result, self.output)
        return values[:, None] if values.ndim == 1 else values

    def _handle(self, tensor: Tensor) -> Tensor:
        layout = self.place.layout
        batch = tensor.shape[next(i for i, axis in enumerate(layout.axes) if "n" in axis.names)]
        self.dtype = tensor.dtype
        features = heatmap.at_least_float32(layout.unpack(tensor, batch, self.place.grid))  # NumPy has no bfloat16
        if torch.is_grad_enabled() and not features.requires_grad:  # frozen weights: the gradient begins here
            features = features.detach().requires_grad_()
        return repacked(layout, tensor, self.tap(features).clone())


def picture_of(inputs: Any, rank: int = 2) -> tuple[tree.Path, Tensor]:
    """Where the pictures ``(N, C, H, W)`` (clips, where the map has 3 axes) are in ``(args, kwargs)``, and these."""
    found = tree.leaves(tree.as_call(inputs))
    if len(found) != 1 or found[0][1].ndim != rank + 2 or not found[0][1].is_floating_point():
        shapes = ", ".join(str(tuple(tensor.shape)) for _, tensor in found) or "no tensor"
        form = "pictures (N, C, H, W)" if rank == 2 else "clips (N, C, T, H, W)"
        raise InputError(f"other libraries' methods take one tensor of {form}; the model takes {shapes}")
    return found[0]


@contextlib.contextmanager
def fronted(squeeze: Squeeze, inputs: Any, output: str | None) -> Iterator[tuple[Front, Tensor]]:
    """A :class:`Front` and its pictures, gradients allowed; the model's flags and ``.grad`` are put back afterwards."""
    gradients = [(p, p.grad) for p in squeeze.parameters()]
    with torch.inference_mode(False), torch.enable_grad(), evaluating(squeeze):
        front = Front(squeeze, inputs, output)
        pictures = front.pictures.detach().clone()
        front.eval()
        try:
            yield front, pictures
        finally:
            for parameter, gradient in gradients:
                parameter.grad = gradient


def _extra(layout: Layout) -> bool:
    return any(axis.before or axis.after for axis in layout.axes)


def repacked(layout: Layout, tensor: Tensor, features: Tensor) -> Tensor:
    """``features (N, C, *S)`` back in the place of those in ``tensor``, extra tokens kept."""
    bare = Layout(layout.text, tuple(replace(axis, before=0, after=0) for axis in layout.axes))
    packed = bare.pack(features).to(tensor.dtype)
    for i, axis in enumerate(layout.axes):
        if axis.before or axis.after:
            size = tensor.shape[i]
            first, last = tensor.narrow(i, 0, axis.before), tensor.narrow(i, size - axis.after, axis.after)
            packed = torch.cat([first, packed, last], i)
    return packed
