"""Finished runs on disk, so that an interrupted study goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from squeezecam.errors import InputError
from squeezecam.evaluation.store import digest
from squeezecam.files import plain, write_text

FORMAT = "squeezecam-parity/1"


class Runs:
    """A JSON-lines file ``runs-DIGEST.jsonl``: the settings, then one line for each finished run.

    The digest is that of the settings: with others another file is begun, and an older one is neither used nor lost.
    The number of seeds is none of them, so that seeds can be added. The file is replaced whole with every run.

    Args:
        folder: where the file is; None keeps everything in memory.
        settings: all that the figures of a run depend on, beside its own name.

    Raises:
        InputError: the file cannot be read or written.

    """

    def __init__(self, folder: Path | None, settings: dict[str, Any]) -> None:
        self.settings = plain(settings)
        self.digest = digest(settings)
        self.path = folder / f"runs-{self.digest}.jsonl" if folder is not None else None
        self.records: dict[str, dict[str, Any]] = {}
        if self.path is not None and self.path.exists():
            self._read(self.path)

    def add(self, key: str, record: dict[str, Any]) -> None:
        """Keep the run ``key``; on disk before this returns."""
        self.records[key] = plain(record)
        if self.path is None:
            return
        head = {"format": FORMAT, "digest": self.digest, "settings": self.settings}
        lines = [head, *({"run": name, **record} for name, record in self.records.items())]
        write_text(self.path, "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines))

    def _read(self, path: Path) -> None:
        try:
            head, *lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            if head["format"] != FORMAT or head["digest"] != self.digest:
                raise InputError(f"{path} is not the file of these settings: delete it to start anew")
            self.records = {line.pop("run"): line for line in lines}
        except OSError as error:
            raise InputError(f"cannot use {path}: {(error.strerror or str(error)).lower()}") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path} is damaged ({error}): delete it to start anew") from None
