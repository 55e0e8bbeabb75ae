"""Bootstrap intervals: groups of images are drawn with replacement, and metrics computed again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

BLOCK = 1_000_000
"""Weights computed at a time: about as many numbers as this."""


def resample_weights(ids: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each image is drawn, in blocks (block, n) that together have ``resamples`` rows.

    Images of one group are drawn together. A single group gives no resamples.

    Args:
        ids: (n,) number of each image's group, 0 to groups - 1.
        resamples: how many.
        seed: of the draws.

    >>> [weights.shape for weights in resample_weights(np.array([0, 0, 1]), 5, seed=0)]
    [(5, 3)]
    """
    random = np.random.default_rng(seed)
    count = int(ids.max()) + 1
    rows = max(1, BLOCK // len(ids))
    for start in range(0, resamples if count > 1 else 0, rows):
        size = min(rows, resamples - start)
        times = random.multinomial(count, np.full(count, 1 / count), size=size)
        yield times[:, ids].astype(np.float64)


def interval(
    drawn: Sequence[np.ndarray], value: float | None, *, groups: int = 0, biased: bool = False
) -> tuple[float | None, float | None]:
    """The 95 % interval of a metric, or (None, None).

    Usually this is the range from the 2.5th to the 97.5th percentile of the resamples. There is no
    interval if the metric is undefined, or undefined in more than half of the resamples. If all
    resamples give 0, or all give 1, a proportion has the exact binomial interval (Clopper and
    Pearson 1934) for its number of groups, and other metrics have none.

    Args:
        drawn: values of the metric in the resamples, in blocks; NaN where it is undefined.
        value: of the metric; None if it is undefined.
        groups: number of groups if the value is a proportion, else 0.
        biased: whether resampling makes the metric larger. Its interval is then reflected at the
            value (the basic bootstrap), and reaches from 0 or above to the value at least.

    >>> interval([np.linspace(0, 1, 101)], 0.5)
    (0.025, 0.975)
    >>> low, high = interval([np.ones(100)], 1.0, groups=9)  # all of nine patients correct
    >>> round(low, 3), high
    (0.664, 1.0)
    """
    values = np.concatenate(drawn) if drawn else np.zeros(0)
    defined = values[~np.isnan(values)]
    if value is None or not len(defined) or 2 * len(defined) < len(values):
        return None, None
    low, high = (float(end) for end in np.percentile(defined, (2.5, 97.5)))
    if value == low == high and value in (0, 1):
        return _binomial_interval(value, groups) if groups else (None, None)
    return (max(0.0, 2 * value - high), max(value, 2 * value - low)) if biased else (low, high)


def _binomial_interval(proportion: float, count: int) -> tuple[float, float]:
    from scipy.stats import binomtest

    exact = binomtest(round(proportion * count), count).proportion_ci(method="exact")
    return float(exact.low), float(exact.high)
