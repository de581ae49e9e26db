"""A data set as something to measure on: its classes as targets, its boxes or masks as truth."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from squeezecam.data.geometry import Box, Geometry, Seen
from squeezecam.data.pixels import DEFAULT_MAX_PIXELS, display, read_image
from squeezecam.data.record import DataSet, Record
from squeezecam.errors import InputError
from squeezecam.evaluation.source import Item
from squeezecam.evaluation.truth import in_frame, mask_in_frame

if TYPE_CHECKING:
    from PIL.Image import Image

Explained = Literal["label", "predicted"]
Where = Literal["boxes", "masks"]


class LabelledSource:
    """Pictures of a data set with what is known about them, as `squeezecam.evaluation.source.Source` wants it.

    Args:
        data: the set.
        preprocess: a picture (PIL, RGB) to ``(C, H, W)``.
        target: ``"label"``: each class that a picture has is an item of its own, explained and looked for where that
            class is (in a multi-label set as Zhang et al., IJCV 2018, do it); ``"predicted"``: one item per picture,
            explained for the class that the model predicts and looked for at any object; an int: that class for all
            pictures, looked for where it is.
        where: by which truth; None: masks where all pictures have one, else boxes.
        per_class: with ``"label"``: at most so many items of each class, drawn with ``seed``.
        classes: with ``"label"``: only these.
        seed: see ``per_class``.
        max_pixels: refuse pictures with more.

    Raises:
        InputError: a target that the set does not have, masks where there are none, or nothing to measure on.
    """

    def __init__(
        self,
        data: DataSet,
        preprocess: Callable[[Image], Tensor],
        *,
        target: Explained | int = "label",
        where: Where | None = None,
        per_class: int | None = None,
        classes: Sequence[int] | None = None,
        seed: int = 0,
        max_pixels: int | None = DEFAULT_MAX_PIXELS,
    ) -> None:
        if isinstance(target, int) and not 0 <= target < len(data.classes):
            raise InputError(f"class {target} of '{data.name}', which has {len(data.classes)} classes, counted from 0")
        if where is None:
            where = "masks" if len(data) and all(record.mask for record in data.records) else "boxes"
        self.data, self.preprocess, self.target, self.where, self.max_pixels = (
            data,
            preprocess,
            target,
            where,
            max_pixels,
        )
        self.geometry = Geometry(preprocess)
        self.items = self._items(classes)
        if per_class is not None and target == "label":
            self.items = _some(self.items, per_class, seed)
        if not self.items:
            placed = "" if data.placed is None or data.placed else "; its list of landmarks is missing"
            raise InputError(f"'{data.name}' ({data.split}) has no picture with a class to look for{placed}")
        self.subset: Sequence[str] = ()

    @property
    def truth(self) -> bool:
        """Whether it is known where something is; of regions of a class only where the class is."""
        return self.where == "masks" or self.data.placed is None or self.target != "predicted"

    @property
    def targets(self) -> bool:
        """Whether the items name the class to explain."""
        return self.target != "predicted"

    def names(self) -> list[str]:
        """Files, with the class where that is what is looked for."""
        found = []
        for index, label in self.items:
            file = display(self.data[index].path)
            found.append(
                f"{file} [{self.data.classes[label]}]" if self.target == "label" and label is not None else file
            )
        return found

    def load(self, index: int) -> Item:
        """Read and preprocess one picture, and bring its truth into the network's frame.

        Raises:
            InputError: a file that cannot be read, or a preprocessing that does not say where it looks.
        """
        number, label = self.items[index]
        record = self.data[number]
        picture = read_image(record.path, max_pixels=self.max_pixels)
        try:
            tensor = self.preprocess(picture)
        except Exception as error:  # somebody else's preprocessing
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"the preprocessing failed on {display(record.path)}: {reason}") from error
        boxes = mask = None
        if self.truth:
            seen = self.geometry.seen(picture.size)
            if seen.box is None:
                raise InputError(
                    f"{display(record.path)}: what is known about it cannot be brought into the network's frame: where "
                    f"the preprocessing looks is not known ({seen.reason})"
                )
            boxes, mask = self._truth(record, label, picture.size, seen, seen.box, tensor)
        return Item(tensor, boxes, mask, label)

    def subsets(self, index: int) -> list[str]:
        """The class that is looked for."""
        label = self.items[index][1]
        return [] if label is None else [self.data.classes[label]]

    def identity(self) -> object:
        """Files, their sizes and dates, and what is looked for in them."""
        stats = []
        for index, label in self.items:
            path = self.data[index].path
            stat = path.stat() if path.is_file() else None
            stats.append((str(path), label, stat.st_size if stat else 0, stat.st_mtime_ns if stat else 0))
        words: Any = (self.data.name, self.data.split, self.data.classes, self.where, self.target, stats)
        return hashlib.sha256(repr(words).encode()).hexdigest()

    def _items(self, classes: Sequence[int] | None) -> list[tuple[int, int | None]]:
        if self.target == "predicted":
            return [(i, None) for i in range(len(self.data))]
        if isinstance(self.target, int):
            return [(i, self.target) for i in range(len(self.data))]
        placed = self.data.placed
        return [
            (i, label)
            for i, record in enumerate(self.data.records)
            for label in record.labels
            if (classes is None or label in classes) and (placed is None or label in placed)
        ]

    def _truth(
        self, record: Record, label: int | None, size: tuple[int, int], seen: Seen, box: Box, tensor: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        height, width = tensor.shape[-2:]
        if self.where == "boxes":
            return in_frame(record.boxes_of(label), box, width, height, seen.mirrored), None
        if record.mask is None:
            raise InputError(f"{display(record.path)} has no mask; measure by boxes")
        mask = record.mask.read(label)
        if mask.shape != (size[1], size[0]):
            raise InputError(
                f"{display(record.mask.path)} has {mask.shape[1]}x{mask.shape[0]} pixels, "
                f"its picture {size[0]}x{size[1]}"
            )
        return None, seen.upright(mask_in_frame(torch.from_numpy(mask), box, width, height))


def _some(items: list[tuple[int, int | None]], count: int, seed: int) -> list[tuple[int, int | None]]:
    """At most ``count`` items of each class, in their order; the same ones whatever other classes there are."""
    groups: dict[int | None, list[int]] = {}
    for place, (_, label) in enumerate(items):
        groups.setdefault(label, []).append(place)
    kept = []
    for label, places in groups.items():
        generator = torch.Generator().manual_seed(seed * 1_000_003 + (0 if label is None else label))
        order = torch.randperm(len(places), generator=generator)[:count].tolist()
        kept += [places[i] for i in order]
    return [items[place] for place in sorted(kept)]
