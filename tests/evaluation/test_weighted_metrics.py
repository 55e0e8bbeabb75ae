"""Weighted metrics against unweighted ones, repeated rows, and scikit-learn's sample weights."""

from __future__ import annotations

import numpy as np
import pytest
from drawn_predictions import multiclass, multilabel
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from medept.evaluation import evaluate
from medept.evaluation.weighted_metrics import (
    metric_inputs,
    weighted_auroc,
    weighted_average_precision,
    weighted_values,
)

NAMES = ("a", "b", "c")


def values(p: np.ndarray, y: np.ndarray) -> dict[str, float | None]:
    found = evaluate(p, y, classes=NAMES[: p.shape[1]], resamples=1)
    return {name: metric.value for name, metric in found.metrics.items()}


def weighted(p: np.ndarray, y: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    found = weighted_values(metric_inputs(p, y), weights[None].astype(float))
    return {name: value[0] for name, value in found.items()}


ANY_DATA = {
    "multi-class": multiclass(3, 200),
    "multi-label": multilabel(3, 200),
    "multi-class on the edges of bins": (
        np.stack([np.arange(16), 15 - np.arange(16), np.zeros(16)], axis=1) / 15,
        np.arange(16) % 3,
    ),
    "multi-label on the edges of bins": (
        np.stack([np.arange(16)] * 3, axis=1) / 15,
        np.stack([np.arange(16) % k == 0 for k in (2, 3, 5)], axis=1).astype(int),
    ),
    "one label an image, one label never": (np.eye(3)[[0, 1, 1, 0]], np.eye(3)[[0, 0, 1, 1]]),
    "a class guessed and never true": (np.eye(3)[[0, 1, 2, 0]], np.array([0, 1, 1, 1])),
}


@pytest.mark.parametrize("kind", ANY_DATA)
def test_weights_of_one_give_the_point_values(kind: str) -> None:
    p, y = ANY_DATA[kind]
    assert weighted(p, y, np.ones(len(y))) == pytest.approx(values(p, y), abs=1e-6)


@pytest.mark.parametrize("data", [multiclass, multilabel])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_weight_of_two_is_a_row_twice_and_order_is_nothing(data, seed: int) -> None:
    p, y = data(seed % 7)
    random = np.random.default_rng(seed)
    times = random.integers(0, 4, len(y))
    rows = random.permutation(np.arange(len(y)).repeat(times))
    assert weighted(p, y, times) == pytest.approx(values(p[rows], y[rows]), abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_weighted_values_equal_scikit_learn(seed: int) -> None:
    p, y = multiclass(seed)
    w = np.random.default_rng(seed).integers(0, 4, len(y))
    guess, found = p.argmax(axis=1), weighted(p, y, w)
    expected = {
        "accuracy": sk.accuracy_score(y, guess, sample_weight=w),
        "balanced_accuracy": sk.balanced_accuracy_score(y, guess, sample_weight=w),
        "auroc": np.mean([sk.roc_auc_score(y == c, p[:, c], sample_weight=w) for c in range(3)]),
        "f1": sk.f1_score(y, guess, average="macro", sample_weight=w),
    }
    assert {k: found[k] for k in expected} == pytest.approx(expected, abs=1e-9)
    p, y = multilabel(seed)
    found = weighted(p, y, w)
    expected = {
        "map": sk.average_precision_score(y, p, sample_weight=w),
        "auroc": sk.roc_auc_score(y, p, sample_weight=w),
        "f1": sk.f1_score(y, p > 0.5, average="macro", sample_weight=w),
        "brier": np.mean(
            [sk.brier_score_loss(y[:, c], p[:, c], sample_weight=w) for c in range(3)]
        ),
        "nll": sk.log_loss(y.ravel(), p.ravel(), sample_weight=np.repeat(w, 3)),
    }
    assert {k: found[k] for k in expected} == pytest.approx(expected, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.booleans(), st.integers(1, 3)), min_size=2, max_size=20
    )
)
def test_curves_with_ties_and_weights_equal_scikit_learn(rows: list[tuple[int, bool, int]]) -> None:
    scores, truth, weights = (np.array(x, dtype=float) for x in zip(*rows, strict=True))
    if len(set(truth)) < 2:
        assert np.isnan(weighted_auroc(scores, truth, weights[None])[0])
        assert np.isnan(weighted_average_precision(scores, truth, weights[None])[0])
        return
    auroc = weighted_auroc(scores, truth, weights[None])[0]
    assert auroc == pytest.approx(sk.roc_auc_score(truth, scores, sample_weight=weights))
    precision = weighted_average_precision(scores, truth, weights[None])[0]
    expected = sk.average_precision_score(truth, scores, sample_weight=weights)
    assert precision == pytest.approx(expected)
