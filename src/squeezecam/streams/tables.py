"""Several batches as one, means over groups with intervals, and what changes from one run to another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from squeezecam.errors import InputError
from squeezecam.streams.record import WORDS, StreamImportance


def join(found: Sequence[StreamImportance]) -> StreamImportance:
    """Several batches as one; curves over time, whose lengths may differ, are left out."""
    if not found or any(one.names != found[0].names for one in found):
        raise InputError("there is nothing to join, or the streams differ")

    def together(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    goals = [one.target for one in found if one.target is not None]
    return StreamImportance(
        found[0].names,
        found[0].channels,
        together([one.measures for one in found]),
        together([one.ablation for one in found]),
        torch.cat([one.score for one in found]),
        torch.cat(goals) if len(goals) == len(found) else None,
    )


def by_group(
    found: StreamImportance, groups: Sequence[str] | None = None, *, draws: int = 1000, seed: int = 0
) -> list[dict[str, Any]]:
    """Rows ``group, stream, measure, mean, low, high, clips``: means over the clips with 95 % bootstrap intervals.

    Args:
        found: from :func:`importance` or :func:`join`.
        groups: one name per clip; None: all in one group.
        draws: bootstrap samples of the clips of a group (percentile intervals). A single clip has no interval.
        seed: of the draws.

    """
    labels = ["all"] * len(found) if groups is None else [str(group) for group in groups]
    if len(labels) != len(found):
        raise InputError(f"{len(labels)} groups for {len(found)} clips: give one per clip")
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for group in dict.fromkeys(labels):
        index = torch.tensor([i for i, label in enumerate(labels) if label == group])
        drawn = torch.randint(len(index), (draws, len(index)), generator=generator)
        for measure, values in (*found.measures.items(), *found.ablation.items()):
            own = values.detach().double().cpu()[index]
            limits = torch.quantile(own[drawn].mean(1), torch.tensor([0.025, 0.975], dtype=torch.double), dim=0)
            for i, stream in enumerate(found.names):
                alone = len(index) < 2
                rows.append(
                    {
                        "group": group, "stream": stream, "measure": measure, "mean": float(own[:, i].mean()),
                        "low": None if alone else float(limits[0, i]), "high": None if alone else float(limits[1, i]),
                        "clips": len(index),
                    }
                )  # fmt: skip
    return rows


def compared(own: StreamImportance, other: StreamImportance) -> list[dict[str, Any]]:
    """Rows ``measure, stream, own, other, change``: means over the same clips, run twice.

    For what an input means to each stream: the sound of another clip under the same faces, say. The first row is the
    score itself, of all streams together.

    Raises:
        InputError: the streams or the numbers of clips differ.

    """
    if own.names != other.names or len(own) != len(other):
        raise InputError(
            f"{len(own)} clips with streams {', '.join(own.names)} cannot be compared with {len(other)} with "
            f"{', '.join(other.names)}"
        )
    rows = [_changed("score", "all", own.score, other.score)]
    for name, values in (*own.measures.items(), *own.ablation.items()):
        again = {**other.measures, **other.ablation}[name]
        rows += [_changed(WORDS[name], s, values[:, i], again[:, i]) for i, s in enumerate(own.names)]
    return rows


def _changed(measure: str, stream: str, own: Tensor, other: Tensor) -> dict[str, Any]:
    before, after = float(own.double().mean()), float(other.double().mean())
    return {"measure": measure, "stream": stream, "own": before, "other": after, "change": after - before}
