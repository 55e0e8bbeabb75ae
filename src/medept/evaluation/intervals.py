"""95 % intervals of proportions and of other measures from 0 to 1, from a few images on.

Each measure is nearly a sum over images of an *influence*: how much an image moves it. The sum of
squares of the influences, added up by group, estimates the variance. With few images that estimate
is often far too small, so each class adds one group that varies as much as possible. The variance
says how many images of a plain proportion are worth as much (Korn and Graubard 1998), and the
interval is the mid-P interval (Lancaster 1961) of a proportion of so many. Without groups, that of
a proportion is its plain mid-P interval.

Means over classes combine the intervals of the classes (MOVER: Zou and Donner 2008), with the
correlation of their influences. ``benchmarks/intervals.py`` measures how often intervals hold the
truth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import betainc
from scipy.stats import norm
from scipy.stats import t as student_t

TAIL = 0.025
"""Probability on each side of an interval."""

Z = float(norm.ppf(1 - TAIL))


@dataclass(frozen=True)
class Metric:
    """A value with its 95 % interval.

    Attributes:
        value: None if it is undefined.
        low: lower end of the interval; None if there is no interval.
        high: upper end of the interval; None likewise.
        n: number of images that the value is computed from.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int

    @classmethod
    def of(cls, estimate: Estimate | None, n: int, *, interval: bool = True) -> Metric:
        """An estimate as it is told; None where it is undefined."""
        if estimate is None:
            return cls(None, None, None, n)
        low, high = (estimate.low, estimate.high) if interval else (None, None)
        return cls(estimate.value, low, high, n)


@dataclass(frozen=True)
class Estimate:
    """A measure, its interval, and what each group adds to it.

    Attributes:
        value: of the measure.
        low: lower end of the interval.
        high: upper end.
        influence: (G,) influence of each group.
    """

    value: float
    low: float
    high: float
    influence: np.ndarray

    def mapped(self, rising: Callable[[float], float], slope: float) -> Estimate:
        """The estimate of a rising function of the measure.

        Args:
            rising: the function.
            slope: its derivative at the value.
        """
        ends = rising(self.value), rising(self.low), rising(self.high)
        return Estimate(*ends, self.influence * slope)


def bounded_estimate(
    value: float,
    influence: np.ndarray,
    ids: np.ndarray,
    strata: Sequence[tuple[np.ndarray, float]],
) -> Estimate:
    """A measure from 0 to 1 with its interval.

    Args:
        value: of the measure.
        influence: (n,) of each image; the sum of their squares estimates the variance.
        ids: (n,) number of each image's group, 0 to G - 1.
        strata: which images (n,) of bool the measure averages over, and the weight of that average.
            AUROC averages over positives and over negatives, with weight 1 each.
    """
    groups = np.bincount(ids, influence)
    most = extra = 0.0  # variances, if a group is all or nothing: of all groups, of one more
    freedom = 0
    for rows, weight in strata:
        sizes = np.bincount(ids[rows])
        sizes = sizes[sizes > 0]
        worth = sizes.sum() ** 2 / (sizes**2).sum()
        most += weight**2 / worth
        extra += weight**2 / (worth * len(sizes))
        freedom += len(sizes) - 1
    spread = value * (1 - value)
    observed = float(groups @ groups)
    variance = max(observed, min(observed + spread * extra, spread * most))
    count = spread / variance if variance > 0 else 1 / most
    if count * most > 1 + 1e-9:  # the variance is an estimate, and not that of a plain proportion
        count = max(1 / most, count * (Z / student_t.ppf(1 - TAIL, max(freedom, 1))) ** 2)
    return Estimate(value, *mid_p_interval(value, max(count, 1.0)), groups)


def mid_p_interval(proportion: float, count: float) -> tuple[float, float]:
    """The mid-P interval of a proportion, which always holds the proportion itself.

    Args:
        proportion: from 0 to 1.
        count: of how many; need not be whole.

    >>> low, high = mid_p_interval(0.9, 10)
    >>> round(low, 3), round(high, 3)
    (0.597, 0.995)
    >>> mid_p_interval(1.0, 5)[1]
    1.0
    """
    hits = proportion * count

    def below(p: float) -> float:
        """Probability of fewer hits, and half of that of as many."""
        more = betainc(hits + 1, count - hits, p) if hits < count else 0.0
        as_many_or_more = betainc(hits, count - hits + 1, p) if hits > 0 else 1.0
        return 1 - float(more + as_many_or_more) / 2

    low = _root(lambda p: below(p) - (1 - TAIL)) if proportion > 0 else 0.0
    high = _root(lambda p: below(p) - TAIL) if proportion < 1 else 1.0
    return min(low, proportion), max(high, proportion)


def _root(falling: Callable[[float], float]) -> float:
    from scipy.optimize import brentq

    return float(brentq(falling, 0.0, 1.0, xtol=1e-10))


def mean_estimate(parts: Sequence[Estimate]) -> Estimate:
    """The mean of measures that may be correlated, with its interval.

    Args:
        parts: of the same G groups each; one at least.
    """
    influence = np.stack([part.influence for part in parts])
    covariance = influence @ influence.T
    deviation = np.sqrt(np.diag(covariance))
    scale = np.outer(deviation, deviation)
    alone = np.eye(len(parts))
    correlation = np.divide(covariance, scale, out=alone, where=scale > 0)
    below = np.array([part.value - part.low for part in parts])
    above = np.array([part.high - part.value for part in parts])
    down, up = (np.sqrt(max(d @ correlation @ d, 0.0)) / len(parts) for d in (below, above))
    value = float(np.mean([part.value for part in parts]))
    return Estimate(value, max(value - down, 0.0), min(value + up, 1.0), influence.mean(axis=0))


def positive_estimate(
    value: float, influence: np.ndarray, ids: np.ndarray, classes: np.ndarray
) -> Estimate:
    """A mean of numbers above 0 without an upper limit, on the scale of its logarithm.

    Args:
        value: the mean.
        influence: (n,) of each image.
        ids: (n,) number of each image's group, 0 to G - 1.
        classes: (n,) class of each image. The largest influence of each counts once more.
    """
    groups = np.bincount(ids, influence)
    variance = float(groups @ groups)
    for c in np.unique(classes):
        of_class = np.bincount(ids[classes == c], influence[classes == c])
        variance += float((of_class**2).max())
    wide = student_t.ppf(1 - TAIL, max(len(groups) - 1, 1))
    factor = float(np.exp(wide * np.sqrt(variance) / value)) if value > 0 else 1.0
    return Estimate(value, value / factor, value * factor, groups)
