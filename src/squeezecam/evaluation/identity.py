"""What a figure depends on beside its settings: the weights, and the versions of what computed it."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Sequence

import torch

from squeezecam.module import Squeeze
from squeezecam.peers import MapMethod


def model_identity(squeeze: Squeeze) -> str:
    """A digest of all weights, blocks included."""
    parts = hashlib.sha256()
    for name, tensor in squeeze.state_dict().items():
        parts.update(name.encode())
        with contextlib.suppress(TypeError, RuntimeError):
            parts.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    for stream, place in squeeze.places.items():
        parts.update(f"{stream}: {place.describe()}".encode())
    return parts.hexdigest()[:16]


def versions(methods: Sequence[MapMethod]) -> dict[str, str]:
    """Versions of this package, of torch and of the libraries that the methods need."""
    return dict(_installed({"torch", "squeezecam"} | {m.library for m in methods if m.library}))


def _installed(packages: Iterable[str]) -> Iterator[tuple[str, str]]:
    from importlib.metadata import PackageNotFoundError, version

    for package in sorted(packages):
        found = "not installed"
        with contextlib.suppress(PackageNotFoundError):
            found = version({"pytorch_grad_cam": "grad-cam"}.get(package, package))
        yield package, found
