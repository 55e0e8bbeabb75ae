"""Values and influences of the measures against scikit-learn's, with its sample weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from drawn_predictions import multilabel
from sklearn import metrics as sk

from medept.evaluation.influence import (
    auroc_estimate,
    average_precision_estimate,
    f1_estimate,
    proportion_estimate,
)

STEP = 1e-6
MEASURES: dict[str, tuple[Callable, Callable]] = {
    "AUROC": (
        auroc_estimate,
        lambda p, t, w: sk.roc_auc_score(t, p, sample_weight=w),
    ),
    "average precision": (
        average_precision_estimate,
        lambda p, t, w: sk.average_precision_score(t, p, sample_weight=w),
    ),
    "F1": (
        lambda p, t, ids: f1_estimate(t, (p > 0.5) * 1.0, ids),
        lambda p, t, w: sk.f1_score(t, p > 0.5, sample_weight=w),
    ),
    "sensitivity": (
        lambda p, t, ids: proportion_estimate((p > 0.5) * 1.0, t, ids),
        lambda p, t, w: sk.recall_score(t, p > 0.5, sample_weight=w),
    ),
    "precision": (
        lambda p, t, ids: proportion_estimate(t, (p > 0.5) * 1.0, ids),
        lambda p, t, w: sk.precision_score(t, p > 0.5, sample_weight=w),
    ),
}


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("seed", range(3))
def test_an_influence_is_the_derivative_by_the_weight_of_a_group(name: str, seed: int) -> None:
    """The scores have ties, and a group has three images."""
    ours, theirs = MEASURES[name]
    p, truth = multilabel(seed, 42)
    scores, t, ids = p[:, 0], truth[:, 0].astype(float), np.arange(42) // 3
    found = ours(scores, t, ids)
    assert found.value == pytest.approx(theirs(scores, t, np.ones(42)))
    assert found.low < found.value < found.high
    for group in range(14):
        weights = [1 + sign * STEP * (ids == group) for sign in (1, -1)]
        up, down = (theirs(scores, t, w) for w in weights)
        assert found.influence[group] == pytest.approx((up - down) / (2 * STEP), abs=1e-6)
