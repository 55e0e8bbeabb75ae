"""Cross-validation inside a support set: groups stay together, and classes stay balanced."""

from __future__ import annotations

import numpy as np

Folds = list[tuple[np.ndarray, np.ndarray]]

DEALS = 20
"""How often groups are dealt out to folds before it is given up."""


def make_folds(targets: np.ndarray, groups: np.ndarray, count: int, seed: int) -> Folds:
    """At most ``count`` pairs of rows to learn from and to hold out; empty where there is no way.

    Of classes, each is among the rows to learn from: where groups of several classes take one away
    whole, they are dealt out anew.

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
    for deal in range(DEALS):
        folds = StratifiedGroupKFold(count, shuffle=True, random_state=(seed + deal) % 2**32)
        found = list(folds.split(targets, targets, groups))
        if all(set(targets[rows].tolist()) == set(targets.tolist()) for rows, _ in found):
            return found
    return []
