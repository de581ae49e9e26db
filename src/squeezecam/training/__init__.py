"""Training with a block in the path, or without: one loop for one or many processes, with checkpoints that resume."""

from __future__ import annotations

from squeezecam.training.gates import GateStatistics, gate_statistics, watch
from squeezecam.training.loop import EpochState, train
from squeezecam.training.outputs import predictions
from squeezecam.training.report import TrainingReport

__all__ = [
    "EpochState",
    "GateStatistics",
    "TrainingReport",
    "gate_statistics",
    "predictions",
    "train",
    "watch",
]
