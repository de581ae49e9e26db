"""``squeezecam parity``: from labelled picture files to a study."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from squeezecam.commands.pictures import Failures
from squeezecam.errors import InputError
from squeezecam.models.loaded import LoadedModel
from squeezecam.parity.pictures import PictureSamples

if TYPE_CHECKING:
    from squeezecam.data.images import ImageSource


@dataclass(frozen=True)
class Labelled:
    """Pictures with what each is labelled: names of classes, class indices, or figures."""

    sources: list[ImageSource]
    labels: list[str | int | float]


@dataclass(frozen=True)
class Classes:
    """How labels become targets.

    Attributes:
        names: of the classes, in order; empty where the labels are numbers.
        outputs: of the network that are needed; None: it stays as it is.
        real: the labels are figures, for a regression.

    """

    names: tuple[str, ...]
    outputs: int | None
    real: bool

    def targets(self, labels: Sequence[str | int | float], where: str) -> Tensor:
        """Labels as a tensor ``(N,)``.

        Raises:
            InputError: a class that is none of the names.

        """
        if self.real:
            return torch.tensor([float(label) for label in labels])
        if not self.names:
            return torch.tensor([int(label) for label in labels])
        places = {name: i for i, name in enumerate(self.names)}
        for label in labels:
            if str(label) not in places:
                raise InputError(
                    f"{where} has a class '{label}', which the training data lack; they have {_few(places)}"
                )
        return torch.tensor([places[str(label)] for label in labels])


def read_labelled(data: Path, truth: Path | None, max_pixels: int) -> Labelled:
    """Pictures and labels of a folder with one sub-folder per class, of an ``.npz``, or of a folder with a CSV.

    Args:
        data: the folder, or an ``.npz`` with ``images`` and ``labels``.
        truth: a CSV with the columns ``file`` and ``label``; a file is named as it lies under the folder.
        max_pixels: refuse pictures with more.

    Raises:
        InputError: nothing that can be read, or pictures without labels.

    """
    from squeezecam.data.images import find_images

    sources = find_images([data], max_pixels=max_pixels)
    if truth is not None:
        return _from_csv(sources, data, truth)
    if all(source.index is not None for source in sources):
        if any(source.target is None for source in sources):
            raise InputError(f"{data} has no array 'labels': give one, or a CSV with --truth")
        return Labelled(sources, [source.target for source in sources if source.target is not None])
    labels: list[str | int | float] = []
    for source in sources:
        inside = source.path.relative_to(data).parts
        if len(inside) < 2:
            raise InputError(
                f"{source.label} lies in no sub-folder of {data}: a folder of data has one sub-folder per class, or "
                "comes with a CSV of labels (--truth)"
            )
        labels.append(inside[0])
    return Labelled(sources, labels)


def choose_classes(labels: Sequence[str | int | float], loaded: LoadedModel, task: str | None, keep: bool) -> Classes:
    """How these labels become targets for this model.

    Class names that the model knows mean its own classes. Other names are numbered in alphabetical order, and numbers
    are class indices: the network gets as many outputs, unless ``keep`` says that they are the model's own.

    Raises:
        InputError: names for a regression, or indices that are none.

    """
    real = task == "regression" or (task is None and any(isinstance(label, float) for label in labels))
    if real:
        if any(isinstance(label, str) for label in labels):
            raise InputError("a regression needs numbers as labels, got names such as " + _few(map(str, labels)))
        return Classes((), 1, True)
    if all(isinstance(label, int) for label in labels):
        lowest, highest = min(labels), max(labels)
        if int(lowest) < 0:
            raise InputError(f"class indices count from 0, got {lowest}")
        return Classes((), None if keep else int(highest) + 1, False)
    found = sorted({str(label) for label in labels})
    own = loaded.labels if isinstance(loaded.labels, tuple) else ()
    if own and set(found) <= set(own):
        return Classes(tuple(own), None, False)
    if keep:
        raise InputError(
            f"the model has no classes named {_few(found)}: leave --keep-head out, and it gets a new layer"
        )
    if len(found) < 2:
        raise InputError(f"there is one class only, '{found[0]}': a classification needs at least two")
    return Classes(tuple(found), len(found), False)


def picture_samples(
    loaded: LoadedModel,
    labelled: Labelled,
    classes: Classes,
    where: str,
    failures: Failures,
    advance: Callable[[int], None],
) -> PictureSamples:
    """The samples of a study."""
    return PictureSamples(
        loaded, labelled.sources, classes.targets(labelled.labels, where), failures.add, advance
    )  # fmt: skip


def fresh_builder(spec: str) -> Callable[[], nn.Module] | None:
    """What builds the model that ``spec`` names with fresh weights; None for files: their layers are reset."""
    from squeezecam.models.resolve import load_model

    kind = spec.partition(":")[0]
    if spec == "demo" or kind in ("timm", "torchvision", "hf"):
        return lambda: load_model(spec, random=True).model
    return None


def _from_csv(sources: Sequence[ImageSource], data: Path, truth: Path) -> Labelled:
    rows: dict[str, str] = {}
    try:
        with truth.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not {"file", "label"} <= set(reader.fieldnames or ()):
                there = ", ".join(reader.fieldnames or ()) or "nothing"
                raise InputError(f"{truth} lacks the columns 'file' and 'label'; it has {there}")
            rows = {row["file"]: row["label"] for row in reader}
    except OSError as error:
        raise InputError(f"cannot read {truth}: {(error.strerror or str(error)).lower()}") from None
    found: list[tuple[ImageSource, str]] = []
    for source in sources:
        inside = source.path.relative_to(data).as_posix() if data.is_dir() else str(source.index)
        label = rows.get(inside, rows.get(source.path.name) if data.is_dir() else None)
        if label not in (None, ""):
            assert label is not None
            found.append((source, label))
    if not found:
        raise InputError(
            f"{truth} names none of the {len(sources)} pictures in {data}: it has {_few(rows)}; expected names as they "
            "lie under the folder (for an .npz: the place of the picture in it, from 0)"
        )
    return Labelled([source for source, _ in found], _typed([label for _, label in found]))


def _typed(labels: list[str]) -> list[str | int | float]:
    """Whole numbers as int, figures as float, the rest as it is; all of one kind."""
    kinds: tuple[Callable[[str], Any], ...] = (int, float)
    for kind in kinds:
        try:
            values = [kind(label) for label in labels]
        except ValueError:
            continue
        if all(math.isfinite(value) for value in values):
            return list(values)
    return list(labels)


def _few(names: Any) -> str:
    listed = list(dict.fromkeys(names))
    return ", ".join(listed[:5]) + (" and others" if len(listed) > 5 else "")
