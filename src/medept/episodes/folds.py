"""Cross-validation inside a support set: groups stay together, and classes stay balanced."""

from __future__ import annotations

from itertools import chain

import numpy as np

Folds = list[tuple[np.ndarray, np.ndarray]]

DEALS = 20
"""How often groups are dealt out to folds before it is given up."""


def make_folds(targets: np.ndarray, groups: np.ndarray, count: int, seed: int) -> Folds:
    """At most ``count`` pairs of rows to learn from and to hold out; empty where there is no way.

    Of classes, each is among the rows to learn from: where stratified folds take one away whole, as
    they may where groups have several classes, groups are dealt out by chance.

    Args:
        targets: (n,) class indices, each class of which needs two groups, or (n, C) of 0 and 1.
        groups: (n,) ids.
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
    seeds = [(seed + deal) % 2**32 for deal in range(DEALS)]
    others = (GroupKFold(count, shuffle=True, random_state=other) for other in seeds)
    for folds in chain([stratified], others):
        found = list(folds.split(targets, targets, groups))
        if all(set(targets[rows].tolist()) == set(targets.tolist()) for rows, _ in found):
            return found
    return []
