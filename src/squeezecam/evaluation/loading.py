"""Pictures of a batch, those of one shape together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from squeezecam.errors import InputError
from squeezecam.evaluation.source import Item, Source, check_picture

Group = tuple[list[int], Tensor, list[Item]]
Loaded = tuple[list[Group], list[tuple[str, str]]]


def load(
    source: Source, indices: Sequence[int], names: Sequence[str], rank: int, report: Callable[[str], None]
) -> Loaded:
    """Pictures of one shape together, for maps of ``rank`` axes, and what could not be read."""
    groups: dict[tuple[int, ...], tuple[list[int], list[Item]]] = {}
    failures = []
    for index in indices:
        try:
            item = source.load(index)
        except InputError as error:
            failures.append((names[index], str(error)))
            report(str(error))
            continue
        check_picture(item.picture, names[index], rank)
        found = groups.setdefault(tuple(item.picture.shape), ([], []))
        found[0].append(index)
        found[1].append(item)
    return [(i, torch.stack([x.picture for x in items]), items) for i, items in groups.values()], failures


def drawn(count: int, sample: int | None, seed: int) -> list[int]:
    """Numbers of the images to work on: all, or ``sample`` of them drawn with ``seed``, in order."""
    if count == 0:
        raise InputError("there is not a single image to evaluate on")
    if sample is None or sample >= count:
        return list(range(count))
    return sorted(torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:sample].tolist())


def picture_seed(seed: int, index: int) -> int:
    """The seed of what is random about one picture, the same in whatever batch it stands."""
    return seed * 1_000_003_000 + index
