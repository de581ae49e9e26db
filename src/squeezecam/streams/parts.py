"""What is compared: the streams, or segments of the channels of one after a concatenation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from squeezecam.errors import InputError
from squeezecam.module import Capture, Squeeze


@dataclass(frozen=True)
class Part:
    """What is compared: a stream, or a segment of the channels of one (after a concatenation)."""

    name: str
    stream: str
    channels: slice


def find_parts(squeeze: Squeeze, seen: dict[str, Capture], segments: Mapping[str, int] | None) -> list[Part]:
    """The streams that were seen, or the segments of the only one, in order.

    Raises:
        InputError: one stream only and no segments, or segments that do not add up.

    """
    if segments is None:
        if len(seen) < 2:
            raise InputError(
                f"there is one stream, {next(iter(seen))!r}: give segments={{name: channels}} for a map after a "
                "concatenation, or attach one block per stream with at={name: place}"
            )
        return [Part(stream, stream, slice(None)) for stream in seen]
    stream = next(iter(seen))
    channels = squeeze.places[stream].channels
    if len(seen) != 1 or sum(segments.values()) != channels or min(segments.values()) < 1:
        raise InputError(
            f"segments {dict(segments)} must add up to the {channels} channels of the one map; there are {len(seen)}"
        )
    parts, start = [], 0
    for name, count in segments.items():
        parts.append(Part(name, stream, slice(start, start + count)))
        start += count
    return parts


def top_gates(seen: dict[str, Capture], rule: Any) -> dict[str, Tensor]:
    """Top gates among those of all streams, ``{stream: mask like its gates}``."""
    gates = torch.cat([one.gates for one in seen.values()], -1)
    mask = rule(gates.flatten(0, -2)).mask.view(gates.shape)
    return dict(zip(seen, mask.split([one.gates.shape[-1] for one in seen.values()], -1), strict=True))
