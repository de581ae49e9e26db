"""The model as other libraries want it: a tensor of pictures in, scores out, the feature map in its own module."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from squeezecam import heatmap, tree
from squeezecam.arguments import own_beside, sample
from squeezecam.canvas import check_floating, input_under, one_stream
from squeezecam.errors import InputError
from squeezecam.fit.runner import HeadRunner
from squeezecam.layout import Layout
from squeezecam.module import Squeeze
from squeezecam.peers.method import Run
from squeezecam.tap import Handler, evaluating, tapped
from squeezecam.targets import score_rows


class Front(nn.Module):
    """``pictures (N, C, *S) -> scores (N, K)`` of one output; the map passes through ``tap`` as ``(N, C, *S)``.

    A library hooks, differentiates or replaces ``tap`` as it would a layer, wherever the place is (a module's input or
    output, channels first or last, tokens, an item of a tuple). The tensor that goes on is a copy, so that an
    activation in place does not change what was recorded.

    Args:
        squeeze: the attached model, in the mode it is in (``gate``: the map before the gates).
        inputs: what the model takes; of one sample, where there are inputs beside the pictures.
        output: name of the output.
        stream: of which of several maps.

    Raises:
        InputError: no map with height and width (and frames), or one that does not lie on the points of an input.

    """

    def __init__(self, squeeze: Squeeze, inputs: Any, output: str | None = None, stream: str | None = None) -> None:
        super().__init__()
        self.tap: nn.Module = nn.Identity()
        self.squeeze = squeeze
        self.output = squeeze.output_name(output)
        self.stream = one_stream(squeeze, stream)
        self.place = squeeze.places[self.stream]
        if len(self.place.grid) not in (2, 3):
            raise InputError(
                "other libraries' methods are for a map with height and width per picture, or frames too per clip; "
                f"this is {self.place.describe()}"
            )
        self.call = tree.as_call(inputs)
        self.path, self.given, self.canvas = input_under(squeeze, inputs, self.stream)
        check_floating(self.given)
        self.pictures = self.canvas.pictures(self.given)
        self.beside = own_beside(squeeze, self.call, self.path)
        self.runner: HeadRunner | None = None
        self.dtype = torch.float32
        self.count = len(self.pictures)

    def forward(self, pictures: Tensor) -> Tensor:
        """Scores ``(N, K)``; a single value per sample becomes ``(N, 1)``."""
        if self.runner is not None and not isinstance(self.tap, nn.Identity):
            return self._head_only()
        self.count = len(pictures)
        args, kwargs = tree.replace(self._with_all(self.count), self.path, self._laid_out(pictures))
        with tapped(self.squeeze.model, {self.stream: self.place}, {self.stream: self._handle}):
            return self._scores(self.squeeze(*args, **kwargs))

    def _with_all(self, count: int) -> tree.Call:
        """The call with what stands beside the picture for each of ``count`` changed ones."""
        if not self.beside or count == len(self.given):
            return self.call
        return tree.repeated(self.call, self.beside, count)

    def _laid_out(self, pictures: Tensor) -> Tensor:
        """As the caller's pictures are and lie in memory: libraries make perturbed ones anew, in float32 and channels
        first.
        """
        last, given = torch.channels_last, self.canvas.input(pictures.to(self.given.dtype))
        wanted = given.ndim == 4 and self.given.is_contiguous(memory_format=last) and not self.given.is_contiguous()
        return given.contiguous(memory_format=last) if wanted else given

    def skip_trunk(self) -> None:
        """Once ``tap`` is replaced by a layer that makes the map itself, run only what follows, if that is the same."""
        if self.squeeze.apply_mode != "observe" or _extra(self.place.layout) or len(self.squeeze.places) > 1:
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
        beside = self.runner.rows(torch.zeros(len(features), dtype=torch.long)) if self.runner.per_sample else None
        return self._scores(self.runner.run(raw, len(features), beside))

    def _scores(self, result: Any) -> Tensor:
        return score_rows(self.squeeze.select(result, self.output))

    def _handle(self, tensor: Tensor) -> Tensor:
        layout = self.place.layout  # whose first axis may hold the frames of every clip beside the batch
        self.dtype = tensor.dtype
        features = heatmap.at_least_float32(layout.unpack(tensor, self.count, self.place.grid))  # NumPy has no bfloat16
        if torch.is_grad_enabled() and not features.requires_grad:  # frozen weights: the gradient begins here
            features = features.detach().requires_grad_()
        return repacked(layout, tensor, self.tap(features).clone())


def sample_by_sample(run: Run) -> Run:
    """``run``, with one sample at a time where the model takes more than the picture.

    A library makes many changed pictures of one; what is beside it is then that of the one sample.
    """

    def each(squeeze: Squeeze, inputs: Any, target: Tensor | None, **options: Any) -> Tensor:
        if len(tree.leaves(tree.as_call(inputs))) < 2:
            return run(squeeze, inputs, target, **options)
        count = len(input_under(squeeze, inputs, one_stream(squeeze, options.get("stream")))[1])
        alone = {**options, "seeds": None}  # these libraries draw nothing
        return torch.cat(
            [
                run(squeeze, sample(squeeze, inputs, i, count), None if target is None else target[i : i + 1], **alone)
                for i in range(count)
            ]
        )

    return each


@contextlib.contextmanager
def fronted(
    squeeze: Squeeze, inputs: Any, output: str | None, stream: str | None = None
) -> Iterator[tuple[Front, Tensor]]:
    """A :class:`Front` and its pictures, gradients allowed; the model's flags and ``.grad`` are put back afterwards."""
    gradients = [(p, p.grad) for p in squeeze.parameters()]
    with torch.inference_mode(False), torch.enable_grad(), evaluating(squeeze), _recurrent_gradients(squeeze):
        front = Front(squeeze, inputs, output, stream)
        pictures = front.pictures.detach().clone()
        front.eval()
        try:
            yield front, pictures
        finally:
            for parameter, gradient in gradients:
                parameter.grad = gradient


def _recurrent_gradients(squeeze: Squeeze) -> contextlib.AbstractContextManager[Any]:
    """A recurrent layer on a GPU gives no gradient in evaluation mode unless cuDNN is left out."""
    recurrent = any(isinstance(module, nn.RNNBase) for module in squeeze.modules())
    return torch.backends.cudnn.flags(enabled=False) if recurrent else contextlib.nullcontext()


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
