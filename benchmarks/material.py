"""What benchmarks measure on: trained models and photographs that lie beside the project, and the embedded default.

The material is looked for in the folder that ``SQUEEZECAM_MATERIAL`` names, else in ``../shared/material`` beside the
repository. Its README says which half of each data set is for tuning and fitting, and which one for reporting. Where it
is missing, that is an error with a reason, for benchmarks to skip by; ``demo_subject`` needs none.
"""

from __future__ import annotations

import csv
import importlib.util
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

SUBJECTS = ("mobilenet_v2", "squeezenet", "cifar_resnet20", "face_expression")
BOX_FRAME = 224
"""Side of the pictures that the boxes are measured in."""


class MissingMaterialError(Exception):
    """The material is not there; the message says where it was looked for."""


@dataclass
class Subject:
    """A trained model with pictures in two halves.

    Attributes:
        name: of the model.
        data: what the pictures are, in words.
        model: in evaluation mode, on the CPU.
        picture: index to what the model takes, ``(C, H, W)``.
        tuning, reporting: indices of the two halves.
        groups: class ``(all pictures,)`` that says what is left out of a fit; None: the predicted class.
        folds: groups that are left out together.
        boxes: per reporting index ``(B, 4)`` in pixels of the model's input, or None.
        hard: indices whose boxes are all small or off the centre.

    """

    name: str
    data: str
    model: nn.Module
    picture: Callable[[int], Tensor]
    tuning: list[int]
    reporting: list[int]
    groups: Tensor | None
    folds: tuple[tuple[int, ...], ...]
    boxes: dict[int, Tensor] | None = None
    hard: frozenset[int] = frozenset()

    def inputs(self, indices: Sequence[int]) -> Tensor:
        """Pictures at ``indices`` as the model takes them, ``(N, C, H, W)``."""
        return torch.stack([self.picture(i) for i in indices])


def folder() -> Path:
    """The material's folder.

    Raises:
        MissingMaterialError: it is not there.

    """
    beside = Path(__file__).resolve().parents[1] / ".." / "shared" / "material"
    found = Path(os.environ.get("SQUEEZECAM_MATERIAL") or beside).resolve()
    if not (found / "models.py").is_file():
        raise MissingMaterialError(f"no material at {found}: set SQUEEZECAM_MATERIAL to the folder of models.py")
    return found


def factories() -> ModuleType:
    """The module with the model factories; each returns ``(model, preprocess)``."""
    spec = importlib.util.spec_from_file_location("squeezecam_material_models", folder() / "models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load(name: str) -> tuple[nn.Module, Callable[[Image.Image], Tensor]]:
    """The model called ``name`` and its preprocessing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model, preprocess = getattr(factories(), name)()
    return model.requires_grad_(False), preprocess


def subject(name: str) -> Subject:
    """One of ``SUBJECTS`` with its halves and folds.

    Raises:
        MissingMaterialError: the material is not there.

    """
    model, preprocess = load(name)
    if name in ("mobilenet_v2", "squeezenet"):
        return _imagenet(name, model, preprocess)
    file, shape = {"cifar_resnet20": ("cifar10/test5000.npz", 10), "face_expression": ("faces/smiles.npz", 7)}[name]
    pictures = np.load(folder() / file)["images"]

    def picture(index: int) -> Tensor:
        return preprocess(Image.fromarray(pictures[index]).convert("RGB"))

    count = len(pictures)
    if shape == 10:
        halves = list(range(count // 2)), list(range(count // 2, count))
        folds: tuple[tuple[int, ...], ...] = (tuple(range(5)), tuple(range(5, 10)))
        said = f"{count // 2} CIFAR-10 test pictures to fit on, {count - count // 2} others to report on"
    else:  # few faces are predicted anything but happy or neutral
        halves = list(range(0, count, 2)), list(range(1, count, 2))
        folds = ((1,), (0,), (2, 3, 4, 5, 6))
        said = f"{(count + 1) // 2} faces to fit on, {count // 2} others to report on"
    return Subject(name, said, model, picture, *halves, None, folds)


def _imagenet(name: str, model: nn.Module, preprocess: Callable[[Image.Image], Tensor]) -> Subject:
    base = folder() / "imagenet"
    fit, report = (sorted((base / part).iterdir()) for part in ("fit1000", "boxes250"))
    files = [*fit, *report]
    synsets, boxes, hard = _boxes(base / "boxes250.csv")
    words = [file.name.split("_")[0] for file in fit] + [synsets[file.name] for file in report]
    kinds = sorted(set(words))

    def picture(index: int) -> Tensor:
        with Image.open(files[index]) as opened:
            return preprocess(opened.convert("RGB"))

    scale = picture(0).shape[-1] / BOX_FRAME
    reporting = list(range(len(fit), len(files)))
    return Subject(
        name,
        f"{len(fit)} ILSVRC training pictures of 5 classes to fit on, {len(report)} validation pictures to report on",
        model,
        picture,
        list(range(len(fit))),
        reporting,
        torch.tensor([kinds.index(word) for word in words]),
        ((0, 1), (2, 3), (4,)),
        {i: torch.tensor(boxes[files[i].name]) * scale for i in reporting},
        frozenset(i for i in reporting if hard[files[i].name]),
    )


def _boxes(path: Path) -> tuple[dict[str, str], dict[str, list[list[float]]], dict[str, bool]]:
    synsets: dict[str, str] = {}
    boxes: dict[str, list[list[float]]] = {}
    hard: dict[str, bool] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            name: Any = row["file"]
            synsets[name] = row["synset"]
            boxes.setdefault(name, []).append([float(row[key]) for key in ("x0", "y0", "x1", "y1")])
            hard[name] = hard.get(name, True) and row["hard"] == "1"
    return synsets, boxes, hard


def demo_subject() -> Subject:
    """The embedded default: digits left out by their class, pictures of sprites that the fit did not see."""
    from squeezecam.data.demo import DemoImages
    from squeezecam.models.demo import demo_model

    model, _ = demo_model()
    half = 600
    fit, report = DemoImages("train", half, seed=1), DemoImages("test", half, seed=2)

    def item(index: int) -> Any:
        return fit[index] if index < half else report[index - half]

    def picture(index: int) -> Tensor:
        return torch.from_numpy(item(index).image).permute(2, 0, 1).float() / 255

    every = range(2 * half)
    return Subject(
        "demo", f"{half} generated pictures of digits to fit on, {half} of other hands to report on", model, picture,
        list(every[:half]), list(every[half:]), torch.tensor([item(i).label for i in every]),
        (tuple(range(5)), tuple(range(5, 10))), {i: torch.tensor([item(i).box]) for i in every[half:]},
    )  # fmt: skip
