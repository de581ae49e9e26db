"""Sizes of maps: that of the input they explain, or one that is asked for; enlarging to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from squeezecam import heatmap, tree
from squeezecam.anatomy import Place
from squeezecam.arguments import where_given
from squeezecam.errors import InputError
from squeezecam.frames import time_axis, valid_frames

if TYPE_CHECKING:
    from squeezecam.module import Squeeze


def enlarged(raw: Tensor, size: tuple[int, ...], mode: str) -> Tensor:
    """Upsampled and cut at 0: what is drawn of a class map is its positive part.

    Cubic interpolation overshoots, so it is cut afterwards. The other ways do not, and are cut before: otherwise
    evidence against the class next to a hot cell would eat into it.
    """
    flat = raw.flatten(0, 1)
    large = heatmap.upsample(flat if mode == "bicubic" else flat.clamp_min(0), size, mode).clamp_min(0)
    return large.view(*raw.shape[:2], *size)


def without_padding(raw: Tensor, place: Place, lengths: Any) -> Tensor:
    """Maps ``(N, K, *S)`` with zeros in the frames beyond ``lengths``, or outside such a mask."""
    axis = time_axis(place.layout)
    assert axis is not None
    inside = valid_frames(lengths, len(raw), raw.shape[axis], raw.device)
    shape = [len(raw), *[1] * (raw.ndim - 1)]
    shape[axis] = raw.shape[axis]
    return torch.where(inside.reshape(shape), raw, 0.0)


def map_size(size: int | tuple[int, ...] | None, squeeze: Squeeze, stream: str, call: tree.Call) -> tuple[int, ...]:
    """The size asked for, one number for all axes alike, or that of the input; checked against the map's rank."""
    if size is None:
        return size_under(squeeze, stream, call)
    rank = len(squeeze.places[stream].grid)
    sizes = (size,) * rank if isinstance(size, int) else tuple(size)
    if len(sizes) != rank or min(sizes) < 1:
        raise InputError(f"size={size} does not fit a map of {rank} axes: give {rank} sizes of at least 1, or one int")
    return sizes


def size_under(squeeze: Squeeze, stream: str, call: tree.Call) -> tuple[int, ...]:
    """The size of the input in ``call`` that the map of ``stream`` lies on, as :func:`input_size` has it."""
    path = where_given(squeeze.model, squeeze.input_paths[stream], call)
    first, last = squeeze.frames_first[stream], squeeze.channels_last[stream]
    return input_size(squeeze.places[stream], path, call, first, last)


def input_size(
    place: Place,
    path: tree.Path,
    call: Any,
    frames_first: bool | None = None,
    channels_last: bool | None = None,
) -> tuple[int, ...]:
    """Height and width (length; frames, height and width) of the input that the map at ``place`` is made of.

    The input is that at ``path`` of ``(args, kwargs)``; where the call has none there, as when a keyword became
    positional, the one with the most axes. An input of too few axes (token ids) gives the native grid. Of clips, and of
    spectrograms without channels, ``frames_first`` says what :func:`squeezecam.upstream.frames_first` does of the
    example, and ``channels_last`` what :func:`squeezecam.upstream.channels_last` does; None: guessed from this input.
    """
    try:
        shape = tuple(tree.get(call, path).shape)
    except (KeyError, IndexError, AttributeError, TypeError):
        shape = max((tuple(tensor.shape) for _, tensor in tree.leaves(call)), key=len, default=())
    rank = len(place.grid)
    if channels_last and len(shape) == rank + 2:
        return shape[1:-1]
    if rank == 2 and len(shape) == 3 and frames_first is not None:
        return shape[:0:-1] if frames_first else shape[1:]
    if rank == 2 and len(shape) == 3:  # without channels, so the model may have turned it round
        return spectrogram_size(place.grid, shape[1:])
    if rank == 3 and len(shape) == 5 and frames_first is not None:
        return (shape[1], *shape[3:]) if frames_first else shape[2:]
    if rank == 3 and len(shape) == 5 and shape[2] in (1, 3) and shape[1] not in (1, 3):
        return (shape[1], *shape[3:])  # frames before channels
    likely = len(shape) == rank + 2 and shape[-1] in (1, 3, 4) and min(shape[1:-1]) > shape[-1]
    if likely and channels_last is None:
        return shape[1:-1]
    return shape[-rank:] if len(shape) > rank else place.grid


def spectrogram_size(grid: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Frequencies and time steps of an input ``(N, a, b)``, whichever comes first, for a map with ``grid`` ``(F, T)``;
    height and width of a picture without channels.

    Strides only make maps smaller, and by whole numbers: of the two ways to read the input, the one in which the map is
    nowhere larger than the input and the strides come out evenly.
    """

    def oddness(frequencies: int, steps: int) -> float:
        ratios = (frequencies / grid[0], steps / grid[1])
        return sum(1.0 if ratio < 1 else abs(ratio - round(ratio)) / ratio for ratio in ratios)

    return min((tuple(shape), tuple(shape[::-1])), key=lambda read: oddness(*read))
