"""Fitting the blocks: without labels on the model's own predictions, or on labels as published."""

from __future__ import annotations

from squeezecam.fit.api import fit
from squeezecam.fit.report import FitReport

__all__ = ["FitReport", "fit"]
