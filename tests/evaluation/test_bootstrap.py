"""Bootstrap intervals: how often they cover the truth, exact ones, and groups drawn as a whole."""

from __future__ import annotations

import numpy as np
import pytest
from drawn_predictions import multiclass
from scipy.special import softmax
from scipy.stats import binomtest

from medept.evaluation import evaluate
from medept.evaluation.bootstrap import interval

NAMES = ("a", "b", "c")


def test_an_interval_needs_half_of_the_resamples() -> None:
    nan = np.nan
    assert interval([np.array([nan, 0.5]), np.array([0.5, nan])], 0.5) == (0.5, 0.5)
    assert interval([np.array([nan, 0.5, nan])], 0.5) == (None, None)
    assert interval([], 1.0) == (None, None)


def test_the_interval_of_accuracy_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    inside = 0
    for repeat in range(200):
        y = (random.random(80) < 0.7).astype(int)  # the guess is always class 1: accuracy 0.7
        metric = evaluate(np.tile([0.2, 0.8], (80, 1)), y, classes=("a", "b"), resamples=200,
                          seed=repeat).metrics["accuracy"]  # fmt: skip
        assert metric.low is not None
        assert metric.high is not None
        inside += metric.low <= 0.7 <= metric.high
    assert 0.89 <= inside / 200 <= 0.99


def test_copies_within_groups_add_no_certainty() -> None:
    p, y = multiclass(2, 40)
    alone = evaluate(p, y, classes=NAMES).metrics["accuracy"]
    copies, groups = (p.repeat(5, axis=0), y.repeat(5)), np.arange(40).repeat(5)
    fooled = evaluate(*copies, classes=NAMES).metrics["accuracy"]
    grouped = evaluate(*copies, classes=NAMES, groups=groups)
    assert grouped.groups == 40
    metrics = {"alone": alone, "fooled": fooled, "grouped": grouped.metrics["accuracy"]}
    width = {name: m.high - m.low for name, m in metrics.items()}
    assert width["grouped"] == pytest.approx(width["alone"], rel=0.15)
    assert width["fooled"] < 0.6 * width["grouped"]


def test_the_interval_of_a_sensitivity_is_that_of_a_share() -> None:
    random = np.random.default_rng(0)
    y = np.arange(600) % 2
    p = np.where(random.random(600) < 0.8, y, 1 - y)  # each class is found in 0.8
    rate = evaluate(np.eye(2)[p], y, classes=("a", "b")).by_class["b"]["sensitivity"]
    exact = binomtest(round(rate.value * 300), 300).proportion_ci()
    assert (rate.low, rate.high) == pytest.approx((exact.low, exact.high), abs=0.012)


def test_a_share_that_resampling_leaves_alone_has_the_exact_interval() -> None:
    """Nine of nine right: 1 - 0.025 ** (1 / 9) below 1 (Clopper and Pearson); groups count."""
    targets = np.repeat([0, 1], 9)
    right = np.eye(2)[targets]
    found = evaluate(right, targets, classes=("a", "b"), resamples=50)
    assert found.by_class["a"]["sensitivity"].low == pytest.approx(0.025 ** (1 / 9))
    assert found.by_class["a"]["sensitivity"].high == 1
    assert found.metrics["accuracy"].low == pytest.approx(0.025 ** (1 / 18))
    assert (found.metrics["auroc"].value, found.metrics["auroc"].low) == (1, None)
    wrong = evaluate(
        1 - right, targets, classes=("a", "b"), groups=np.arange(18) // 3, resamples=50
    )
    assert wrong.metrics["accuracy"].low == 0
    assert wrong.metrics["accuracy"].high == pytest.approx(1 - 0.025 ** (1 / 6))


def test_one_group_has_no_interval_and_a_seed_repeats() -> None:
    p, y = multiclass(0)
    single = evaluate(p, y, classes=NAMES, groups=np.zeros(len(y)))
    assert single.metrics["accuracy"].low is None
    assert evaluate(p, y, classes=NAMES, seed=5) == evaluate(p, y, classes=NAMES, seed=5)
    assert evaluate(p, y, classes=NAMES, seed=5) != evaluate(p, y, classes=NAMES, seed=6)


def test_the_interval_of_ece_covers_the_truth() -> None:
    def draw(n: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Outcomes drawn by known probabilities, which are then told too sharp."""
        logits = random.normal(size=(n, 3)) * 1.5
        truth = softmax(logits, axis=1)
        outcome = (random.random((n, 1)) > truth.cumsum(axis=1)).sum(axis=1).clip(0, 2)
        return softmax(2 * logits, axis=1), outcome

    truth = evaluate(*draw(100_000, np.random.default_rng(0)), classes="abc", resamples=1)
    ece, covered = truth.metrics["ece"].value, 0
    for seed in range(1, 101):
        drawn = draw(150, np.random.default_rng(seed))
        found = evaluate(*drawn, classes="abc", resamples=200).metrics["ece"]
        assert ece is not None
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= ece <= found.high
    assert covered >= 86  # of 100; percentiles of the resamples cover it in 80
