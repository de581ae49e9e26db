"""What a training did: plain numbers, epoch by epoch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Epoch:
    """One epoch: mean training loss per sample, what validation gave, learning rate at its end, gates, seconds."""

    epoch: int
    step: int
    loss: float
    metrics: dict[str, float] = field(default_factory=dict)
    rate: float = 0.0
    gates: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass
class TrainingReport:
    """The outcome of :func:`squeezecam.training.train`.

    Attributes:
        epochs: one record for each epoch, those before an interruption included.
        steps: optimiser steps in all.
        best_epoch: number (from 0) of the epoch with the best validation, where one was asked for.
        resumed_at: step of the checkpoint that this run went on from, or None.
        processes, precision, seed: how it ran.
        seconds: of this run alone.
        notes: what a reader should know.

    """

    epochs: list[Epoch]
    steps: int
    best_epoch: int | None
    resumed_at: int | None
    processes: int
    precision: str
    seed: int
    seconds: float
    notes: list[str] = field(default_factory=list)

    @property
    def best(self) -> Epoch | None:
        """The record of the best epoch."""
        return next((e for e in self.epochs if e.epoch == self.best_epoch), None)

    def as_dict(self) -> dict[str, Any]:
        """All fields as plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        who = f"{self.processes} process{'es' if self.processes > 1 else ''}, precision {self.precision}"
        lines = [f"training: {len(self.epochs)} epochs, {self.steps} steps, {who}, seed {self.seed}"]
        lines += [describe(epoch) for epoch in self.epochs[-5:]]
        if self.best is not None:
            lines.append(f"best: {describe(self.best)}")
        if self.resumed_at is not None:
            lines.append(f"went on from step {self.resumed_at}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def describe(epoch: Epoch) -> str:
    """One line on an epoch."""
    words = [f"epoch {epoch.epoch + 1}: loss {epoch.loss:.4f}"]
    words += [f"{name} {value:.4f}" for name, value in epoch.metrics.items()]
    words += [f"gates of '{s}' {g['mean']:.3f} +- {g['std']:.3f}" for s, g in epoch.gates.items()]
    return ", ".join(words)
