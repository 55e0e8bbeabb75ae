"""Temperature scaling: finds a known temperature and never makes things worse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import softmax
from sklearn.metrics import log_loss

from medept import InputError
from medept.evaluation.temperature import (
    fit_temperature,
    negative_log_likelihood,
    to_probabilities,
)


@pytest.mark.parametrize("truth", [0.5, 1.0, 3.0])
def test_recovers_a_known_temperature(truth: float) -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(20_000, 4)) * 2
    p = softmax(logits, axis=1).cumsum(axis=1)
    classes = (random.random((len(p), 1)) > p).sum(axis=1)
    assert fit_temperature(logits * truth, classes) == pytest.approx(truth, rel=0.05)
    labels = (random.random(logits.shape) < to_probabilities(logits, task="multilabel")).astype(int)
    assert fit_temperature(logits * truth, labels) == pytest.approx(truth, rel=0.05)


@settings(max_examples=50, deadline=None)
@given(
    hnp.arrays(np.float64, (8, 3), elements=st.integers(-20, 20).map(float)), st.integers(0, 999)
)
def test_never_worse_and_never_another_class(logits: np.ndarray, seed: int) -> None:
    targets = np.random.default_rng(seed).integers(0, 3, 8)
    temperature = fit_temperature(logits, targets)
    before = negative_log_likelihood(logits, targets)
    assert negative_log_likelihood(logits / temperature, targets) <= before + 1e-9
    scaled = to_probabilities(logits, task="multiclass", temperature=temperature)
    assert scaled.sum(axis=1) == pytest.approx(1)
    assert (scaled.argmax(axis=1) == logits.argmax(axis=1)).all()


@settings(max_examples=30, deadline=None)
@given(
    hnp.arrays(np.float64, (8, 3), elements=st.integers(-20, 20).map(float)), st.integers(0, 999)
)
def test_never_worse_for_labels_and_never_another_side(logits: np.ndarray, seed: int) -> None:
    targets = np.random.default_rng(seed).integers(0, 2, (8, 3))
    temperature = fit_temperature(logits, targets)
    before = negative_log_likelihood(logits, targets)
    assert negative_log_likelihood(logits / temperature, targets) <= before + 1e-9
    scaled = to_probabilities(logits, task="multilabel", temperature=temperature)
    assert ((scaled > 0.5) == (logits > 0)).all()


def test_negative_log_likelihood_equals_scikit_learn() -> None:
    random = np.random.default_rng(0)
    logits, y = random.normal(size=(50, 4)), random.integers(0, 4, 50)
    p = to_probabilities(logits, task="multiclass")
    assert negative_log_likelihood(logits, y) == pytest.approx(log_loss(y, p, labels=range(4)))
    labels = random.integers(0, 2, (50, 4))
    p = to_probabilities(logits, task="multilabel")
    assert negative_log_likelihood(logits, labels) == pytest.approx(
        log_loss(labels.ravel(), p.ravel())
    )


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_large_float32_logits_overflow_nothing(task: str) -> None:
    p = to_probabilities(np.array([[3e38, -3e38]], dtype=np.float32), task=task, temperature=0.05)
    assert p.dtype == np.float64
    assert p.tolist() == [[1.0, 0.0]]


def test_bad_input() -> None:
    with pytest.raises(InputError, match="task 'multi'"):
        to_probabilities(np.zeros((1, 2)), task="multi")
    for temperature in (0.0, -1.0, np.nan):
        with pytest.raises(InputError, match="above 0"):
            to_probabilities(np.zeros((1, 2)), task="multiclass", temperature=temperature)
    with pytest.raises(InputError, match="at least 1"):
        fit_temperature(np.zeros((0, 2)), np.zeros(0, dtype=int))
    with pytest.raises(InputError, match="expected"):
        fit_temperature(np.zeros((3, 2)), np.zeros(2, dtype=int))
    with pytest.raises(InputError, match="row 1 is not finite"):
        fit_temperature(np.array([[0.0, 1.0], [np.nan, 0.0]]), np.array([0, 1]))
