"""Features on disk: safetensors shards and a JSON index, written by any number of processes, resumable and checked.

``index.json`` says what the features depend on and, once all are there, which shards hold which batches. Until then
every process keeps a list of its own, ``progress-RANK.jsonl``. A shard that is missing, cut short or changed does not
match its checksum and is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from squeezecam import processes
from squeezecam.errors import InputError
from squeezecam.files import output_folder, plain, write_bytes, write_json
from squeezecam.fit.features import Part

FORMAT = "squeezecam-features/1"
SAMPLES, BYTES, SECONDS = 1024, 64 << 20, 60.0
"""A shard is closed when it has so many samples, is so large, or was begun so long ago."""
INDEX = "index.json"
DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Shard:
    """One file: its checksum, the batches in it, and how many samples each gave and lost."""

    file: str
    sha256: str
    batches: list[int]
    sizes: list[int]
    skipped: list[int]


class Shards:
    """The features of one model on one set of data, in a folder.

    All processes open it together. :attr:`done` are the batches that need not be run again.

    Args:
        folder: where; it is made if it is missing.
        settings: all that the features depend on, the data included.
        dtype: of squeezed vectors and windows on disk; values and labels keep their own.

    Raises:
        InputError: the folder cannot be used, or holds features of another model or other data.

    """

    def __init__(self, folder: str | Path, settings: dict[str, Any], dtype: str = "float32") -> None:
        if dtype not in DTYPES:
            raise InputError(f"unknown cache dtype '{dtype}'; expected one of {', '.join(DTYPES)}")
        self.settings = plain({**settings, "dtype": dtype})
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.rank, self.world = processes.rank(), processes.world()
        with processes.first_only(InputError) as here:
            if here:
                self._open(Path(folder).expanduser())
        self.folder = Path(folder).expanduser()
        self.shards = self._checked()
        self.done = {number for shard in self.shards for number in shard.batches}
        self.waiting: list[Part] = []
        self.begun = time.monotonic()

    # --- writing ------------------------------------------------------------------------------------

    def add(self, part: Part) -> None:
        """Keep a part; it is on disk when its shard is full, or after :meth:`flush`."""
        if not self.waiting:
            self.begun = time.monotonic()
        self.waiting.append(Part(part.number, part.size, part.skipped, self._stored(part.tensors)))
        full = sum(p.size for p in self.waiting) >= SAMPLES or sum(p.bytes for p in self.waiting) >= BYTES
        if full or time.monotonic() - self.begun >= SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what waits as a shard, and note it; parts with other tensors than the first get one of their own."""
        while self.waiting:
            names = self.waiting[0].tensors.keys()
            alike = [p for p in self.waiting if not p.size or _same_kind(p, self.waiting[0], names)]
            self.waiting = [p for p in self.waiting if not any(p is q for q in alike)]
            self._write(alike)

    def finish(self, batches: int) -> None:
        """All processes are through: rank 0 writes the index of all shards."""
        self.flush()
        everything = [shard for found in processes.everyone(self._mine()) for shard in found]
        known = {shard.file: shard for shard in [*self.shards, *everything]}
        self.shards = [known[name] for name in sorted(known)]
        self.done = {number for shard in self.shards for number in shard.batches}
        missing = sorted(set(range(batches)) - self.done)
        if missing:
            raise InputError(f"{self.folder} lacks batches {missing[:5]}: did the data change while they were read?")
        with processes.first_only(InputError) as here:
            if here:
                self._write_index(complete=True, batches=batches)
                for path in [*self.folder.glob("progress-*.jsonl"), *self.folder.glob(".features-*.part*")]:
                    path.unlink()
                listed = {shard.file for shard in self.shards}
                for path in self.folder.glob("features-*.safetensors"):
                    if path.name not in listed:
                        path.unlink()

    # --- reading ------------------------------------------------------------------------------------

    def read(self, limit: int) -> tuple[list[Part], int]:
        """The parts in the order of their batches, and how many samples were left out to stay within ``limit`` bytes.

        What is left out is taken evenly from all over the data, which may be sorted by class.
        """
        total = sum((self.folder / shard.file).stat().st_size for shard in self.shards)
        numbers = sorted(self.done)
        keep = min(len(numbers), max(1, int(len(numbers) * limit / max(1, total))))
        wanted = {numbers[i * len(numbers) // keep] for i in range(keep)}
        parts = {part.number: part for shard in self.shards for part in self._parts(shard, wanted)}
        left_out = sum(n for s in self.shards for b, n in zip(s.batches, s.sizes, strict=True) if b not in wanted)
        return [parts[number] for number in sorted(parts)], left_out

    def _parts(self, shard: Shard, wanted: set[int]) -> Iterator[Part]:
        from safetensors import safe_open

        if not wanted.intersection(shard.batches):
            return
        samples = sum(shard.sizes)
        with safe_open(str(self.folder / shard.file), framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            start = 0
            for number, size, skipped in zip(shard.batches, shard.sizes, shard.skipped, strict=True):
                if number in wanted:
                    tensors = {} if not size else {n: _rows(part, start, size, samples) for n, part in slices.items()}
                    yield Part(number, size, skipped, {n: self._back(n, t) for n, t in tensors.items()})
                start += size

    def _back(self, name: str, tensor: Tensor) -> Tensor:
        return tensor.float() if name.startswith(_VECTORS) else tensor

    # --- files --------------------------------------------------------------------------------------

    def _open(self, folder: Path) -> None:
        output_folder(folder)
        path = folder / INDEX
        if path.exists():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
                known, settings = found["format"], found["settings"]
            except (OSError, ValueError, KeyError, TypeError):
                raise InputError(f"{path} is damaged: delete the folder to compute the features anew") from None
            if known != FORMAT or settings != self.settings:
                old = settings if isinstance(settings, dict) else {}
                other = " and ".join(k for k, v in self.settings.items() if old.get(k) != v) or "version"
                raise InputError(
                    f"the features in {folder} are of another {other}: give another folder, or delete it to compute "
                    "them anew"
                )
            return
        if any(folder.glob("features-*.safetensors")):
            raise InputError(f"{folder} has features but no {INDEX}: give another folder, or delete it")
        write_json(path, {"format": FORMAT, "settings": self.settings, "complete": False, "shards": []})

    def _checked(self) -> list[Shard]:
        """The shards that are whole; the processes divide the reading."""
        records: dict[str, Shard] = {}
        if self.rank == 0:
            index = json.loads((self.folder / INDEX).read_text(encoding="utf-8"))
            for record in [*index["shards"], *self._progress()]:
                with contextlib.suppress(TypeError):
                    records[record["file"]] = Shard(**record)
        listed: list[Shard] = processes.from_first([records[name] for name in sorted(records)])
        mine = [shard for shard in listed[self.rank :: self.world] if self._is_whole(shard)]
        whole = {shard.file for found in processes.everyone(mine) for shard in found}
        return [shard for shard in listed if shard.file in whole]

    def _progress(self) -> Iterator[dict[str, Any]]:
        for path in sorted(self.folder.glob("progress-*.jsonl")):
            for line in path.read_bytes().splitlines():
                with contextlib.suppress(ValueError):  # the last line, if it was cut off
                    yield json.loads(line)

    def _is_whole(self, shard: Shard) -> bool:
        try:
            with open(self.folder / shard.file, "rb") as file:
                digest = hashlib.sha256()
                while piece := file.read(1 << 20):
                    digest.update(piece)
            return digest.hexdigest() == shard.sha256
        except OSError:
            return False

    def _mine(self) -> list[Shard]:
        path = self.folder / f"progress-{self.rank:04d}.jsonl"
        if not path.exists():
            return []
        found = []
        for line in path.read_bytes().splitlines():
            with contextlib.suppress(ValueError, TypeError):
                found.append(Shard(**json.loads(line)))
        return [shard for shard in found if self._is_whole(shard)]

    def _write(self, parts: list[Part]) -> None:
        from safetensors.torch import save

        full = [part for part in parts if part.size]
        names = full[0].tensors if full else {}
        tensors = {name: torch.cat([part.tensors[name] for part in full]).contiguous() for name in names}
        data = save(tensors)
        name = f"features-{parts[0].number:09d}.safetensors"
        write_bytes(self.folder / name, data)
        shard = Shard(
            name, hashlib.sha256(data).hexdigest(), [p.number for p in parts], [p.size for p in parts],
            [p.skipped for p in parts],
        )  # fmt: skip
        path = self.folder / f"progress-{self.rank:04d}.jsonl"
        try:
            with open(path, "ab") as file:
                file.write(b"\n" + json.dumps(asdict(shard)).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from None

    def _write_index(self, *, complete: bool, batches: int) -> None:
        index = {
            "format": FORMAT, "settings": self.settings, "complete": complete, "batches": batches,
            "samples": sum(sum(shard.sizes) for shard in self.shards), "shards": [asdict(s) for s in self.shards],
        }  # fmt: skip
        write_json(self.folder / INDEX, index)

    def _stored(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        kept = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
        return {n: t.to(self.dtype) if n.startswith(_VECTORS) else t.clone() for n, t in kept.items()}


_VECTORS = ("squeezed.", "windows.", "vectors.")


def _same_kind(part: Part, first: Part, names: Any) -> bool:
    return part.tensors.keys() == names and all(
        part.tensors[n].shape[1:] == first.tensors[n].shape[1:] and part.tensors[n].dtype == first.tensors[n].dtype
        for n in names
    )


def _rows(part: Any, start: int, size: int, samples: int) -> Tensor:
    each = part.get_shape()[0] // samples  # frames that are folded into the batch
    found: Tensor = part[start * each : (start + size) * each]
    return found
