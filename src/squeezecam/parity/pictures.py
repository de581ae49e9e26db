"""Labelled picture files as samples: preprocessed once, kept in memory as far as they fit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from squeezecam.errors import InputError
from squeezecam.models.loaded import LoadedModel
from squeezecam.wording import number_of

if TYPE_CHECKING:
    from squeezecam.data.images import ImageSource

KEPT_BYTES = 2 << 30
"""Of preprocessed pictures; further ones are read anew in every pass."""


class PictureSamples:
    """Picture files with their labels, as the model takes them.

    Every picture is read once here, so that what cannot be read is known before a training begins.

    Args:
        loaded: the model and its preprocessing.
        sources: the pictures.
        labels: ``(N,)``, one for each.
        failed: told the name of a picture that cannot be used, and why; it is left out.
        advance: told of every picture.

    Raises:
        InputError: pictures of different shapes after the preprocessing, or not a single one that can be read.

    """

    def __init__(
        self,
        loaded: LoadedModel,
        sources: Sequence[ImageSource],
        labels: Tensor,
        failed: Callable[[str, str], None],
        advance: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.loaded = loaded
        self.kept: dict[int, Tensor] = {}
        good: list[int] = []
        self.sources: list[ImageSource] = []
        shape: tuple[int, ...] | None = None
        size = 0
        for number, source in enumerate(sources):
            advance(1)
            try:
                tensor = self._read(source)
            except InputError as error:
                failed(source.label, str(error))
                continue
            if shape is not None and tensor.shape != shape:
                raise InputError(
                    f"{source.label} becomes a tensor {tuple(tensor.shape)}, the pictures before it {shape}: training "
                    "needs one shape; give a preprocessing that brings all to one size"
                )
            shape = tuple(tensor.shape)
            size += tensor.numel() * tensor.element_size()
            if size <= KEPT_BYTES:
                self.kept[len(good)] = tensor
            good.append(number)
            self.sources.append(source)
        if not good:
            raise InputError(f"0 of {number_of(len(sources), 'picture')} could be read: there is nothing to train on")
        self.labels = labels[good]

    def __len__(self) -> int:
        return len(self.sources)

    def inputs(self, index: Tensor) -> Any:
        """The pictures in ``index``, as the model takes them."""
        chosen = [self.kept[i] if i in self.kept else self._read(self.sources[i]) for i in index.tolist()]
        return self.loaded.make_inputs(torch.stack(chosen))

    def identity(self) -> str:
        """Names, sizes and dates of the files, and the labels."""
        stats = [(s.label, s.path.stat().st_size, s.path.stat().st_mtime_ns) for s in self.sources]
        return hashlib.sha256(repr((stats, self.labels.tolist())).encode()).hexdigest()[:16]

    def _read(self, source: ImageSource) -> Tensor:
        picture = source.read()
        try:
            return self.loaded.preprocess(picture)
        except Exception as error:  # somebody else's preprocessing
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"the preprocessing of {self.loaded.name} failed on {source.label}: {reason}") from None
