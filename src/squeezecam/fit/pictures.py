"""What the fits that go over pictures again share: batches of pictures, what the model shows of them, windows."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from squeezecam import heatmap, tree
from squeezecam.errors import FitError, InputError
from squeezecam.fit.batches import Pick, split
from squeezecam.focus import speaking_for
from squeezecam.misfed import in_a_fit, named
from squeezecam.module import Squeeze


def counted(batches: Iterable[Any], hold_out: float, what: str) -> tuple[int, int]:
    """How many batches there are, and how many of them are held out.

    Raises:
        FitError: fewer than two, or an iterator, which is gone after once.
        InputError: ``hold_out`` is no share, or leaves nothing to fit on.

    """
    if not 0 <= hold_out < 1:
        raise InputError(
            f"hold_out is the share of the batches that is held out, at least 0 and under 1: got {hold_out}"
        )
    if iter(batches) is batches:
        raise FitError(f"{what} goes over the data several times: pass a list or a DataLoader, not an iterator")
    total = len(batches) if isinstance(batches, Sized) else sum(1 for _ in batches)
    if total < 2:
        raise FitError(f"{what} needs at least two batches, one of them to stop by: got {total}")
    return total, min(total - 1, max(1, round(total * hold_out)))


def refuse_other_axes(squeeze: Squeeze, output: str) -> None:
    """Refuse maps without height and width, or with a third axis, such as those of clips.

    Raises:
        InputError: the maps of ``output`` are such.

    """
    for place in squeeze.places.values():
        rank = len(place.grid)
        if rank != 2:
            raise InputError(
                f"tuning, refiner and locator are made for maps of height and width; that of output '{output}' "
                f"has {rank} ax{'is' if rank == 1 else 'es'}: use method='class', which needs none of them"
            )


class Pictures:
    """One stream of pictures with the class evidence of one output.

    Raises:
        InputError: several streams, no class evidence, or no map with height and width.

    """

    def __init__(self, squeeze: Squeeze, output: str | None, inputs: Pick | None) -> None:
        self.squeeze, self.pick, self.output = squeeze, inputs, squeeze.output_name(output)
        head = squeeze.evidence(self.output)
        if head is None:
            raise InputError(
                f"this starts from class evidence, and output '{self.output}' has none: its classification layer is of "
                "no known form; squeeze.fit(batches) makes a read-out"
            )
        self.head = head
        if len(squeeze.places) > 1:
            raise InputError(f"this is for one stream, the model has {', '.join(squeeze.places)}")
        self.stream, self.place = next(iter(squeeze.places.items()))
        self.path = squeeze.input_paths[self.stream]
        self.layout = torch.contiguous_format
        refuse_other_axes(squeeze, self.output)

    def choose_layout(self, batch: Any) -> None:
        """Channels last where that is faster, on a CPU, and the model takes it (``view`` may not)."""
        call, pictures = self.call(batch)
        if pictures.device.type != "cpu":
            return
        try:
            with torch.no_grad():
                self.seen(tree.replace(call, self.path, pictures.contiguous(memory_format=torch.channels_last)))
        except RuntimeError:
            return
        self.layout = torch.channels_last

    def call(self, batch: Any) -> tuple[tree.Call, Tensor]:
        """The model's arguments, and the pictures among them, ``(N, C, H, W)``."""
        given, _ = split(batch, self.squeeze.positional, self.pick, None)
        device = next(self.squeeze.parameters()).device
        call = tree.as_call(tree.to_device(given, device))
        try:
            pictures = tree.get(call, self.path)
        except (KeyError, IndexError, TypeError):
            pictures = None
        if not isinstance(pictures, Tensor) or pictures.ndim != 4 or not pictures.is_floating_point():
            raise InputError(
                "this is fitted on pictures: expected a float tensor (N, C, H, W) as the model's input; got "
                f"{named(given)}; {in_a_fit(batch)}"
            )
        return call, pictures

    def seen(self, call: tree.Call) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values ``(N, K)`` of the output; features, and finer ones where they are read, both without gradients."""
        result, captures = self.squeeze.capture(call[0] or call[1])
        capture = next(iter(captures.values()))
        features = heatmap.at_least_float32(capture.features)
        if self.squeeze.apply_mode == "gate":
            features = features * (2 * capture.gates.detach()).view(*capture.gates.shape, 1, 1)
        values = self.squeeze.select(result, self.output)
        if values.ndim != 2 or values.shape[1] < 2:
            raise InputError(
                f"output '{self.output}' has shape {tuple(values.shape)}; expected classes (N, K), K at least 2"
            )
        finer = None if capture.finer is None else heatmap.at_least_float32(capture.finer)
        return values.float(), features, finer

    def speaking(self, call: tree.Call, pictures: Tensor, target: Tensor) -> Tensor:
        """What speaks for the classes ``target (N,)`` in other pictures of the same call, ``(N, H', W')``."""
        laid = pictures.contiguous(memory_format=self.layout)
        _, features, _ = self.seen(tree.replace(call, self.path, laid))
        return speaking_for(self.head, self.squeeze.model, features, target, self.squeeze.signed[self.stream])


class Moments:
    """Mean and deviation of each channel, batch by batch."""

    def __init__(self) -> None:
        self.count, self.total, self.squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, features: Tensor) -> None:
        """Features ``(N, C, H, W)``."""
        flat = features.transpose(0, 1).flatten(1).double()
        self.count += flat.shape[1]
        self.total = self.total.to(flat) + flat.sum(1)
        self.squares = self.squares.to(flat) + flat.square().sum(1)

    def found(self) -> tuple[Tensor, Tensor]:
        """Both, ``(C,)``."""
        mean = self.total / self.count
        return mean, (self.squares / self.count - mean.square()).clamp_min(0).sqrt()


def random_window(height: int, width: int, smallest: float, largest: float) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random window of the same proportions."""
    side = smallest + (largest - smallest) * float(torch.rand(()))
    high, wide = max(1, round(side * height)), max(1, round(side * width))
    top, left = (int(torch.randint(0, room + 1, ())) for room in (height - high, width - wide))
    return top, left, high, wide


def resized(pictures: Tensor, height: int, width: int) -> Tensor:
    """``(N, C, H, W)`` brought to this size, bilinear."""
    return F.interpolate(pictures, (height, width), mode="bilinear", align_corners=False)
