"""Results of finished batches on disk, so that an interrupted evaluation goes on where it stopped."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from squeezecam import processes
from squeezecam.errors import InputError
from squeezecam.files import plain

FORMAT = "squeezecam-evaluation/1"


def digest(settings: dict[str, Any]) -> str:
    """Sixteen hex digits that change with any setting."""
    text = json.dumps(plain(settings), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Store:
    """A JSON-lines file ``per_image-DIGEST.jsonl``: the settings, then one line for each finished batch.

    The settings' digest is part of the name: with changed settings another file is begun, and an older one is neither
    used nor lost. A line is written whole and flushed; what an interruption cut off at the end is dropped. Of several
    processes each writes a file of its own, ``per_image-DIGEST.rankN.jsonl``; rank 0 takes them over into its own, at
    the end, or at the beginning of the next run.

    Args:
        folder: where the file is; None keeps everything in memory.
        settings: all that the figures depend on.

    Raises:
        InputError: the file cannot be read or written.

    """

    def __init__(self, folder: Path | None, settings: dict[str, Any]) -> None:
        self.digest = digest(settings)
        self.path = folder / f"per_image-{self.digest}.jsonl" if folder is not None else None
        self.chunks: dict[int, dict[str, Any]] = {}
        self.mine: dict[int, dict[str, Any]] = {}
        if self.path is None:
            return
        self.head = {"format": FORMAT, "digest": self.digest, "settings": plain(settings)}
        with processes.first_only(InputError) as here:
            if here:
                self._begin(self.path)
                self._take_over()
        self.chunks = processes.from_first(self.chunks)
        self.mine = {}
        if processes.rank():
            self.path = self.path.with_suffix(f".rank{processes.rank()}.jsonl")
            self._begin(self.path)

    def add(self, number: int, chunk: dict[str, Any]) -> None:
        """Keep the results of batch ``number``; on disk before this returns."""
        self.chunks[number] = self.mine[number] = chunk = plain(chunk)
        if self.path is None:
            return
        line = json.dumps({"chunk": number, **chunk}, ensure_ascii=False, allow_nan=False) + "\n"
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                os.truncate(self.path, size)
            raise InputError(f"cannot write {self.path}: {(error.strerror or str(error)).lower()}") from None

    def gather(self) -> None:
        """Give every process the results of all; rank 0 writes them into its file, and removes those of the others."""
        everything = processes.everyone(self.mine)
        with processes.first_only(InputError) as here:
            for number, chunk in (item for found in everything for item in found.items()):
                if number not in self.chunks:
                    self.chunks[number] = chunk
                    if here:
                        self.add(number, chunk)
            if here:
                self._remove_others()

    def forget(self) -> None:
        """Remove the file: nothing in it is worth going on from."""
        with processes.first_only(InputError) as here:
            if here and self.path is not None:
                self.path.unlink(missing_ok=True)

    def _begin(self, path: Path) -> None:
        try:
            if not self._read(path):
                path.write_text(json.dumps(self.head, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot use {path}: {(error.strerror or str(error)).lower()}") from None

    def _take_over(self) -> None:
        """What other processes of an interrupted run wrote goes into the file of rank 0."""
        known = self.chunks
        for other in self._others():
            self.chunks = {}
            self._read(other)
            found, self.chunks = self.chunks, known
            for number, chunk in found.items():
                if number not in known:
                    self.add(number, chunk)
        self._remove_others()

    def _others(self) -> list[Path]:
        if self.path is None:
            return []
        return sorted(self.path.parent.glob(f"{self.path.stem}.rank*.jsonl"))

    def _remove_others(self) -> None:
        for other in self._others():
            with contextlib.suppress(OSError):
                other.unlink()

    def _read(self, path: Path) -> bool:
        """Take over what is there; False where nothing can be."""
        if not path.exists():
            return False
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        lines = whole.splitlines()
        try:
            head = json.loads(lines[0]) if lines else {}
            if head.get("format") != FORMAT or head.get("digest") != self.digest:
                return False
            for line in lines[1:]:
                chunk = json.loads(line)
                self.chunks[int(chunk.pop("chunk"))] = chunk
        except (ValueError, KeyError, AttributeError) as error:
            raise InputError(f"{path} is damaged ({error}): delete it to start anew") from None
        if len(whole) < len(data):
            os.truncate(path, len(whole))
        return True
