"""Reliability, abstention and prediction sets against other libraries and known truths."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, brier_score_loss
from torchmetrics.functional import calibration_error

from medept import InputError
from medept.evaluation import evaluate
from medept.evaluation.conformal import (
    check_coverage,
    check_label_coverage,
    conformal_sets,
    conformal_thresholds,
)
from medept.evaluation.predictions import confidence, decide, indicators, is_correct
from medept.evaluation.reliability import (
    abstention_curve,
    brier_parts,
    classwise_error,
    confidences,
    reliability_curve,
)


def drawn(seed: int, n: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and classes drawn by them: perfectly calibrated."""
    random = np.random.default_rng(seed)
    p = softmax(random.normal(size=(n, classes)) * 1.5, axis=1)
    y = (random.random((n, 1)) > p.cumsum(axis=1)).sum(axis=1).clip(0, classes - 1)
    return p, y


@given(st.integers(0, 1000), st.integers(1, 60))
def test_the_curve_is_scikit_learns_and_its_error_torchmetrics(seed: int, n: int) -> None:
    confidence, right = confidences(*drawn(seed, n))
    curve = reliability_curve(confidence, right, bins=10)
    frequency, mean = calibration_curve(right, confidence, n_bins=10)
    assert curve.frequency == pytest.approx(frequency)
    assert curve.confidence == pytest.approx(mean)
    expected = calibration_error(
        torch.tensor(confidence), torch.tensor(right).long(), task="binary", n_bins=10
    )
    assert curve.error == pytest.approx(float(expected), abs=1e-6)


def test_bins_of_equal_mass_hold_about_as_many_each() -> None:
    confidence, right = confidences(*drawn(0, 1000))
    curve = reliability_curve(confidence, right, equal_mass=True)
    assert len(curve.count) == 10
    assert curve.count.sum() == 1000
    assert np.ptp(curve.count) <= 1
    frequency, mean = calibration_curve(right, confidence, n_bins=10, strategy="quantile")
    assert curve.frequency == pytest.approx(frequency, abs=0.02)
    assert curve.confidence == pytest.approx(mean, abs=0.01)


def test_ties_stay_in_one_bin() -> None:
    curve = reliability_curve(np.full(50, 0.7), np.ones(50), equal_mass=True)
    assert curve.count.tolist() == [50]
    assert curve.error == pytest.approx(0.3)


def test_classwise_error_is_small_where_calibrated_and_not_where_not() -> None:
    p, y = drawn(0, 20_000)
    assert classwise_error(p, y) < 0.015
    sharp = p**3 / (p**3).sum(axis=1, keepdims=True)
    assert classwise_error(sharp, y) > 0.08
    by_hand = [reliability_curve(p[:, c], (y == c).astype(float)).error for c in range(3)]
    assert classwise_error(p, y) == pytest.approx(np.mean(by_hand))


@pytest.mark.parametrize("multilabel", [False, True])
def test_errors_and_parts_are_those_of_the_scores_in_the_metrics(multilabel: bool) -> None:
    p, y = drawn(4, 300)
    truth = np.random.default_rng(4).integers(0, 2, p.shape) if multilabel else y
    found = evaluate(p, truth, classes="abc", resamples=0)
    parts = found.calibration.brier
    assert parts.score == pytest.approx(found.metrics["brier"].value)
    total = parts.reliability - parts.resolution + parts.uncertainty + parts.within
    assert total == pytest.approx(parts.score)
    assert found.calibration.classwise == pytest.approx(classwise_error(p, truth, bins=15))
    curve = reliability_curve(*confidences(p, truth), bins=15, equal_mass=True)
    assert found.calibration.equal_mass == pytest.approx(curve.error)
    if not multilabel:
        ours = found.calibration.classwise
        each = [calibration_error(torch.tensor(p[:, c]), torch.tensor(y == c).long(),
                                  task="binary", n_bins=15) for c in range(3)]  # fmt: skip
        assert ours == pytest.approx(np.mean(each), abs=1e-5)


def test_decisions_agree_with_each_other() -> None:
    p = np.array([[0.5, 0.9], [0.51, 0.2]])
    assert decide(p, "multilabel").tolist() == [[0, 1], [1, 0]]
    assert is_correct(p, np.array([[0, 1], [0, 0]])).tolist() == [True, False]
    assert confidence(p, "multilabel").tolist() == [0.5, 0.51]
    assert is_correct(p, np.array([1, 1])).tolist() == [True, False]
    assert indicators(np.array([1, 0]), 3).tolist() == [[0, 1, 0], [1, 0, 0]]


@given(st.integers(0, 1000), st.integers(2, 80))
def test_the_parts_of_the_brier_score_add_up(seed: int, n: int) -> None:
    p, y = drawn(seed, n, classes=2)
    parts = brier_parts(p[:, 1], y.astype(float))
    assert parts.score == pytest.approx(brier_score_loss(y, p[:, 1]))
    total = parts.reliability - parts.resolution + parts.uncertainty + parts.within
    assert total == pytest.approx(parts.score)
    assert min(parts.reliability, parts.resolution, parts.uncertainty) >= 0
    bins = np.minimum((p[:, 1] * 10).astype(int), 9)
    within = 0.0
    for one in set(bins.tolist()):
        told, right = p[bins == one, 1], y[bins == one]
        covariance = np.cov(told, right, bias=True)
        within += len(told) / n * (covariance[0, 0] - 2 * covariance[0, 1])
    assert parts.within == pytest.approx(within, abs=1e-9)


def test_nothing_is_left_within_bins_where_all_of_a_bin_are_alike() -> None:
    told = np.repeat([0.15, 0.55, 0.95], [20, 30, 50])
    right = (np.random.default_rng(0).random(100) < told).astype(float)
    assert brier_parts(told, right).within == pytest.approx(0, abs=1e-12)


def test_abstention_leaves_out_the_least_confident() -> None:
    p, y = drawn(1, 500)
    confidence, right = confidences(p, y)
    share, accuracy = abstention_curve(confidence, right)
    assert share[-1] == 1
    assert accuracy[-1] == pytest.approx(accuracy_score(y, p.argmax(axis=1)))
    half = confidence >= np.sort(confidence)[250]
    assert np.interp(half.mean(), share, accuracy) == pytest.approx(right[half].mean())
    together, _ = abstention_curve(np.array([0.9, 0.5, 0.5]), np.array([1.0, 0, 1]))
    assert together.tolist() == pytest.approx([1 / 3, 1])


# --- prediction sets -------------------------------------------------------------------------


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
        assert swapped.size == pytest.approx(found.size, abs=0.02)
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
    assert found.found == pytest.approx(0.9, abs=0.04)
    assert 1 <= found.size <= 3
    assert check_coverage(p[:6], y[:6], groups[:6]) is None
