"""How many pictures to send through a model at once."""

from __future__ import annotations

from torch import Tensor

AT_ONCE = 4 * 3 * 224 * 224
"""Values of pictures in one pass on a CPU. Four of 224 pixels stay in the cache with their activations: a MobileNetV2
takes 16 ms a picture, and 24 to 38 ms in batches of 8 or 16 (one core)."""
FEWEST = 4


def at_once(pictures: Tensor, most: int) -> int:
    """Pictures like ``pictures (N, C, H, W)`` in one pass, at most ``most``: fewer on a CPU, whose cache is small."""
    if pictures.device.type != "cpu":
        return most
    return min(most, max(FEWEST, AT_ONCE // max(1, pictures[0].numel())))
