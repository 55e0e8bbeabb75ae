"""Temperature scaling: finds a known temperature and never makes things worse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import softmax

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
