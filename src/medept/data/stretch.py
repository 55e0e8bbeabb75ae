"""Values of any range as 8 bits."""

from __future__ import annotations

import numpy as np

from medept.errors import DataError

_AT_ONCE = 2**20
"""Values that are in memory as float64 at a time: an image may have 89 million."""


def stretched(values: np.ndarray) -> np.ndarray:
    """Values as uint8, from 0 at their minimum to 255 at their maximum; a constant becomes 0.

    Raises:
        DataError: if one is NaN or infinite.

    >>> stretched(np.array([-5, 0, 5])).tolist()
    [0, 128, 255]
    """
    low, high = float(values.min()), float(values.max())  # NaN, if there is one
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError("holds NaN or infinite values; replace them first")
    flat = values.reshape(-1)
    shown = np.zeros(flat.shape, dtype=np.uint8)
    for start in range(0, len(flat) if low < high else 0, _AT_ONCE):
        part = flat[start : start + _AT_ONCE].astype(np.float64)
        shown[start : start + _AT_ONCE] = np.round((part - low) / (high - low) * 255)
    return shown.reshape(values.shape)
