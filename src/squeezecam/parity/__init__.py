"""Parity: the same network trained with and without the block from the same seeds, and what the difference is."""

from squeezecam.parity.api import parity
from squeezecam.parity.arms import Arm
from squeezecam.parity.recipe import Recipe
from squeezecam.parity.result import ArmResult, ParityResult

__all__ = ["Arm", "ArmResult", "ParityResult", "Recipe", "parity"]
