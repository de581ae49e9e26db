"""Who takes which batch: pure functions of position and number of processes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """One batch of a step for one process: its number in the epoch, and whether it counts.

    One that does not count is run with weight zero, because a process without a batch would leave the others waiting.
    """

    batch: int
    counts: bool = True


def shares(start: int, stop: int, world: int, rank: int) -> list[Share]:
    """What ``rank`` takes of the batches ``start`` to ``stop`` that make one step: every ``world``-th, at least one."""
    mine = [Share(number) for number in range(start + rank, stop, world)]
    return mine or [Share(start, counts=False)]
