"""Samples of a model that takes more than a picture: one of its inputs is what is measured on, the others are held."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from torch import Tensor

from squeezecam import tree
from squeezecam.arguments import own_beside, sample
from squeezecam.canvas import Canvas, check_floating, input_under
from squeezecam.evaluation.pace import paced
from squeezecam.evaluation.source import Given, Item
from squeezecam.evaluation.subject import Subject, as_is
from squeezecam.pacing import at_once


@dataclass(frozen=True)
class Held:
    """``make_inputs`` of one sample: pictures in the place of one input, the others as they are, its ``own`` once for
    each.
    """

    call: tree.Call
    path: tree.Path
    canvas: Canvas
    own: tuple[tree.Path, ...]

    def __call__(self, pictures: Tensor) -> Any:
        """What the model takes, with ``pictures (N, C, *S)`` in it."""
        call = tree.to_device(tree.repeated(self.call, self.own, len(pictures)), pictures.device)
        args, kwargs = tree.replace(call, self.path, self.canvas.input(pictures))
        return args if args else kwargs


class Samples(Sequence[Tensor]):
    """Pictures ``(C, *S)``: what the map of a stream lies on, sample by sample.

    Args:
        subject: says which model and which stream.
        inputs: what the model takes, or a list of such batches, whose pictures may differ in size.

    Raises:
        InputError: inputs that the map of the stream does not lie on, or whole numbers.

    """

    def __init__(self, subject: Subject, inputs: Any) -> None:
        self.samples: list[Held] = []
        for batch in inputs if subject.holds_batches(inputs) else [inputs]:
            path, given, canvas = input_under(subject.squeeze, batch, subject.place_name)
            check_floating(given)
            for index in range(len(given)):
                call = tree.as_call(sample(subject.squeeze, batch, index, len(given)))
                self.samples.append(Held(call, path, canvas, tuple(own_beside(subject.squeeze, call, path))))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Any:
        held = self.samples[index]
        return held.canvas.pictures(tree.get(held.call, held.path))[0]


@dataclass
class Calls(Given):
    """A :class:`~squeezecam.evaluation.source.Source` of :class:`Samples`."""

    def load(self, index: int) -> Item:  # noqa: D102
        return replace(super().load(index), make_inputs=self.images.samples[index])

    def identity(self) -> object:  # noqa: D102
        parts = hashlib.sha256(str(super().identity()).encode())
        for held in self.images.samples:
            parts.update(repr(tree.constants(held.call)).encode())
            for path, tensor in tree.leaves(held.call):
                parts.update(str(path).encode() + tensor.detach().cpu().double().numpy().tobytes())
        return parts.hexdigest()


def source_of(subject: Subject, images: Any, **known: Any) -> tuple[Subject, Given]:
    """What is in memory as a source: pictures, or the inputs of a model that takes more than one.

    With it comes the subject, which turns pictures round for a model that takes them otherwise than ``(N, C, *S)``.

    Raises:
        InputError: neither, or lengths that do not fit.

    """
    if subject.holds_calls(images):
        return subject, Calls(Samples(subject, images), **known)
    subject.check_pictures(images)
    if isinstance(images, Tensor) and len(images) and subject.make_inputs is as_is and subject.is_call(images):
        read = input_under(subject.squeeze, images, subject.place_name)[2]
        if not read.plain:
            return replace(subject, make_inputs=read.input), Given(read.pictures(images), **known)
    return subject, Given(images, **known)


class Part(NamedTuple):
    """Items that are measured together: what makes the model's inputs of them, which they are, and how many pictures
    (changed ones of a single item, say) go through the model in one pass.
    """

    subject: Subject
    items: slice
    at_once: int


def parts(subject: Subject, pictures: Tensor, items: Sequence[Item], size: int) -> list[Part]:
    """Items with inputs of their own one by one; others as many at a time, at most ``size``, and laid out, as is fast.

    ``pictures (N, C, *S)`` are those of the items.
    """
    if all(item.make_inputs is None for item in items):
        fast, count = paced(subject, pictures, size)
        return [Part(fast, slice(start, start + count), count) for start in range(0, len(items), count)]
    return [
        Part(
            replace(subject, make_inputs=item.make_inputs or subject.make_inputs),
            slice(i, i + 1),
            at_once(pictures, size),
        )
        for i, item in enumerate(items)
    ]
