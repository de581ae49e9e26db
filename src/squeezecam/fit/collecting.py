"""One pass over the data, by one process or several, in memory or with a folder that keeps what was computed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from squeezecam import processes, tree
from squeezecam.errors import FitError
from squeezecam.fit.batches import Pick, Reader
from squeezecam.fit.cache import Cache, try_head
from squeezecam.fit.evidence import Evidence
from squeezecam.fit.features import Part, Seen, part_of, see
from squeezecam.fit.runner import HeadRunner
from squeezecam.fit.shards import Shards
from squeezecam.module import Squeeze

MAPS_LIMIT = 4 << 30
"""Bytes of cached maps after which no more are kept in memory; squeezed vectors have no limit."""
CACHE_LIMIT = 4 << 30
"""Bytes of features on disk that are taken into memory for the fit, evenly from all over the data."""


def collect(
    squeeze: Squeeze,
    batches: Iterable[Any],
    output: str,
    *,
    inputs: Pick | None,
    labels: Pick | None,
    windows: int,
    seed: int,
    advance: Callable[[int], None],
    device: torch.device,
    folder: str | Path | None = None,
    dtype: str = "float32",
) -> Cache | None:
    """Run the model once over ``batches``, without gradients and without gates, and keep what the fit needs.

    Whether squeezed vectors are enough is tried on the first batch: the head alone has to give the model's output on
    the maps, and again on maps that are replaced by their means. Several processes take every n-th batch each; with a
    ``folder`` the features are kept there and what it holds already is not computed again. All come to rank 0, in the
    order of the batches; the other processes get None.

    Raises:
        FitError: no batches, nothing finite, or a head that cannot be run on its own.
        InputError: the folder holds other features, or cannot be used.

    """
    world, rank = processes.world(), processes.rank()
    store: Shards | None = None
    tried: tuple[HeadRunner, dict[str, tuple[int, ...]] | None] | None = None
    first: Part | None = None
    parts: list[Part] = []
    done: set[int] = set()
    left_out = held = count = 0
    look = partial(see, squeeze, output=output, inputs=inputs, labels=labels, device=device)
    reader = Reader(batches, seed)
    for number, batch in reader:
        count = max(count, number + 1)
        mine = number % world == rank and number not in done
        if tried is not None and not mine:
            continue
        seen = None if batch is None else look(batch)
        if tried is None and seen is not None and seen.size:
            tried = try_head(squeeze, seen.given if bool(seen.good.all()) else _finite(seen), seen, output)
            if folder is not None:
                settings = _settings(squeeze, reader, seen, output, windows, tried[1], seed)
                held_fixed = [tree.show(path) for path in tried[0].per_sample]
                settings |= {"inputs beside the map": held_fixed} if held_fixed else {}
                store = Shards(folder, settings, dtype)
                done |= store.done
                for part in parts:  # what came before had nothing finite in it
                    if part.number not in done:
                        store.add(part)
                parts = []
                mine = mine and number not in done
            reader.want(partial(_is_mine, world, rank, done))
            advance(_done(store, rank))
        if not mine:
            continue
        if seen is None or tried is None:
            empty = Part(number, 0, 0 if seen is None else len(seen.good))
            if store is None:
                parts.append(empty)
            else:
                store.add(empty)
            continue
        beside = tried[0].per_sample
        part = part_of(squeeze, seen, number, whole=tried[1] is None, windows=windows, seed=seed, beside=beside)
        advance(part.size + part.skipped)
        if part.size and first is None:
            first = part
        if first is not None and part.size and (seen.values.ndim > 2 or tried[1] is None or beside):
            _check_lengths(part, first)
        if store is not None:
            store.add(part)
        elif (tried[1] is None or beside) and held > MAPS_LIMIT:
            left_out += part.size
        else:
            held += part.bytes
            parts.append(part)
    return _together(squeeze, tried, parts, store, _Count(reader.length(count), left_out), device)


@dataclass
class _Count:
    batches: int
    left_out: int


def _is_mine(world: int, rank: int, done: set[int], number: int) -> bool:
    return number % world == rank and number not in done


def _done(store: Shards | None, rank: int) -> int:
    if store is None or rank:
        return 0
    return sum(sum(shard.sizes) for shard in store.shards)


def _finite(seen: Seen) -> Any:
    """The samples of a batch's inputs that gave finite numbers: what the head is tried on."""
    given = seen.given
    for path, tensor in tree.leaves(given):
        if tensor.ndim and len(tensor) == len(seen.good):
            given = tree.replace(given, path, tensor[seen.good])
    return given


