"""Measuring maps: the table of metrics with controls, and methods side by side."""

from squeezecam.evaluation.columns import COLUMNS, DEFAULT, Column, choose_columns
from squeezecam.evaluation.comparing import Comparison, compare
from squeezecam.evaluation.randomised import Randomisation
from squeezecam.evaluation.randomising import randomise
from squeezecam.evaluation.running import evaluate
from squeezecam.evaluation.summary import Evaluation

__all__ = [
    "COLUMNS",
    "DEFAULT",
    "Column",
    "Comparison",
    "Evaluation",
    "Randomisation",
    "choose_columns",
    "compare",
    "evaluate",
    "randomise",
]
