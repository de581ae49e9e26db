"""Time in feature maps: gates per frame, padding that must not count, and which axis of a stream's map is time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from squeezecam.block import squeeze_positions
from squeezecam.errors import InputError, SiteError
from squeezecam.layout import Layout, parse_layout
from squeezecam.site import Place


def time_axis(layout: Layout) -> int | None:
    """The axis of canonical features ``(N, C, *S)`` that is time, or None."""
    return 2 + layout.positions.index("t") if "t" in layout.positions else None


def batch_axis(layout: Layout) -> int:
    """The axis of a tensor in this layout that holds the samples."""
    return next(i for i, axis in enumerate(layout.axes) if "n" in axis.names)


def squeeze_stream(features: Tensor, layout: Layout, *, per_frame: bool, lengths: Tensor | None = None) -> Tensor:
    """Squeezed vectors of canonical features ``(N, C, *S)``: ``(N, C)``, or one for every frame, ``(N, T, C)``.

    Args:
        features: in the order of ``layout``.
        layout: says which axis is time.
        per_frame: the mean over the positions of each frame, in place of that over the clip (published).
        lengths: ``(N,)`` frames of each clip that are no padding, or a mask ``(N, T)``; the rest does not enter the
            mean.

    Raises:
        SiteError: frames are asked for and the layout names no time.
        InputError: lengths that do not fit.

    """
    if not per_frame and lengths is None:
        return squeeze_positions(features)
    axis = time_axis(layout)
    if axis is None:
        raise SiteError(
            f"layout '{layout}' names no time axis, which gates per frame and lengths need: "
            "give Site(module, layout='n c t h w') or, for a spectrogram, Site(module, layout='n c f t')"
        )
    frames: Tensor = squeeze_positions(fold_time(features, layout)).unflatten(0, (len(features), -1))
    if per_frame:
        return frames
    assert lengths is not None
    inside = valid_frames(lengths, len(features), frames.shape[1], features.device)
    total: Tensor = (frames * inside[..., None]).sum(1) / inside.sum(1, keepdim=True)
    return total


def valid_frames(lengths: Tensor, batch: int, frames: int, device: torch.device) -> Tensor:
    """``(N, T)`` bool: which frames are no padding, from lengths ``(N,)`` or from such a mask itself.

    Raises:
        InputError: not one length of 1..T per clip, or a mask of another shape or without a single frame of a clip.

    """
    given = torch.as_tensor(lengths)  # checked where it is, for reading from another device means to wait
    own = not isinstance(lengths, Tensor)  # the caller's may be in pinned memory and written to once we return
    if given.dtype == torch.bool:
        if given.shape != (batch, frames) or not bool(given.any(1).all()):
            raise InputError(
                f"a mask of frames must be ({batch}, {frames}), True in at least one frame of every clip; got "
                f"{tuple(given.shape)}"
            )
        return given.to(device, non_blocking=own)
    if given.shape != (batch,) or given.is_floating_point() or bool(((given < 1) | (given > frames)).any()):
        raise InputError(
            f"lengths must be {batch} whole numbers in 1..{frames}, or a bool mask ({batch}, {frames}); got {lengths!r}"
        )
    return torch.arange(frames, device=device) < given.to(device, non_blocking=own)[:, None]


def scale_by(place: Place, tensor: Tensor, factors: Tensor, batch: int) -> Tensor:
    """``tensor`` at ``place``, its channels times ``factors``: ``(N, C)`` per clip, ``(N, T, C)`` per frame."""
    if factors.ndim == 2:
        return place.layout.scale(tensor, factors)
    return place.layout.pack(scaled_features(place.layout.unpack(tensor, batch, place.grid), place.layout, factors))


def scaled_features(features: Tensor, layout: Layout, factors: Tensor) -> Tensor:
    """Canonical features ``(N, C, *S)`` times ``factors``, ``(N, C)`` or ``(N, T, C)``."""
    shape = [features.shape[0], features.shape[1], *[1] * (features.ndim - 2)]
    if factors.ndim == 3:
        axis = time_axis(layout)
        assert axis is not None
        shape[axis] = features.shape[axis]
        factors = factors.transpose(1, 2)
    return features * factors.reshape(shape).to(features.dtype)


def fold_time(features: Tensor, layout: Layout) -> Tensor:
    """Canonical features ``(N, C, *S)`` with every frame as a sample of its own: ``(N T, C, *S without t)``."""
    axis = time_axis(layout)
    assert axis is not None
    return features.movedim(axis, 1).flatten(0, 1)


def unfold_time(maps: Tensor, layout: Layout, batch: int) -> Tensor:
    """Maps ``(N T, *S without t)`` back as ``(N, *S)``."""
    axis = time_axis(layout)
    assert axis is not None
    clips: Tensor = maps.unflatten(0, (batch, -1)).movedim(1, axis - 1)
    return clips


def name_time(places: Mapping[str, Place], frames: int) -> dict[str, Place]:
    """Places whose map has two unnamed axes, one of them as long as the output has frames, as frequency and time.

    A spectrogram's map comes as ``n c h w``, in which nothing says that the last axis is time; an output ``(N, T, K)``
    beside it does.
    """
    named = {}
    for stream, place in places.items():
        named[stream] = place
        if place.layout.positions != ("h", "w") or place.grid.count(frames) != 1:
            continue
        if any(len(axis.names) > 1 or axis.before or axis.after for axis in place.layout.axes):
            continue
        time = place.layout.positions[place.grid.index(frames)]
        other = "h" if time == "w" else "w"
        text = " ".join({time: "t", other: "f"}.get(name, name) for name in place.layout.text.split())
        layout = parse_layout(text)
        sizes = dict(zip(place.layout.positions, place.grid, strict=True))
        named[stream] = replace(place, layout=layout, grid=(sizes[other], frames))
    return named
