"""The batches of an epoch, for one process among several, in an order that can be found again."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from torch.utils.data import DistributedSampler

from squeezecam import loading
from squeezecam.errors import InputError
from squeezecam.training.plan import shares

Group = list[tuple[Any, bool]]
"""The batches that one process takes for one step, each with whether it counts."""


class Epochs:
    """Cuts every epoch of ``loader`` into steps of ``world * accumulate`` batches and reads this process's part.

    A ``DataLoader`` over a map-style dataset, or a list, is read by index: a process touches only its own batches, and
    skipping costs nothing. Anything else that can be gone through again is read whole by every process. The order of an
    epoch, and what is drawn while a batch is loaded (augmentation), depend on seed, epoch and number of the batch
    alone: not on workers, processes or what came before. Whatever has ``set_epoch`` (dataset, sampler, collate
    function) is told.

    Raises:
        InputError: an iterator, which could be read only once; a loader that was divided among processes already.

    """

    def __init__(self, loader: Iterable[Any], *, world: int, rank: int, accumulate: int, seed: int) -> None:
        if iter(loader) is loader:
            raise InputError(
                "training goes over the data several times: give a DataLoader, a list or another iterable that can be "
                "begun again, not an iterator"
            )
        self.loader = loader
        self.world, self.rank, self.seed = world, rank, seed
        self.group = world * accumulate
        if world > 1 and any(isinstance(part, DistributedSampler) for part in loading.parts_of(loader)):
            raise InputError(
                "the loader has a DistributedSampler, but training divides the data itself: give a loader over all of "
                "it, the same in every process"
            )

    def __len__(self) -> int:
        """Steps in an epoch; raises TypeError where the loader does not know its length."""
        return -(-len(self.loader) // self.group)  # type: ignore[arg-type]

    def steps(self, epoch: int, skip: int = 0) -> Iterator[Group]:
        """The steps of an epoch after the first ``skip``."""
        loading.tell_epoch(self.loader, epoch)
        return self._by_index(epoch, skip) if loading.by_index(self.loader) else self._in_turn(epoch, skip)

    def _by_index(self, epoch: int, skip: int) -> Iterator[Group]:
        order = loading.order_of(self.loader, self.seed, epoch)
        starts = range(skip * self.group, len(order), self.group)
        plan = [shares(start, min(start + self.group, len(order)), self.world, self.rank) for start in starts]
        reader = loading.read(self.loader, order, [share.batch for part in plan for share in part], self.seed, epoch)
        for part in plan:
            yield [(next(reader), share.counts) for share in part]

    def _in_turn(self, epoch: int, skip: int) -> Iterator[Group]:
        reader = loading.in_turn(self.loader, self.seed, epoch)
        for number in itertools.count():
            batches = list(itertools.islice(reader, self.group))
            if batches and number >= skip:
                mine = shares(0, len(batches), self.world, self.rank)
                yield [(batches[share.batch], share.counts) for share in mine]
            if len(batches) < self.group:
                return
