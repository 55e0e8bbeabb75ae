"""Reliability curves, calibration errors and abstention, against other libraries and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from drawn_predictions import drawn
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, brier_score_loss
from torchmetrics.functional import calibration_error

from medept.evaluation import evaluate
from medept.evaluation.reliability import (
    abstention_curve,
    brier_parts,
    classwise_error,
    confidences,
    reliability_curve,
)


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
