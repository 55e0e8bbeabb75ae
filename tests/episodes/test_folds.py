"""Folds: groups stay together, and every class stays to be learnt from."""

from __future__ import annotations

import numpy as np

from medept.episodes.folds import make_folds


def test_folds_leave_every_class_to_learn_from() -> None:
    """Patients with 16 of A, with 9 of B, and with both: some deals take all of a class away."""
    targets = np.array([0] * 16 + [1] * 9 + [0] * 4 + [1])
    groups = np.array([0] * 16 + [1] * 9 + [2] * 5)
    for seed in range(5):
        found = make_folds(targets, groups, 2, seed)
        assert len(found) == 2
        assert all(len(set(targets[rows].tolist())) == 2 for rows, _ in found)
    never = make_folds(np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1]), 2, 0)
    assert len(never) == 2, "both patients have both classes"
    assert make_folds(np.array([0, 0, 1]), np.array([0, 1, 1]), 2, 0) == []
