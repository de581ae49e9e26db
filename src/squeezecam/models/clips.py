"""Models of clips that come from somebody's own factory: how many frames they take, and how they take them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from squeezecam.models.loaded import DefaultPreprocess, as_is

if TYPE_CHECKING:
    from PIL.Image import Image

FRAMES, SIDE = 16, 112
"""What is taken where a model does not say: the usual clip of 3-D convolutional networks."""


@dataclass(frozen=True)
class Clips:
    """What a model takes.

    Attributes:
        frames: how many.
        side: height and width, None where the model does not say.
        feed: clips ``(N, C, T, h, w)`` to what the model takes.
        channels: 3, or 1 for gray.

    """

    frames: int
    side: int | None
    feed: Callable[[Tensor], Any] = as_is
    channels: int = 3


def stated_frames(model: nn.Module) -> int | None:
    """The frames that a model says it takes: ``config.num_frames``, or an attribute ``frames``; None: it does not."""
    for found in (getattr(getattr(model, "config", None), "num_frames", None), getattr(model, "frames", None)):
        if isinstance(found, int) and found > 0:
            return found
    return None


def clips_of(model: nn.Module) -> Clips | None:
    """What a model of clips takes, None for one of pictures.

    A ``config`` with ``num_frames`` says it (VideoMAE, TimeSformer, ViViT), or attributes of the model itself:
    ``frames``, ``side``, and ``frames_first = True`` where it takes ``(N, T, C, h, w)``, as networks of pictures that
    are run frame by frame do. Or a first convolution in three dimensions, for which the usual 16 frames of 112 pixels
    are taken.
    """
    config = getattr(model, "config", None)
    stated, side = getattr(config, "num_frames", None), getattr(config, "image_size", None)
    if isinstance(stated, int):
        channels = int(getattr(config, "num_channels", 3))
        return Clips(stated, side if isinstance(side, int) else None, as_pixel_frames, channels)
    first = next((m for m in model.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d))), None)
    frames, own = getattr(model, "frames", None), getattr(model, "side", None)
    if not isinstance(first, nn.Conv3d) and not isinstance(frames, int):
        return None
    return Clips(
        frames if isinstance(frames, int) else FRAMES,
        own if isinstance(own, int) else SIDE if isinstance(first, nn.Conv3d) else None,
        as_frames_first if getattr(model, "frames_first", False) is True else as_is,
        1 if first is not None and first.in_channels == 1 else 3,
    )


def as_frames_first(batch: Tensor) -> Tensor:
    """Clips ``(N, C, T, h, w)`` with frames before channels."""
    return batch.transpose(1, 2)


def as_pixel_frames(batch: Tensor) -> dict[str, Tensor]:
    """The same as the keyword argument that Hugging Face's video models take."""
    return {"pixel_values": as_frames_first(batch)}


@dataclass(frozen=True)
class DefaultClipPreprocess:
    """A sequence of pictures, or one picture held still, as ``(C, T, h, w)``.

    Attributes:
        frames: how often a single picture is repeated, and how many frames of a longer sequence are taken, evenly.
        each: the preprocessing of one picture.

    """

    frames: int
    each: DefaultPreprocess

    def __call__(self, pictures: Image | Sequence[Any]) -> Tensor:
        """The clip."""
        listed = list(pictures) if isinstance(pictures, Sequence) else [pictures]
        at = torch.linspace(0, len(listed) - 1, self.frames).round().long().tolist()
        return torch.stack([self.each(listed[i]) for i in at], 1)

    def __str__(self) -> str:
        return f"{self.frames} frames, {self.each}"
