"""Values of any range as 8 bits."""

from __future__ import annotations

import numpy as np

from medept.errors import DataError


def stretched(values: np.ndarray) -> np.ndarray:
    """Values as uint8, from 0 at their minimum to 255 at their maximum; a constant becomes 0.

    Raises:
        DataError: if one is NaN or infinite.

    >>> stretched(np.array([-5, 0, 5])).tolist()
    [0, 128, 255]
    """
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise DataError("holds NaN or infinite values; replace them first")
    low, high = values.min(), values.max()
    if low == high:
        return np.zeros(values.shape, dtype=np.uint8)
    return np.round((values - low) / (high - low) * 255).astype(np.uint8)