def _together(
    squeeze: Squeeze,
    tried: tuple[HeadRunner, dict[str, tuple[int, ...]] | None] | None,
    parts: list[Part],
    store: Shards | None,
    count: _Count,
    device: torch.device,
) -> Cache | None:
    """One cache of what all processes have, in rank 0."""
    left_out = count.left_out
    if processes.world() > 1:
        modes = processes.everyone(None if tried is None else str(tried[1]))
        if len(set(modes)) > 1:
            raise FitError("the processes disagree on how the head runs: are model and data the same in all of them?")
    if store is not None:
        store.finish(count.batches)
        parts, left_out = store.read(CACHE_LIMIT) if processes.rank() == 0 else ([], 0)
    elif processes.world() > 1:
        gathered = processes.at_first([replace(p, tensors={n: t.cpu() for n, t in p.tensors.items()}) for p in parts])
        parts = sorted((part for found in gathered for part in found), key=lambda part: part.number)
        left_out = sum(processes.everyone(left_out))
    if processes.rank() != 0:
        return None
    skipped = sum(part.skipped for part in parts)
    if tried is None and not skipped:
        raise FitError(
            "there was not a single batch to fit on: an iterator that was used up before? Pass a list or a DataLoader"
        )
    if tried is None:
        raise FitError(
            f"all {skipped} samples give NaN or infinity in the features or the output: check weights and preprocessing"
        )
    return _assembled(squeeze, *tried, [part for part in parts if part.size], skipped, left_out, device)


def _assembled(
    squeeze: Squeeze,
    runner: HeadRunner,
    grids: dict[str, tuple[int, ...]] | None,
    parts: list[Part],
    skipped: int,
    left_out: int,
    device: torch.device,
) -> Cache:
    streams = list(squeeze.places)
    labelled = all("labels" in part.tensors for part in parts)
    evidence = Evidence.of(squeeze)
    for stream in evidence.pools:
        found = [
            part.tensors.pop(f"vectors.{stream}").to(device) for part in parts if f"vectors.{stream}" in part.tensors
        ]
        if found:
            evidence.vectors[stream] = found
    for name, kept in evidence.answers.items():
        kept += [part.tensors.pop(f"answers.{name}").to(device) for part in parts]

    def joined(name: str) -> Tensor | None:
        found = [part.tensors.pop(name) for part in parts if name in part.tensors]
        return torch.cat(found).to(device) if found else None

    squeezed = {s: z for s in streams if (z := joined(f"squeezed.{s}")) is not None}
    windows = {s: z.transpose(0, 1).flatten(0, 1) for s in streams if (z := joined(f"windows.{s}")) is not None}
    maps = {s: u for s in streams if (u := joined(f"maps.{s}")) is not None}
    values = joined("values")
    assert values is not None
    labels = joined("labels") if labelled else None
    beside = [rows for i in range(len(runner.per_sample)) if (rows := joined(f"beside.{i}")) is not None]
    return Cache(squeezed, windows, maps, values, labels, runner, grids, evidence, skipped, left_out, beside)


def _settings(
    squeeze: Squeeze,
    reader: Reader,
    seen: Seen,
    output: str,
    windows: int,
    grids: dict[str, tuple[int, ...]] | None,
    seed: int,
) -> dict[str, Any]:
    """What cached features depend on, in words that an error can name."""
    from squeezecam.adapter import fingerprint

    digest = hashlib.sha256()
    for _, tensor in tree.leaves(seen.given):
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return {
        "model": fingerprint(squeeze.model),
        "place": {stream: place.describe() for stream, place in squeeze.places.items()},
        "output": output,
        "frames": squeeze.per_frame,
        "windows": 0 if grids is None else windows,
        "kind": "maps" if grids is None else "vectors",
        "seed": seed,
        "data": {"first batch": digest.hexdigest(), **reader.identity()},
    }


def _check_lengths(part: Part, first: Part) -> None:
    def shapes(given: Part) -> dict[str, tuple[int, ...]]:
        kinds = ("maps.", "beside.")
        return {n: tuple(t.shape[1:]) for n, t in given.tensors.items() if n == "values" or n.startswith(kinds)}

    found, wanted = shapes(part), shapes(first)
    if found != wanted:
        given, known = (
            ", ".join(f"{n.removeprefix('maps.')} {shape}" for n, shape in sorted(named.items()) if n != "values")
            for named in (found, wanted)
        )
        raise FitError(
            f"the maps of this batch ({given or 'none'}) differ in size from those of the first ({known}): for clips "
            "of several lengths cut windows of one length to fit on; what is fitted then serves clips of any length"
        )
