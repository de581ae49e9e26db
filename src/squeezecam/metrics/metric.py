"""What a metric says about itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Category = Literal["faithfulness", "localisation", "robustness", "complexity", "randomisation", "channels"]


@dataclass(frozen=True)
class Metric:
    """Description of one metric, for tables and documentation.

    ``name`` is also the name of the public function in :mod:`squeezecam.metrics` that computes it.
    ``higher_is_better`` is None where neither direction is better by itself (the area of a map, for one).
    """

    name: str
    higher_is_better: bool | None
    category: Category
    reference: str
    description: str
