"""What a ``--model`` string becomes, and the ways from a picture to its input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from squeezecam.models.labels import Labels

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
DEFAULT_SIDE = 224
CLIP_FRAMES = 16
"""Frames of a clip where nothing says how many."""


RANDOM = "random weights: predictions and maps mean nothing"


def as_is(batch: Tensor) -> Tensor:
    """The batch itself: models that take one positional tensor."""
    return batch


def as_pixel_values(batch: Tensor) -> dict[str, Tensor]:
    """The batch as the keyword argument that Hugging Face's vision models take."""
    return {"pixel_values": batch}


@dataclass(frozen=True)
class LoadedModel:
    """A model with what is needed to feed it and to name its outputs.

    Attributes:
        model: in evaluation mode, on the device asked for.
        preprocess: picture to tensor (C, h, w), without batch axis, on the CPU. Where ``clip`` is set it takes a
            sequence of pictures (the one for torchvision's models also a single one) and gives (C, T, h, w).
        labels: names by class index, or a dict of these by output; None where nothing names the classes.
        name: short, for titles.
        input_size: shape of what ``preprocess`` gives for a 320x240 picture.
        source: in words, where model, weights and (if it was guessed) preprocessing come from.
        make_inputs: a batch (N, C, h, w) to what the model takes: the tensor itself, or a dict of keyword arguments.
        clip: the model takes clips.
        random: its weights are random ones.
        assumed: the preprocessing in words, where nothing said which one belongs to the model; else empty.
        given: pictures that ``preprocess`` is given for a clip; None: as many as it gives frames.
    """

    model: nn.Module
    preprocess: Callable[[Any], Tensor]
    labels: Labels | None
    name: str
    input_size: tuple[int, ...]
    source: str
    make_inputs: Callable[[Tensor], Any] = as_is
    clip: bool = False
    random: bool = False
    assumed: str = ""
    given: int | None = None

    @property
    def frames(self) -> int | None:
        """Pictures that ``preprocess`` is given for a clip; None: the model takes single ones."""
        if not self.clip:
            return None
        if self.given is not None:
            return self.given
        return self.input_size[1] if len(self.input_size) == 4 else CLIP_FRAMES

    def prepare(self, picture: Any) -> Tensor:
        """``preprocess`` of a picture or the pictures of a clip; one picture is held still for a model of clips."""
        still = self.frames is not None and not isinstance(picture, Sequence)
        return self.preprocess([picture] * (self.frames or 1) if still else picture)

    def cautions(self) -> list[str]:
        """What has to stand on every picture that is made with this model: short words, a colon, and the rest."""
        found = [RANDOM] if self.random else []
        if self.assumed:
            found.append(f"preprocessing assumed: {self.assumed}")
        return found

    def in_short(self) -> str:
        """Name and cautions for one line: ``r18 · random weights``."""
        return " · ".join([self.name, *(caution.partition(":")[0] for caution in self.cautions())])


@dataclass(frozen=True)
class DefaultPreprocess:
    """What is assumed of a model without preprocessing: squashed to ``size``, 0..1, ImageNet's mean and deviation.

    Attributes:
        size: (height, width) in pixels.
        channels: 3 for RGB, 1 for gray (which takes the mean of the three channels' figures).
    """

    size: tuple[int, int] = (DEFAULT_SIDE, DEFAULT_SIDE)
    channels: int = 3

    def __call__(self, image: Image) -> Tensor:
        """The picture as (channels, height, width), float32."""
        from PIL.Image import Resampling

        picture = image.convert("L" if self.channels == 1 else "RGB").resize(self.size[::-1], Resampling.BILINEAR)
        values = torch.from_numpy(np.asarray(picture, np.float32) / 255).reshape(*self.size, self.channels)
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        if self.channels == 1:
            mean, std = mean.mean()[None], std.mean()[None]
        return ((values - mean) / std).permute(2, 0, 1).contiguous()

    def __str__(self) -> str:
        colours = "gray" if self.channels == 1 else "RGB"
        return f"{colours}, squashed to {self.size[1]}x{self.size[0]}, 0..1, ImageNet mean and deviation"


@dataclass(frozen=True)
class PicturePreprocess:
    """A library's transform of a picture, given RGB whatever the picture's own mode."""

    transform: Callable[[Image], Tensor]

    def __call__(self, image: Image) -> Tensor:
        """The picture as the transform gives it."""
        return self.transform(image.convert("RGB"))


@dataclass(frozen=True)
class ProcessorPreprocess:
    """A Hugging Face image processor as a function of one picture."""

    processor: Callable[..., Any]

    def __call__(self, image: Image) -> Tensor:
        """The picture's ``pixel_values`` without batch axis."""
        values = self.processor(images=image.convert("RGB"), return_tensors="pt")["pixel_values"][0]
        return torch.as_tensor(values)


@dataclass(frozen=True)
class ClipPreprocess:
    """A transform of (T, C, H, W) uint8 frames as a function of pictures of one size.

    Attributes:
        transform: frames (T, C, H, W) to the model's clip (C, T, h, w).
        frames: how often a single picture is repeated; a sequence is taken as it is.
    """

    transform: Callable[[Tensor], Tensor]
    frames: int = 16

    def __call__(self, pictures: Image | Sequence[Image]) -> Tensor:
        """The clip as the transform gives it."""
        listed = list(pictures) if isinstance(pictures, Sequence) else [pictures] * self.frames
        frames = [torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1) for picture in listed]
        return self.transform(torch.stack(frames))
