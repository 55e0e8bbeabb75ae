"""Folds for cross-validation inside a support set: groups stay together, classes are balanced."""

from __future__ import annotations

from itertools import chain

import numpy as np

Folds = list[tuple[np.ndarray, np.ndarray]]
"""Pairs of rows: those to train on, and those that are held out."""

ATTEMPTS = 20
"""How many random divisions of the groups are tried before giving up."""


def make_folds(targets: np.ndarray, groups: np.ndarray, count: int, seed: int) -> Folds:
    """At most ``count`` pairs of rows to train on and rows to hold out.

    Every class occurs among the rows to train on. If groups have several classes, stratified folds
    may hold out all rows of a class; then groups are divided at random.

    Args:
        targets: (n,) class indices, or (n, C) of 0 and 1.
        groups: (n,) ids.
        count: of folds; fewer if a class has fewer groups.
        seed: of the division.

    Returns:
        An empty list if a class has only one group, or no division was found.

    >>> groups = np.array(["a", "a", "b", "c", "c", "d"])
    >>> folds = make_folds(np.array([0, 0, 0, 1, 1, 1]), groups, count=5, seed=0)
    >>> [set(groups[train]).isdisjoint(groups[held_out]) for train, held_out in folds]
    [True, True]
    """
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    if targets.ndim == 2:
        count = min(count, len(set(groups.tolist())))
        if count < 2:
            return []
        return list(GroupKFold(count, shuffle=True, random_state=seed).split(targets, None, groups))
    count = min(count, *(len(set(groups[targets == c].tolist())) for c in set(targets.tolist())))
    if count < 2:
        return []
    stratified = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    seeds = [(seed + attempt) % 2**32 for attempt in range(ATTEMPTS)]
    random = (GroupKFold(count, shuffle=True, random_state=other) for other in seeds)
    for folds in chain([stratified], random):
        found = list(folds.split(targets, targets, groups))
        if all(set(targets[rows].tolist()) == set(targets.tolist()) for rows, _ in found):
            return found
    return []
