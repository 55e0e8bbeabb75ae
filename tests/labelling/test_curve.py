"""The learning curve, against the accuracy that is known of drawn clusters."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from medept.labelling.curve import learning_curve


def lda(features: np.ndarray, targets: np.ndarray, new: np.ndarray) -> np.ndarray:
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1).fit(features, targets)
    return model.predict(new)


def two_classes(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = (rng.random(count) < 0.25).astype(np.int64)
    return rng.normal(size=(count, 5)) + 1.5 * targets[:, None] * (np.arange(5) == 0), targets


def test_it_holds_the_accuracy_that_is_known() -> None:
    features, targets = two_classes(400)
    curve = learning_curve(features, targets, lda)
    assert curve is not None
    best = norm.cdf(0.75)  # of the rule that knows the means
    assert curve.low[-1] < best < curve.high[-1] + 0.03
    assert (curve.low <= curve.scores).all()
    assert (curve.scores <= curve.high).all()
    assert curve.sizes[-1] == 320
    assert np.mean(curve.predicted == targets) > 0.6
    assert -0.01 < curve.gain[0] < 0.02  # there is hardly anything left to gain


def test_more_labels_help_where_there_are_few() -> None:
    features, targets = two_classes(24, seed=1)
    few = learning_curve(features, targets, lda)
    features, targets = two_classes(300, seed=1)
    many = learning_curve(features, targets, lda)
    assert few is not None
    assert many is not None
    assert few.high[-1] - few.low[-1] > 2 * (many.high[-1] - many.low[-1])


def test_patients_stay_together() -> None:
    """Labels that only the patient gives away cannot be learnt."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(30), 4)
    targets = rng.integers(2, size=30)[patients]
    features = np.eye(30)[patients] + 0.01 * rng.normal(size=(120, 30))
    apart = learning_curve(features, targets, lda)
    together = learning_curve(features, targets, lda, groups=patients)
    assert apart is not None
    assert together is not None
    assert apart.scores[-1] > 0.95
    assert together.scores[-1] < 0.75


@pytest.mark.parametrize("targets", [[0, 1] * 2, [0] * 20, [0] * 19 + [1]])
def test_too_few_say_nothing(targets: list[int]) -> None:
    assert learning_curve(np.ones((len(targets), 2)), np.array(targets), lda) is None
