"""Results of finished batches on disk, so that an interrupted evaluation goes on where it stopped."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

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
    used nor lost. A line is written whole and flushed; what an interruption cut off at the end is dropped.

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
        if self.path is None:
            return
        head = {"format": FORMAT, "digest": self.digest, "settings": plain(settings)}
        try:
            if not self._read(self.path):
                self.path.write_text(json.dumps(head, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot use {self.path}: {(error.strerror or str(error)).lower()}") from None

    def add(self, number: int, chunk: dict[str, Any]) -> None:
        """Keep the results of batch ``number``; on disk before this returns."""
        self.chunks[number] = chunk = plain(chunk)
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
