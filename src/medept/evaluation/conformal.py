"""Prediction sets that contain the truth with a stated probability (split conformal prediction).

A set contains every class whose probability reaches the threshold of that class, a quantile of the
probabilities that held-out images of the class gave to it (Sadinle, Lei and Wasserman 2019). Each
class has its own threshold (Vovk 2012, "Mondrian"), so the coverage holds for every class. It holds
only for images from the same distribution as those held out; images of another hospital are not.

Images of one group count as one: with a mean proportion R of images missed in n groups, the bound
``(n R + 1) / (n + 1)`` is kept below what may be missed (conformal risk control, Angelopoulos et
al. 2024). Without groups that is the quantile above.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from medept.errors import SettingsError
from medept.evaluation.predictions import group_ids


@dataclass(frozen=True)
class Coverage:
    """Coverage of prediction sets on held-out groups, over many random halves of the groups.

    Attributes:
        stated: the coverage asked for.
        observed: proportion of images whose set contains the truth.
        by_class: (C,) the same for the images of each class; NaN if there are none.
        mean_size: mean number of classes in a set.
    """

    stated: float
    observed: float
    by_class: np.ndarray
    mean_size: float


def groups_needed(coverage: float) -> int:
    """The number of groups of a class from which on a threshold above 0 can be stated.

    Raises:
        SettingsError: if the coverage is not between 0 and 1.

    >>> groups_needed(0.9)
    9
    """
    if not 0 < coverage < 1:
        raise SettingsError(f"coverage={coverage}: give a number between 0 and 1, such as 0.9")
    return int(np.ceil(coverage / (1 - coverage) - 1e-9))


def conformal_threshold(scores: np.ndarray, groups: np.ndarray, *, coverage: float = 0.9) -> float:
    """The highest threshold that new scores reach with this probability; 0 if they are too few.

    Args:
        scores: (n,) from 0 to 1.
        groups: (n,) ids of groups.
        coverage: the probability, between 0 and 1.

    >>> conformal_threshold(np.array([0.9, 0.6, 0.8]), np.arange(3), coverage=0.75)
    0.6
    """
    if len(set(groups.tolist())) < groups_needed(coverage):
        return 0.0
    ids = np.unique(groups, return_inverse=True)[1]
    order = np.argsort(scores, kind="stable")
    missed = (1 / np.bincount(ids)[ids])[order].cumsum()  # in groups, if the next score is reached
    values = scores[order]
    below = np.r_[0.0, missed][np.searchsorted(values, values, side="left")]
    within = (below + 1) / (ids.max() + 2) <= 1 - coverage + 1e-9
    return float(values[within].max()) if within.any() else 0.0


def conformal_thresholds(
    probabilities: np.ndarray,
    targets: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    coverage: float = 0.9,
) -> np.ndarray:
    """The threshold of each class (C,): the lowest probability with which it is in a set.

    Args:
        probabilities: (n, C) of images that the classifier was not fitted to.
        targets: (n,) class indices. A class with fewer than ``coverage / (1 - coverage)`` groups
            has the threshold 0, and is in every set: so few guarantee nothing else.
        groups: (n,) ids of groups that count as one; None: each image is its own.
        coverage: proportion of sets that are to contain the truth, between 0 and 1.

    Raises:
        InputError: if the coverage is not between 0 and 1.

    >>> probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
    >>> conformal_thresholds(probabilities, np.array([0, 0, 0, 1, 1]), coverage=0.75)
    array([0.6, 0. ])
    """
    ids = group_ids(groups, len(targets))
    each = [(c, targets == c) for c in range(probabilities.shape[1])]
    return np.array(
        [
            conformal_threshold(probabilities[rows, c], ids[rows], coverage=coverage)
            for c, rows in each
        ]
    )


def conformal_sets(probabilities: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Which classes are in the set of each image: (n, C) of bool.

    Args:
        probabilities: (n, C) of new images.
        thresholds: (C,), from :func:`conformal_thresholds`.

    >>> conformal_sets(np.array([[0.7, 0.3], [0.5, 0.5]]), np.array([0.6, 0.4]))
    array([[ True, False],
           [False,  True]])
    """
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
    """Fit thresholds to a random half of the groups and test them on the other, many times.

    Args:
        probabilities: (n, C) of images that the classifier was not fitted to.
        targets: (n,) class indices.
        groups: (n,) ids of groups that are not divided; None: each image is its own.
        coverage: proportion of sets that are to contain the truth, between 0 and 1.
        repeats: number of random halves.
        seed: of the halves.

    Returns:
        the coverage; None if there are fewer than four groups.

    >>> p = np.random.default_rng(0).random(400)
    >>> targets = (np.random.default_rng(1).random(400) < p).astype(int)
    >>> found = check_coverage(np.stack([1 - p, p], axis=1), targets)
    >>> round(found.observed, 2), round(found.mean_size, 2)
    (0.9, 1.35)
    """
    ids = np.arange(len(targets)) if groups is None else np.unique(groups, return_inverse=True)[1]
    if ids.max() < 3:
        return None
    count = probabilities.shape[1]
    hits, images, sizes = np.zeros(count), np.zeros(count), []
    for half in _halves(ids, repeats, seed):
        thresholds = conformal_thresholds(
            probabilities[half], targets[half], ids[half], coverage=coverage
        )
        sets, truth = conformal_sets(probabilities[~half], thresholds), targets[~half]
        inside = sets[np.arange(len(truth)), truth]
        hits += np.bincount(truth, inside, minlength=count)
        images += np.bincount(truth, minlength=count)
        sizes.append(sets.sum(axis=1).mean())
    by_class = np.divide(hits, images, out=np.full(count, np.nan), where=images > 0)
    return Coverage(coverage, float(hits.sum() / images.sum()), by_class, float(np.mean(sizes)))


def check_label_coverage(
    probabilities: np.ndarray,
    targets: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    coverage: float = 0.9,
    repeats: int = 50,
    seed: int = 0,
) -> list[Coverage | None]:
    """For each label, the coverage of sets of the two classes *absent* and *present*.

    A set of both means that the label cannot be decided with this coverage. Arguments are those of
    :func:`check_coverage`, except that targets are (n, C) of 0 and 1.
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
    """(n,) whether an image belongs to a random half of the groups, for each repeat."""
    random = np.random.default_rng(seed)
    count = int(ids.max()) + 1
    for _ in range(repeats):
        chosen = random.permutation(count) < count // 2
        yield chosen[ids]
