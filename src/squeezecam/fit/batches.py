"""What in a batch is input and what is label."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from squeezecam import loading, tree
from squeezecam.errors import FitError, InputError
from squeezecam.misfed import named
from squeezecam.module import Squeeze
from squeezecam.sides import as_classes

Pick = Callable[[Any], Any]
LABEL_KEYS = ("labels", "label", "targets", "target", "y")


def split(batch: Any, positional: int, inputs: Pick | None, labels: Pick | None) -> tuple[Any, Any]:
    """``(inputs, labels or None)`` of a batch.

    Understood without help: a tensor; ``(x,)``; ``(x, y)``; for models of several positional arguments a tuple of that
    many, or with labels at the end; a dict with its labels under one of ``labels``, ``label``, ``targets``,
    ``target``, ``y``.

    Raises:
        InputError: none of these, and no ``inputs`` function was given.

    """
    for name, pick in (("inputs", inputs), ("labels", labels)):
        if pick is not None and not callable(pick):
            raise InputError(
                f"{name} is {pick!r}; expected a function that takes it out of a batch, such as {name}=lambda batch: "
                f"batch[{pick!r}]"
            )
    if inputs is not None:
        return inputs(batch), labels(batch) if labels is not None else None
    found: Any = None
    if isinstance(batch, Tensor):
        given: Any = batch
    elif isinstance(batch, Mapping):
        key = next((k for k in LABEL_KEYS if k in batch), None)
        found = batch[key] if key else None
        given = {k: v for k, v in batch.items() if k != key}
    elif isinstance(batch, (tuple, list)) and len(batch) == positional:
        given = batch[0] if positional == 1 else tuple(batch)
    elif isinstance(batch, (tuple, list)) and len(batch) == positional + 1:
        given, found = (batch[0] if positional == 1 else tuple(batch[:positional])), batch[positional]
    else:
        what = f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise InputError(
            f"cannot tell inputs from labels in a batch of type {what} for a model that takes {positional} positional "
            "argument(s): pass inputs=lambda batch: ... (and labels=...)"
        )
    return given, labels(batch) if labels is not None else found


def label_tensor(labels: Any, output: str) -> Tensor:
    """Labels of one output as a tensor; a dict of labels is looked up by the output's name."""
    if isinstance(labels, Mapping):
        if output not in labels:
            raise FitError(f"labels are a dict without '{output}': it has {', '.join(map(str, labels))}")
        labels = labels[output]
    try:
        tensor = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):  # text, or rows of several lengths
        raise FitError(
            f"labels are {named(labels)} and not numbers: give class indices from 0, or values for a regression; "
            "labels=lambda batch: ... makes them from a batch"
        ) from None
    if not tree.leaves(tensor):
        raise FitError("labels could not be made a tensor")
    return tensor


def labels_of(squeeze: Squeeze, labels: Any, output: str) -> Tensor:
    """The same for an output of ``squeeze``: class indices where that is read as two sides."""
    tensor = label_tensor(labels, output)
    return as_classes(tensor) if output in squeeze.binary else tensor


def guess_task(values: Tensor, labels: Tensor | None, *, alone: bool = False) -> str:
    """``classification``, ``multi-label`` or ``regression`` from what the output and the labels look like; ``alone``
    says that each of several values is known for a label by itself, which decides where there are no labels, and where
    every row of the labels adds up to 1: one of them, or shares of a mixture, is else classification.
    """
    if values.ndim == 1 or values.shape[-1] == 1:
        binary = labels is not None and bool(((labels == 0) | (labels == 1)).all())
        return "multi-label" if binary else "regression"
    if labels is not None and labels.ndim == values.ndim:
        if not alone and shares_of_classes(labels):
            return "classification"
        known = labels[~labels.isnan()]
        shares, signs = ((known >= 0) & (known <= 1)).all(), ((known == -1) | (known == 0) | (known == 1)).all()
        return "multi-label" if bool(shares | signs) else "regression"  # check_labels refuses -1
    return "multi-label" if alone and labels is None else "classification"


def shares_of_classes(labels: Tensor) -> bool:
    """Whether rows of labels ``(..., K)`` are one-hot, or shares of classes as mixing pictures makes them."""
    return bool((labels >= 0).all()) and bool(((labels.sum(-1) - 1).abs() < 1e-3).all())


def class_indices(labels: Tensor, values: Tensor) -> Tensor:
    """Labels of classes as indices: of shares, as :func:`shares_of_classes` has them, the largest."""
    return labels.argmax(-1) if labels.shape == values.shape and values.ndim > 1 else labels


def check_labels(values: Tensor, labels: Tensor | None, task: str) -> None:
    """Refuse labels that do not fit an output, or that are none of yes and no where these are meant.

    Raises:
        FitError: other shapes, or for ``multi-label`` numbers outside [0, 1]. NaN is a label that is not known.

    """
    if labels is None or task == "classification":
        return
    if labels.numel() != values.numel():
        raise FitError(f"labels of shape {tuple(labels.shape)} do not fit an output of shape {tuple(values.shape)}")
    if task == "multi-label" and bool(((labels < 0) | (labels > 1)).any()):
        raise FitError(
            f"labels of yes or no are 1 and 0, these go from {float(labels.min()):.4g} to {float(labels.max()):.4g}: "
            "make 0 of -1 where that means no, NaN where it means that nobody knows"
        )


class Reader:
    """Batches with their numbers; after :meth:`want` only those that are wanted, where they can be read singly.

    Args:
        batches: any iterable. A ``DataLoader``, a list or another sequence is read by number; an item None is a batch
            of which nothing could be read. ``identity()``, where it has one, says what the data are.
        seed: of the order and of what is drawn while a batch is read.

    """

    def __init__(self, batches: Any, seed: int) -> None:
        self.batches, self.seed = batches, seed
        self.wanted: Callable[[int], bool] | None = None
        self.singly = loading.by_index(batches)

    def want(self, wanted: Callable[[int], bool]) -> None:
        """From the next batch on, only those for which ``wanted(number)`` is true."""
        self.wanted = wanted

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        if not self.singly:
            yield from enumerate(self.batches)
            return
        loading.tell_epoch(self.batches, 0)
        self.order = loading.order_of(self.batches, self.seed, 0)
        number = 0
        while number < len(self.order) and self.wanted is None:  # until somebody knows what he wants, one by one
            yield number, next(iter(loading.read(self.batches, self.order, [number], self.seed, 0)))
            number += 1
        wanted = self.wanted
        if wanted is not None:
            left = [n for n in range(number, len(self.order)) if wanted(n)]
            yield from zip(left, loading.read(self.batches, self.order, left, self.seed, 0), strict=True)

    def length(self, seen: int) -> int:
        """How many batches there are, given that the highest number seen was ``seen - 1``."""
        return len(self.order) if self.singly else seen

    def identity(self) -> dict[str, Any]:
        """What is known about the data without reading them."""
        told = getattr(self.batches, "identity", None)
        known: dict[str, Any] = {"data": told()} if callable(told) else {}
        if self.singly:
            known["batches"] = len(self.order)
            data: Any = getattr(self.batches, "dataset", None)
            known["samples"] = len(data) if hasattr(data, "__len__") else None
        return known
