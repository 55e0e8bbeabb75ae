"""Intervals: how often they hold the truth, exact ones, and groups that count as a whole."""

from __future__ import annotations

import importlib
import sys

import numpy as np
import pytest
from drawn_predictions import multiclass, multilabel
from helpers import ROOT
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm

from medept.evaluation import evaluate
from medept.evaluation.intervals import Estimate, mean_estimate, mid_p_interval

NAMES = ("a", "b", "c")


@given(st.integers(1, 300), st.floats(0, 1))
def test_the_ends_of_the_mid_p_interval_leave_the_tails_that_define_it(n: int, p: float) -> None:
    hits = round(p * n)
    low, high = mid_p_interval(hits / n, n)
    assert 0 <= low <= hits / n <= high <= 1
    half = [binom.pmf(hits, n, end) / 2 for end in (low, high)]
    if hits > 0:
        assert binom.sf(hits, n, low) + half[0] == pytest.approx(0.025, abs=1e-6)
    if hits < n:
        assert binom.cdf(hits - 1, n, high) + half[1] == pytest.approx(0.025, abs=1e-6)


def test_uncorrelated_and_equal_parts_combine_as_they_should() -> None:
    one = Estimate(0.8, 0.6, 0.9, np.array([0.1, -0.1, 0.0, 0.0]))
    other = Estimate(0.6, 0.3, 0.8, np.array([0.0, 0.0, 0.1, -0.1]))
    mean = mean_estimate([one, other])  # by hand: the root of the sum of squares, halved
    assert mean.value == pytest.approx(0.7)
    assert mean.low == pytest.approx(0.7 - np.hypot(0.2, 0.3) / 2)
    assert mean.high == pytest.approx(0.7 + np.hypot(0.1, 0.2) / 2)
    same = mean_estimate([one, one])
    assert (same.low, same.high) == pytest.approx((0.6, 0.9))


@pytest.fixture(scope="module")
def simulation():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module("intervals")
    sys.path.pop(0)


@pytest.mark.parametrize(
    ("counts", "group"), [((195, 5), 1), ((60, 20, 8), 1), ((200, 40), 4)], ids=str
)
def test_every_interval_holds_the_truth_as_often_as_it_says(simulation, counts, group) -> None:
    """60 test sets each: 0.95 comes out as less than 0.87 once in 200 times."""
    held = simulation.coverage(counts, group=group, test_sets=60, population=20_000)
    assert set(held) > {"balanced_accuracy", "auroc", "f1", "ece", "brier", "nll", "accuracy"}
    assert {name: rate for name, rate in held.items() if rate < 0.87} == {}


def test_a_sum_of_means_is_held_as_often_by_the_bootstrap_where_there_is_plenty() -> None:
    """With 500 images of each class all intervals are those of the percentile bootstrap."""
    p, y = multiclass(3, 1500)
    found = evaluate(p, y, classes=NAMES).metrics
    random, drawn = np.random.default_rng(0), []
    for _ in range(80):
        rows = random.integers(0, 1500, 1500)
        again = evaluate(p[rows], y[rows], classes=NAMES, resamples=0).metrics
        drawn.append([again[name].value for name in found])
    deviation = np.std(drawn, axis=0)
    for (name, metric), sd in zip(found.items(), deviation, strict=True):
        assert metric.high - metric.low == pytest.approx(2 * norm.ppf(0.975) * sd, rel=0.25), name


@pytest.mark.parametrize("kind", [multiclass, multilabel])
def test_copies_within_groups_add_no_certainty(kind) -> None:
    p, y = kind(2, 40)
    alone = evaluate(p, y, classes=NAMES).metrics
    copies, groups = (p.repeat(5, axis=0), y.repeat(5, axis=0)), np.arange(40).repeat(5)
    fooled = evaluate(*copies, classes=NAMES).metrics
    grouped = evaluate(*copies, classes=NAMES, groups=groups)
    assert grouped.groups == 40
    for name, metric in grouped.metrics.items():
        width, before, wrong = (m.high - m.low for m in (metric, alone[name], fooled[name]))
        assert width == pytest.approx(before, rel=0.25), name
        assert wrong < 0.6 * width, name


def test_where_all_are_right_groups_count_and_not_images() -> None:
    """Nine of nine right: 1 - 0.05 ** (1 / 9) below 1 (mid-P counts half of the one outcome)."""
    targets = np.repeat([0, 1], 9)
    right = np.eye(2)[targets]
    found = evaluate(right, targets, classes=("a", "b"))
    assert found.by_class["a"]["sensitivity"].low == pytest.approx(0.05 ** (1 / 9))
    assert found.by_class["a"]["sensitivity"].high == 1
    assert found.metrics["accuracy"].low == pytest.approx(0.05 ** (1 / 18))
    assert found.metrics["auroc"].value == 1
    assert 0.4 < found.metrics["auroc"].low < 0.75
    wrong = evaluate(1 - right, targets, classes=("a", "b"), groups=np.arange(18) // 3)
    assert wrong.metrics["accuracy"].low == 0
    assert wrong.metrics["accuracy"].high == pytest.approx(1 - 0.05 ** (1 / 6))


def test_classes_of_few_groups_are_named() -> None:
    p, y = multiclass(0, 60)
    y[:] = 0
    y[:8] = 1
    groups = np.arange(60) // 4
    assert evaluate(p, y, classes=NAMES, groups=groups).few == {"b": 2}
    assert evaluate(p, y, classes=NAMES).few == {}


def test_one_group_has_no_interval_and_a_seed_repeats() -> None:
    p, y = multiclass(0)
    single = evaluate(p, y, classes=NAMES, groups=np.zeros(len(y)))
    assert single.metrics["accuracy"].low is None
    assert single.metrics["ece"].low is None
    assert evaluate(p, y, classes=NAMES, seed=5) == evaluate(p, y, classes=NAMES, seed=5)
    assert evaluate(p, y, classes=NAMES, seed=5) != evaluate(p, y, classes=NAMES, seed=6)


def test_perfect_probabilities_have_the_error_that_chance_makes() -> None:
    random = np.random.default_rng(0)
    found = []
    for seed in range(40):
        p = random.random(150)
        y = (random.random(150) < p).astype(np.int64)
        both = evaluate(np.stack([1 - p, p], 1), y, classes=("a", "b"), resamples=200, seed=seed)
        found.append((both.metrics["ece"].value, both.calibration.by_chance))
    value, by_chance = np.mean(found, axis=0)
    assert by_chance == pytest.approx(value, rel=0.1)
