"""Batches by their number: only those that are wanted, in an order and with random draws that can be found again.

A ``DataLoader`` over a map-style dataset and anything with a length and an index are read by number: what is not wanted
costs nothing. Everything else is gone through in turn.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from squeezecam.randomness import derive, seeded


def by_index(batches: Any) -> bool:
    """Whether single batches can be read without those before them."""
    if isinstance(batches, DataLoader):  # a subclass that iterates in a way of its own is taken at its word
        return not isinstance(batches.dataset, IterableDataset) and type(batches).__iter__ is DataLoader.__iter__
    return (
        hasattr(batches, "__getitem__") and hasattr(batches, "__len__") and not isinstance(batches, (Tensor, Mapping))
    )


def parts_of(batches: Any) -> list[Any]:
    """A loader and what it is made of."""
    batch_sampler = getattr(batches, "batch_sampler", None)
    names = ("dataset", "sampler", "collate_fn")
    found = [batches, *(getattr(batches, name, None) for name in names), batch_sampler]
    found.append(getattr(batch_sampler, "sampler", None))
    return list({id(part): part for part in found if part is not None}.values())


def tell_epoch(batches: Any, epoch: int) -> None:
    """Tell the number of the epoch to whatever in a loader has ``set_epoch``."""
    for part in parts_of(batches):
        told = getattr(part, "set_epoch", None)
        if callable(told):
            told(epoch)


def order_of(batches: Any, seed: int, epoch: int) -> list[Any]:
    """What each batch is made of: lists of indices, or single ones; the same for the same seed and epoch."""
    if not isinstance(batches, DataLoader):
        return list(range(len(batches)))
    drawn = derive(seed, "order", epoch)
    for part in parts_of(batches):
        generator = getattr(part, "generator", None)
        if isinstance(generator, torch.Generator):
            generator.manual_seed(drawn)
    with seeded(drawn):
        return list(batches.batch_sampler if batches.batch_sampler is not None else batches.sampler)


def read(batches: Any, order: Sequence[Any], numbers: Iterable[int], seed: int, epoch: int) -> Iterator[Any]:
    """The batches with these numbers; what is drawn while one is read depends on seed, epoch and its number alone."""
    keys = [(derive(seed, "data", epoch, number), order[number]) for number in numbers]
    if not isinstance(batches, DataLoader):
        for drawn, index in keys:
            with seeded(drawn):
                batch = batches[index]
            yield batch
        return
    source: Any = _ByNumber(batches.dataset, batches.collate_fn, batches.batch_sampler is not None)
    options: dict[str, Any] = {"prefetch_factor": batches.prefetch_factor} if batches.num_workers else {}
    yield from DataLoader(
        source, batch_size=None, sampler=keys, num_workers=batches.num_workers, collate_fn=_as_it_is,
        pin_memory=batches.pin_memory, timeout=batches.timeout, worker_init_fn=batches.worker_init_fn,
        multiprocessing_context=batches.multiprocessing_context, generator=torch.Generator(), **options,
    )  # fmt: skip


def in_turn(batches: Iterable[Any], seed: int, epoch: int) -> Iterator[Any]:
    """All batches one after the other, each read under the random numbers that belong to it."""
    with seeded(derive(seed, "order", epoch)):
        reader = iter(batches)
    for number in itertools.count():
        with seeded(derive(seed, "data", epoch, number)):
            try:
                batch = next(reader)
            except StopIteration:
                return
        yield batch


class _ByNumber:
    """Loads and collates a whole batch under a seed of its own, in whatever process that happens."""

    def __init__(self, dataset: Any, collate: Callable[[Any], Any], several: bool) -> None:
        self.dataset, self.collate, self.several = dataset, collate, several

    def __getitem__(self, key: tuple[int, Any]) -> Any:
        seed, index = key
        with seeded(seed):
            if not self.several:
                return self.collate(self.dataset[index])
            together = getattr(self.dataset, "__getitems__", None)
            return self.collate(together(index) if together else [self.dataset[i] for i in index])


def _as_it_is(batch: Any) -> Any:
    return batch
