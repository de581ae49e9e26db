"""An input as the picture that its map lies on, and back: which of its axes are channels, and which those of the map.

Heatmaps have the size of what they explain, but inputs come in many forms: channels last, frames before channels, face
crops without channels, a spectrogram with time before frequency. What measures maps changes points of the picture, so
it wants all of them in one form, and the model wants its own back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import Any

from torch import Tensor

from squeezecam import tree
from squeezecam.arguments import where_given
from squeezecam.errors import InputError
from squeezecam.module import Squeeze
from squeezecam.sizes import size_under


@dataclass(frozen=True)
class Canvas:
    """How an input ``(N, ...)`` is read as pictures ``(N, C, *S)``.

    Attributes:
        axes: of the input, in the order of the map's.
        channels: the axis of the channels; None: it has none, and the picture gets one.

    """

    axes: tuple[int, ...]
    channels: int | None

    @property
    def plain(self) -> bool:
        """Whether the input is such pictures as it is."""
        return self._order == tuple(range(len(self._order))) and self.channels is not None

    @property
    def _order(self) -> tuple[int, ...]:
        return (0, *self.axes) if self.channels is None else (0, self.channels, *self.axes)

    def pictures(self, given: Tensor) -> Tensor:
        """``(N, C, *S)`` of an input."""
        laid = given.permute(self._order)
        return laid[:, None] if self.channels is None else laid

    def input(self, pictures: Tensor) -> Tensor:
        """The input that is read as ``pictures``."""
        order = self._order
        laid = pictures[:, 0] if self.channels is None else pictures
        if order == tuple(range(len(order))):
            return laid  # as it lies in memory, channels last say
        return laid.permute(sorted(range(len(order)), key=order.__getitem__)).contiguous()


def canvas(
    shape: tuple[int, ...],
    size: tuple[int, ...],
    *,
    frames_first: bool | None = None,
    channels_last: bool | None = None,
) -> Canvas | None:
    """How an input of ``shape`` ``(N, ...)`` is read under a map of ``size``; None: it lies under none of that size.

    Where two readings fit, channels come first and axes keep their order, but where ``channels_last`` says so channels
    last, and where ``frames_first`` does channels second, and the axes of a spectrogram turned.
    """
    return next(
        (
            read
            for read in _readings(len(shape), len(size), bool(frames_first), bool(channels_last))
            if _size(shape, read) == size
        ),
        None,
    )


def _readings(axes: int, rank: int, frames_first: bool, channels_last: bool) -> Iterator[Canvas]:
    every = range(1, axes)
    if len(every) == rank:
        yield from (Canvas(order, None) for order in sorted(permutations(every), reverse=frames_first))
    elif len(every) == rank + 1:
        first = [2, 1, *every[2:]] if frames_first else list(every)
        first = [every[-1], *every[:-1]] if channels_last else first
        yield from (Canvas(tuple(axis for axis in every if axis != channels), channels) for channels in first)


def _size(shape: tuple[int, ...], read: Canvas) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in read.axes)


def one_stream(squeeze: Squeeze, stream: str | None) -> str:
    """``stream`` checked, or the only one.

    Raises:
        InputError: there is no such stream, or none is named where there are several.

    """
    known = list(squeeze.places)
    if stream is None and len(known) == 1:
        return known[0]
    if stream not in known:
        said = f"there is no stream '{stream}'" if stream is not None else "what is measured is one map at a time"
        raise InputError(f"{said}; the model has {', '.join(known)}: name one, stream='{known[0]}'")
    return stream


def input_under(squeeze: Squeeze, inputs: Any, stream: str) -> tuple[tree.Path, Tensor, Canvas]:
    """Where in ``(args, kwargs)`` the input is that the map of ``stream`` lies on, that input, and how it is read.

    Raises:
        InputError: it is not where it was in the example, or the map does not lie on its points, as that of a model
            that makes a spectrogram from a waveform.

    """
    call = tree.as_call(inputs)
    found = tree.leaves(call)
    path = found[0][0] if len(found) == 1 else where_given(squeeze.model, squeeze.input_paths[stream], call)
    given = dict(found).get(path)
    shapes = ", ".join(str(tuple(tensor.shape)) for _, tensor in found) or "no tensor"
    if given is None:
        raise InputError(
            f"the input of '{stream}' is not where it was in the example of attach; the model was given {shapes}: pass "
            "inputs as they were passed there"
        )
    size = size_under(squeeze, stream, call)
    first, last = squeeze.frames_first[stream], squeeze.channels_last[stream]
    read = canvas(tuple(given.shape), size, frames_first=first, channels_last=last)
    if read is None:
        raise InputError(
            f"the map of '{stream}' has {len(size)} axes, {size}, and does not lie on the points of its input of shape "
            f"{tuple(given.shape)}: maps are measured where there is one value for each point of a picture, clip or "
            "spectrogram that the model takes"
        )
    return path, given, read


def check_floating(pictures: Tensor) -> None:
    """Refuse pictures of whole numbers: what is measured changes them by less.

    Raises:
        InputError: they are such.

    """
    if not pictures.is_floating_point():
        raise InputError(f"the pictures are {pictures.dtype}; expected floating point numbers: pass pictures.float()")
