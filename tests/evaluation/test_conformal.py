"""Prediction sets: coverage on images drawn from known probabilities, and MAPIE's thresholds."""

from __future__ import annotations

import numpy as np
import pytest
from drawn_predictions import drawn
from hypothesis import given, settings
from hypothesis import strategies as st

from medept import InputError
from medept.evaluation.conformal import (
    check_coverage,
    check_label_coverage,
    conformal_sets,
    conformal_thresholds,
)


@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_sets_hold_the_truth_of_every_class_as_often_as_stated(coverage: float) -> None:
    held, seen = np.zeros(3), np.zeros(3)
    for seed in range(150):
        p, y = drawn(seed, 400)
        p = p**2 / (p**2).sum(axis=1, keepdims=True)  # miscalibrated: sets do not mind
        thresholds = conformal_thresholds(p[:200], y[:200], coverage=coverage)
        inside = conformal_sets(p[200:], thresholds)[np.arange(200), y[200:]]
        held += np.bincount(y[200:], inside, minlength=3)
        seen += np.bincount(y[200:], minlength=3)
    assert (held / seen >= coverage - 0.01).all()
    assert (held / seen <= coverage + 0.035).all()


def test_sets_of_labels_hold_absent_and_present_as_often_as_stated() -> None:
    """Labels drawn from their probabilities; the second of two columns is *present*."""
    random = np.random.default_rng(0)
    p = random.beta(0.5, 1.5, size=(4000, 2))
    targets = (random.random(p.shape) < p).astype(int)
    for label, found in enumerate(check_label_coverage(p, targets, coverage=0.9)):
        assert found is not None
        assert found.by_class == pytest.approx([0.9, 0.9], abs=0.02)
        swapped = check_label_coverage(1 - p, 1 - targets, coverage=0.9)[label]
        assert swapped is not None
        assert swapped.mean_size == pytest.approx(found.mean_size, abs=0.02)
    rare = np.r_[np.ones(4, int), np.zeros(400, int)][
        :, None
    ]  # too few to hold any out: in all sets
    (found,) = check_label_coverage(random.random((404, 1)), rare, coverage=0.9)
    assert found is not None
    assert found.by_class == pytest.approx([0.9, 1], abs=0.03)


def test_thresholds_are_those_of_mapie() -> None:
    mapie = pytest.importorskip("mapie.classification")
    from sklearn.base import BaseEstimator, ClassifierMixin

    p, y = drawn(3, 300)

    class AsTold(ClassifierMixin, BaseEstimator):
        def fit(self, X: np.ndarray, y: np.ndarray) -> AsTold:
            self.classes_ = np.arange(3)
            self.fitted_ = True
            return self

        def predict_proba(self, X: np.ndarray) -> np.ndarray:
            return X

        def predict(self, X: np.ndarray) -> np.ndarray:
            return X.argmax(axis=1)

    for c in range(3):  # a threshold a class is MAPIE's one threshold on images of that class
        rows = np.flatnonzero(y[:200] == c)
        other = mapie.SplitConformalClassifier(
            AsTold().fit(p, y), confidence_level=0.9, conformity_score="lac", prefit=True
        )
        other.conformalize(p[rows], y[rows])
        _, sets = other.predict_set(p[200:])
        mine = conformal_sets(p[200:], conformal_thresholds(p[:200], y[:200]))
        assert (sets[:, c, 0] == mine[:, c]).all()


def test_too_few_images_of_a_class_put_it_into_every_set() -> None:
    p, y = drawn(0, 100)
    few = np.flatnonzero(y == 2)[:8]
    rows = np.r_[np.flatnonzero(y != 2), few]
    thresholds = conformal_thresholds(p[rows], y[rows], coverage=0.9)
    assert thresholds[2] == 0
    assert (thresholds[:2] > 0).all()
    for wrong in (0.0, 1.0, 90):
        with pytest.raises(InputError, match="between 0 and 1"):
            conformal_thresholds(p, y, coverage=wrong)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 50))
def test_coverage_is_checked_on_groups_that_were_kept_apart(seed: int) -> None:
    p, y = drawn(seed, 900)
    groups = np.repeat(np.arange(300), 3)
    found = check_coverage(p, y, groups, coverage=0.9, repeats=20)
    assert found is not None
    assert found.observed == pytest.approx(0.9, abs=0.04)
    assert 1 <= found.mean_size <= 3
    assert check_coverage(p[:6], y[:6], groups[:6]) is None
