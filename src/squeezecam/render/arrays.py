"""Maps as NumPy arrays, from whatever the caller holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from squeezecam.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def as_map(values: Any) -> NDArray[np.float64]:
    """One map (H, W), a NumPy array, a tensor of any device and type or nested lists, as a float64 array.

    Raises:
        InputError: not two-dimensional, or empty.
    """
    # A tensor goes through its own float first: NumPy has no bfloat16.
    given = values.detach().cpu().double().numpy() if hasattr(values, "detach") else values
    try:
        array = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"expected a map of numbers, got {type(values).__name__}") from None
    if array.ndim != 2 or 0 in array.shape:
        raise InputError(
            f"expected one map of shape (H, W), got shape {array.shape}; of a batch, pass one sample: maps[0]"
        )
    return array
