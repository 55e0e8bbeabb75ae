"""Calibration: known distortions are undone, and nothing is made worse where it must not be."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError
from scipy.optimize import check_grad
from scipy.special import softmax
from sklearn.metrics import log_loss

from medept import FewShotClassifier, InputError
from medept.data.labelled_images import LabelledImages
from medept.evaluation.calibration import (
    Calibration,
    Kind,
    fit_calibration,
    fit_temperature,
    negative_log_likelihood,
    vector_objective,
)
from medept.phantoms import make_phantoms


def to_probabilities(logits: np.ndarray, *, task: str, temperature: float = 1.0) -> np.ndarray:
    return Calibration(scale=[1 / temperature]).probabilities(logits, task)


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
    with pytest.raises(InputError, match="at least 1"):
        fit_temperature(np.zeros((0, 2)), np.zeros(0, dtype=int))
    with pytest.raises(InputError, match="expected"):
        fit_temperature(np.zeros((3, 2)), np.zeros(2, dtype=int))
    with pytest.raises(InputError, match="row 1 is not finite"):
        fit_temperature(np.array([[0.0, 1.0], [np.nan, 0.0]]), np.array([0, 1]))
    for wrong in ([0.0], [-1.0], [np.nan]):
        with pytest.raises(ValidationError):
            Calibration(scale=wrong)


def outcomes(logits: np.ndarray, task: str) -> np.ndarray:
    """Classes or labels drawn by the probabilities that the logits give."""
    random = np.random.default_rng(1)
    p = Calibration().probabilities(logits, task)
    if task == "multilabel":
        return (random.random(p.shape) < p).astype(int)
    return (random.random((len(p), 1)) > p.cumsum(axis=1)).sum(axis=1)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("kind", ["temperature", "vector", "isotonic"])
def test_each_kind_mends_logits_that_are_too_large(kind: Kind, task: str) -> None:
    logits = np.random.default_rng(0).normal(size=(6000, 3)) * 1.5
    truth = outcomes(logits, task)
    told = 3 * logits
    found = fit_calibration(kind, told[:3000], truth[:3000])
    assert found.images == 3000
    p = found.probabilities(told[3000:], task)
    expected = Calibration().probabilities(logits[3000:], task)
    assert np.abs(p - expected).mean() < (0.035 if kind == "isotonic" else 0.012)
    assert np.abs(Calibration().probabilities(told[3000:], task) - expected).mean() > 0.08
    if task == "multiclass":
        assert np.allclose(p.sum(axis=1), 1)


def test_vector_scaling_finds_its_factors_and_offsets() -> None:
    logits = np.random.default_rng(0).normal(size=(20_000, 3))
    scale, offset = np.array([0.5, 1.0, 2.0]), np.array([0.3, -0.8, 0.5])
    truth = outcomes(logits * scale + offset, "multilabel")
    found = fit_calibration("vector", logits, truth)
    assert found.scale == pytest.approx(scale, abs=0.06)
    assert found.offset == pytest.approx(offset, abs=0.06)


@pytest.mark.parametrize("multilabel", [False, True])
def test_the_slopes_of_vector_scaling_are_those_of_finite_differences(multilabel: bool) -> None:
    random = np.random.default_rng(0)
    logits, classes = random.normal(size=(12, 3)), random.integers(0, 3, 12)
    truth = random.integers(0, 2, (12, 3)) if multilabel else np.eye(3)[classes]
    objective = partial(vector_objective, logits=logits, truth=truth, multilabel=multilabel)
    at = random.normal(size=6) / 3
    wrong = check_grad(lambda x: objective(x)[0], lambda x: objective(x)[1], at)
    assert wrong < 1e-5


def test_one_held_out_image_moves_the_temperature_little() -> None:
    sure = np.array([[9.0, 0.0]])
    assert fit_temperature(sure, np.array([1])) == pytest.approx(20, rel=0.01)
    assert 1 < fit_temperature(sure, np.array([1]), prior=True) < 6


def test_the_prior_weighs_once_whatever_the_number_of_labels() -> None:
    """The temperature is the mode of the posterior over all n x C labels."""
    random = np.random.default_rng(0)
    logits = 6 * random.normal(size=(5, 19))
    targets = (random.random((5, 19)) < 1 / (1 + np.exp(-logits / 3))).astype(int)

    def minus_log_posterior(log_t: float) -> float:
        z = logits / np.exp(log_t)
        likelihood = (np.logaddexp(0, z) - targets * z).sum()
        return float(likelihood + log_t**2 / 2)

    found = np.log(fit_temperature(logits, targets, prior=True))
    around = [minus_log_posterior(found + step) for step in (-0.02, 0, 0.02)]
    assert around[1] < min(around[0], around[2])


# --- through the classifier ------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted() -> tuple[FewShotClassifier, LabelledImages]:
    data = make_phantoms("colon", patients=12, images_per_patient=2, size=64, difficulty=0.5)
    classifier = FewShotClassifier(method="linear", epochs=20, lr=0.1, device="cpu")
    classifier.fit(data.images, data.labels, groups=data.groups)
    return classifier, data


def test_a_fit_is_calibrated_and_keeps_its_order(
    fitted: tuple[FewShotClassifier, LabelledImages], tmp_path: Path
) -> None:
    classifier, data = fitted
    found = classifier.calibration_
    assert (found.kind, found.images) == ("temperature", len(data))
    assert found.scale[0] < 1  # a rate of 0.1 makes it far too sure
    p = classifier.predict_proba(data.images)
    logits = classifier.logits(data.images).astype(np.float64)
    ascending = (logits[:, 1] - logits[:, 0]).argsort()
    assert (np.diff(p[ascending, 1]) >= 0).all()
    assert p.max() < softmax(logits, axis=1).max()
    classifier.save(tmp_path)
    loaded = FewShotClassifier.load(tmp_path, device="cpu")
    assert np.allclose(loaded.predict_proba(data.images), p, atol=1e-6)


def test_one_shot_leaves_nothing_to_hold_out_and_says_so() -> None:
    data = make_phantoms("colon", patients=2, images_per_patient=2, size=64)
    classifier = FewShotClassifier(method="prototype", device="cpu")
    classifier.fit(data.images, data.labels, groups=np.array(["a", "a", "b", "b"]))
    assert classifier.calibration_.kind == "none"
    assert "two shots" in classifier.calibration_.note


def test_an_adapter_with_a_damaged_calibration_is_refused(
    fitted: tuple[FewShotClassifier, LabelledImages], tmp_path: Path
) -> None:
    fitted[0].save(tmp_path)
    content = json.loads((tmp_path / "adapter.json").read_text())
    for damage in ({"scale": [-1.0]}, {"scale": [1.0] * 5}, {"steps": [[[0.1], []], [[0.1], []]]}):
        changed = content | {"calibration": content["calibration"] | damage}
        (tmp_path / "adapter.json").write_text(json.dumps(changed))
        with pytest.raises(InputError, match=r"adapter\.json"):
            FewShotClassifier.load(tmp_path)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(InputError, match="use one of temperature"):
        FewShotClassifier(calibrate="platt").fit(["a", "b"], [0, 1])  # type: ignore[arg-type]
