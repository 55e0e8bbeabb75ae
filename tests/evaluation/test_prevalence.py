"""Prevalence: Bayes' rule against a model whose posterior is known, and the estimate by EM."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import brier_score_loss, log_loss

from medept import InputError
from medept.evaluation import evaluate
from medept.evaluation.at_prevalence import metrics_at_prevalence
from medept.evaluation.prevalence import (
    complete_prevalence,
    estimate_prevalence,
    with_prevalence,
)

HALVES = np.array([0.5, 0.5])


def posterior(x: np.ndarray, share: float) -> np.ndarray:
    """Of two normals, one of which has this share."""
    ill, well = share * norm.pdf(x, 1), (1 - share) * norm.pdf(x, -1)
    p = ill / (ill + well)
    return np.stack([1 - p, p], axis=1)


def images(share: float, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    y = (random.random(n) < share).astype(int)
    return random.normal(2 * y - 1), y


def test_the_posterior_at_another_prevalence_is_that_of_the_model() -> None:
    x, y = images(0.05, 2000, 0)
    balanced = posterior(x, 0.5)
    moved = with_prevalence(balanced, HALVES, np.array([0.95, 0.05]), "multiclass")
    assert moved == pytest.approx(posterior(x, 0.05))
    one_label = with_prevalence(balanced[:, 1:], HALVES[:1], np.array([0.05]), "multilabel")
    assert one_label == pytest.approx(moved[:, 1:])
    assert abs(moved[:, 1].mean() - y.mean()) < 0.01 < 0.1 < balanced[:, 1].mean() - y.mean()
    assert evaluate(moved, y, classes="ab", resamples=0).metrics["ece"].value < 0.02
    assert log_loss(y, moved) < log_loss(y, balanced)


def test_em_finds_the_prevalence_and_its_interval_holds_it() -> None:
    held = 0
    for seed in range(40):
        p = posterior(images(0.1, 400, seed)[0], 0.5)
        share, low, high = estimate_prevalence(p, HALVES, seed=seed)
        assert share.sum() == pytest.approx(1)
        held += low[1] <= 0.1 <= high[1]
    assert held >= 35  # of 40
    p = posterior(images(0.1, 400, 0)[0], 0.5)
    shares = np.linspace(0.001, 0.999, 999)
    likelihood = [np.log(p @ [1 - s, s]).sum() for s in shares]  # at equal shares before
    best = shares[np.argmax(likelihood)]
    assert estimate_prevalence(p, HALVES)[0][1] == pytest.approx(best, abs=2e-3)


def test_classes_that_are_not_given_share_the_rest() -> None:
    before = np.array([0.5, 0.25, 0.25])
    found = complete_prevalence({"c": 0.1}, "abc", before, "multiclass")
    assert found == pytest.approx([0.6, 0.3, 0.1])
    labels = complete_prevalence({"c": 0.1}, "abc", before, "multilabel")
    assert labels == pytest.approx([0.5, 0.25, 0.1])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"d": 0.1}, "d: not a class; the classes are a, b"),
        ({"a": 0.5, "b": 0.4}, "sums to 0.9"),
        ({"a": 1.5}, "between 0 and 1"),
        ({"a": 0.0}, "between 0 and 1"),
    ],
)
def test_bad_prevalence_is_refused(given: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        complete_prevalence(given, ["a", "b"], HALVES, "multiclass")
    with pytest.raises(InputError, match="leaves nothing"):
        complete_prevalence({"a": 0.6, "b": 0.4}, "abc", np.ones(3) / 3, "multiclass")
    with pytest.raises(InputError, match="no cases with b"):
        complete_prevalence({"a": 0.6}, "ab", np.array([1.0, 0.0]), "multiclass")


def test_metrics_at_a_stated_prevalence_are_those_of_a_test_set_that_has_it() -> None:
    """Copies of the test set's images in the stated proportions, weighed by scikit-learn."""
    x, y = images(0.5, 400, 1)
    p = posterior(x, 0.1)
    stated = np.array([0.9, 0.1])
    found = metrics_at_prevalence(p, y, ["well", "ill"], stated).metrics
    weights = stated[y] / np.bincount(y)[y]
    assert found["nll"].value == pytest.approx(log_loss(y, p, sample_weight=weights))
    brier = 2 * brier_score_loss(y, p[:, 1], sample_weight=weights)
    assert found["brier"].value == pytest.approx(brier)
    ill, well = np.flatnonzero(y == 1), np.flatnonzero(y == 0)
    rows = np.concatenate([np.tile(well, 9 * len(ill)), np.tile(ill, len(well))])
    copied = evaluate(p[rows], y[rows], classes=["well", "ill"], resamples=0).metrics
    for name, metric in found.items():
        assert metric.value == pytest.approx(copied[name].value, abs=1e-9)
        assert metric.low is not None
        assert metric.low < metric.value < metric.high
    absent = metrics_at_prevalence(p[well], y[well], ["well", "ill"], stated).metrics
    assert absent["brier"].value is None


def test_metrics_of_labels_at_a_stated_prevalence() -> None:
    random = np.random.default_rng(0)
    y = (random.random((300, 2)) < (0.3, 0.6)).astype(np.uint8)
    p = np.clip(0.5 * y + 0.5 * random.random((300, 2)), 0.01, 0.99)
    stated = np.array([0.05, 0.2])
    found = metrics_at_prevalence(p, y, ["a", "b"], stated, np.arange(300) // 3).metrics
    parts = []
    for label, share in enumerate(stated):
        of_kind = np.array([1 - share, share]) / np.bincount(y[:, label])
        weights = of_kind[y[:, label]]
        parts.append([brier_score_loss(y[:, label], p[:, label], sample_weight=weights),
                      log_loss(y[:, label], p[:, label], sample_weight=weights)])  # fmt: skip
    assert [found["brier"].value, found["nll"].value] == pytest.approx(np.mean(parts, axis=0))


def test_the_intervals_at_a_stated_prevalence_hold_the_truth() -> None:
    """The Brier score and log loss of a known model, over simulated test sets of 60 and 60."""
    stated, held = np.array([0.9, 0.1]), {"brier": 0, "nll": 0}
    x, y = images(0.1, 400_000, 99)
    p = posterior(x, 0.1)
    truth = {"brier": 2 * np.mean((p[:, 1] - y) ** 2), "nll": log_loss(y, p)}
    for seed in range(200):
        random = np.random.default_rng(seed)
        y = np.repeat([0, 1], 60)
        p = posterior(random.normal(2 * y - 1), 0.1)
        found = metrics_at_prevalence(p, y, ["well", "ill"], stated, draws=1).metrics
        for name in held:
            held[name] += found[name].low <= truth[name] <= found[name].high
    assert min(held.values()) >= 184, held
