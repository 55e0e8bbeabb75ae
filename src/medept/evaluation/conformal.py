"""Prediction sets that hold the truth as often as they say (split conformal prediction).

A set holds every class whose probability is at least a threshold, which is a quantile of the
probabilities that held-out images gave to their true class (Sadinle, Lei and Wasserman 2019). With
a threshold for each class (Vovk 2012, "Mondrian") the promise holds for every class by itself. It
rests on new images being drawn as the held-out ones were: another hospital's are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from medept.errors import DataError


@dataclass(frozen=True)
class Coverage:
    """What sets did on held-out groups, mean over random halves.

    Attributes:
        stated: the coverage asked for.
        found: the share of images whose set held the truth.
        by_class: the same for the images of each class (C,); NaN where there were none.
        size: classes in a set, on average.
    """

    stated: float
    found: float
    by_class: np.ndarray
    size: float


def conformal_thresholds(
    probabilities: np.ndarray, targets: np.ndarray, *, coverage: float = 0.9
) -> np.ndarray:
    """For each class (C,), the least probability with which it belongs to a set.

    Args:
        probabilities: (n, C) of images that the classifier was not fitted to.
        targets: (n,) class indices. A class with fewer than ``coverage / (1 - coverage)`` images
            is in every set: so few images promise nothing.
        coverage: the share of sets that are to hold the truth, between 0 and 1.

    Raises:
        InputError: if the coverage is not between 0 and 1.
    """
    if not 0 < coverage < 1:
        raise DataError(f"coverage {coverage}: give a share between 0 and 1, such as 0.9")
    thresholds = np.zeros(probabilities.shape[1])
    for c in range(len(thresholds)):
        of_truth = np.sort(probabilities[targets == c, c])
        allowed_misses = int(np.floor((1 - coverage) * (len(of_truth) + 1) + 1e-9))
        if allowed_misses:
            thresholds[c] = of_truth[allowed_misses - 1]
    return thresholds


def conformal_sets(probabilities: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Which classes are in the set of each image: bool (n, C)."""
    return probabilities >= thresholds


def check_coverage(
    probabilities: np.ndarray,
    targets: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    coverage: float = 0.9,
    repeats: int = 50,
    seed: int = 0,
) -> Coverage | None:
    """Thresholds from one random half of the groups, tried on the other, many times.

    None where there are fewer than four groups.
    """
    ids = np.arange(len(targets)) if groups is None else np.unique(groups, return_inverse=True)[1]
    if ids.max() < 3:
        return None
    count = probabilities.shape[1]
    held, sizes, seen = np.zeros(count), [], np.zeros(count)
    for half in _halves(ids, repeats, seed):
        thresholds = conformal_thresholds(probabilities[half], targets[half], coverage=coverage)
        sets, truth = conformal_sets(probabilities[~half], thresholds), targets[~half]
        inside = sets[np.arange(len(truth)), truth]
        held += np.bincount(truth, inside, minlength=count)
        seen += np.bincount(truth, minlength=count)
        sizes.append(sets.sum(axis=1).mean())
    by_class = np.divide(held, seen, out=np.full(count, np.nan), where=seen > 0)
    return Coverage(coverage, float(held.sum() / seen.sum()), by_class, float(np.mean(sizes)))


def check_label_coverage(
    probabilities: np.ndarray,
    targets: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    coverage: float = 0.9,
    repeats: int = 50,
    seed: int = 0,
) -> list[Coverage | None]:
    """For each label, the coverage of sets of *absent* and *present*; targets (n, C) of 0 and 1.

    A set of both says that the label cannot be decided with this coverage.
    """
    return [
        check_coverage(
            np.stack([1 - p, p], axis=1),
            truth.astype(np.int64),
            groups,
            coverage=coverage,
            repeats=repeats,
            seed=seed,
        )
        for p, truth in zip(probabilities.T, targets.T, strict=True)
    ]


def _halves(ids: np.ndarray, repeats: int, seed: int) -> Iterator[np.ndarray]:
    """Which images (n,) belong to a random half of the groups."""
    random = np.random.default_rng(seed)
    count = int(ids.max()) + 1
    for _ in range(repeats):
        chosen = random.permutation(count) < count // 2
        yield chosen[ids]
