"""Data for a parity study: inputs by index, and their labels."""

from __future__ import annotations

import hashlib
from typing import Any, Protocol

import torch
from torch import Tensor

from squeezecam import tree
from squeezecam.errors import InputError


class Samples(Protocol):
    """Labelled samples. ``labels`` has one row per sample; ``inputs`` gives what the model takes for some of them."""

    labels: Tensor

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def inputs(self, index: Tensor) -> Any:
        """A batch of the samples in ``index`` (M,), as the model takes it."""
        ...

    def identity(self) -> str:
        """Hex digits that change when the data change."""
        ...


class InMemory:
    """Samples that lie in memory.

    Args:
        data: a tensor with samples on the first axis, or a tuple or dict of these, as the model takes them.
        labels: ``(N,)`` class indices or figures, or ``(N, ...)``.

    Raises:
        InputError: no tensors, or not one label for each sample.

    """

    def __init__(self, data: Any, labels: Any) -> None:
        found = tree.leaves(data)
        if not found:
            raise InputError(
                f"the data hold no tensor, they are {type(data).__name__}: give a tensor, or a tuple of them"
            )
        self.data, self.labels = data, torch.as_tensor(labels)
        counts = {len(tensor) for _, tensor in found} | {len(self.labels)}
        if len(counts) != 1:
            raise InputError(
                f"data and labels differ in number: {', '.join(str(len(t)) for _, t in found)} samples and "
                f"{len(self.labels)} labels"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, index: Tensor) -> Any:
        """The samples in ``index``."""
        chosen = self.data
        for path, tensor in tree.leaves(self.data):
            chosen = tree.replace(chosen, path, tensor[index.to(tensor.device)])
        return chosen

    def identity(self) -> str:
        """A digest of all values."""
        parts = hashlib.sha256()
        for _, tensor in [*tree.leaves(self.data), ((), self.labels)]:
            parts.update(str((tensor.dtype, tuple(tensor.shape))).encode())
            parts.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return parts.hexdigest()[:16]


def as_samples(given: Any, what: str) -> Samples:
    """``given`` itself, or ``(inputs, labels)`` as samples.

    Raises:
        InputError: neither of these.

    """
    if hasattr(given, "inputs") and hasattr(given, "labels"):
        found: Samples = given
        return found
    if isinstance(given, (tuple, list)) and len(given) == 2:
        return InMemory(given[0], given[1])
    raise InputError(f"{what} must be (inputs, labels), got {type(given).__name__}")


class Subset:
    """Some of the samples, in the order of ``index``."""

    def __init__(self, samples: Samples, index: Tensor) -> None:
        self.samples, self.index, self.labels = samples, index, samples.labels[index]

    def __len__(self) -> int:
        return len(self.index)

    def inputs(self, index: Tensor) -> Any:
        """The samples in ``index``, counted within the subset."""
        return self.samples.inputs(self.index[index])

    def identity(self) -> str:
        """Changes with the samples and with the choice."""
        chosen = hashlib.sha256(self.index.numpy().tobytes()).hexdigest()
        return hashlib.sha256((self.samples.identity() + chosen).encode()).hexdigest()[:16]


def split(samples: Samples, share: float, seed: int) -> tuple[Subset, Subset]:
    """To train on and to test on, ``share`` of them: drawn within each class where the labels are classes."""
    if not 0 < share < 1:
        raise InputError(f"the share to test on must lie in (0, 1), got {share}")
    generator = torch.Generator().manual_seed(seed)
    labels = samples.labels
    whole = torch.arange(len(samples))
    classes = labels.ndim == 1 and not labels.is_floating_point()
    groups = [whole[labels == value] for value in labels.unique()] if classes else [whole]
    chosen = [group[torch.randperm(len(group), generator=generator)] for group in groups]
    tested = torch.cat([group[: round(share * len(group))] for group in chosen]).sort().values
    trained = torch.cat([group[round(share * len(group)) :] for group in chosen]).sort().values
    if not len(tested) or not len(trained):
        raise InputError(f"{len(samples)} samples are too few to keep a share of {share:g} for the test")
    return Subset(samples, trained), Subset(samples, tested)
