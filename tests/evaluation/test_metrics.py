"""Metrics against torchmetrics, scikit-learn and hand counts; intervals against their meaning."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchmetrics.functional as tm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import binomtest
from sklearn import metrics as sk

from medept import InputError
from medept.evaluation import evaluate
from medept.evaluation.bootstrap import (
    find_cases,
    weighted_auroc,
    weighted_average_precision,
    weighted_values,
)
from medept.evaluation.metrics import _interval

NAMES = ("a", "b", "c")


def values(p: np.ndarray, y: np.ndarray) -> dict[str, float | None]:
    found = evaluate(p, y, classes=NAMES[: p.shape[1]], resamples=1)
    return {name: metric.value for name, metric in found.metrics.items()}


def weighted(p: np.ndarray, y: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    found = weighted_values(find_cases(p, y), weights[None].astype(float))
    return {name: value[0] for name, value in found.items()}


def multiclass(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    p = random.dirichlet(np.ones(3), n)
    return p, np.array([random.choice(3, p=row) for row in p])


def multilabel(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    p = random.random((n, 3)).round(1)
    return p, (random.random((n, 3)) < p).astype(np.uint8)


@pytest.mark.parametrize("seed", range(5))
def test_multiclass_equals_scikit_learn(seed: int) -> None:
    p, y = multiclass(seed)
    found = values(p, y)
    guess = p.argmax(axis=1)
    assert found == pytest.approx(
        {
            "accuracy": sk.accuracy_score(y, guess),
            "balanced_accuracy": sk.balanced_accuracy_score(y, guess),
            "auroc": sk.roc_auc_score(y, p, multi_class="ovr"),
            "f1": sk.f1_score(y, guess, average="macro"),
            "ece": ece_by_hand(p.max(axis=1), guess == y),
            "brier": sum(((p[:, c] - (y == c)) ** 2).mean() for c in range(3)),
            "nll": sk.log_loss(y, p),
        },
        abs=1e-6,
    )


@pytest.mark.parametrize("seed", range(5))
def test_multilabel_equals_scikit_learn(seed: int) -> None:
    p, y = multilabel(seed)
    found = values(p, y)
    assert found == pytest.approx(
        {
            "map": sk.average_precision_score(y, p, average="macro"),
            "auroc": sk.roc_auc_score(y, p, average="macro"),
            "f1": sk.f1_score(y, p > 0.5, average="macro"),
            "ece": ece_by_hand(p.ravel(), y.ravel()),
            "brier": np.mean([sk.brier_score_loss(y[:, c], p[:, c]) for c in range(3)]),
            "nll": sk.log_loss(y.ravel(), p.ravel()),
        },
        abs=1e-6,
    )


def ece_by_hand(confidence: np.ndarray, right: np.ndarray) -> float:
    total = 0.0
    place = np.digitize(confidence, np.linspace(0, 1, 16))
    for bin_number in np.unique(place):
        inside = place == bin_number
        total += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    return total


@pytest.mark.parametrize("seed", range(5))
def test_multiclass_equals_torchmetrics(seed: int) -> None:
    p, y = multiclass(seed)
    arguments = (torch.from_numpy(p), torch.from_numpy(y))
    kind = {"task": "multiclass", "num_classes": 3}
    expected = {
        "accuracy": tm.accuracy(*arguments, average="micro", **kind),
        "balanced_accuracy": tm.accuracy(*arguments, average="macro", **kind),
        "auroc": tm.auroc(*arguments, **kind),
        "f1": tm.f1_score(*arguments, average="macro", **kind),
        "ece": tm.calibration_error(*arguments, n_bins=15, **kind),
    }
    found = values(p, y)
    assert {k: found[k] for k in expected} == pytest.approx(
        {k: float(v) for k, v in expected.items()}, abs=1e-6
    )


@pytest.mark.parametrize("seed", range(5))
def test_multilabel_equals_torchmetrics(seed: int) -> None:
    p, y = multilabel(seed)
    scores, truth = torch.from_numpy(p), torch.from_numpy(y).long()
    kind = {"task": "multilabel", "num_labels": 3}
    ece = tm.calibration_error(scores.flatten(), truth.flatten(), task="binary", n_bins=15)
    expected = {
        "map": tm.average_precision(scores, truth, **kind),
        "auroc": tm.auroc(scores, truth, **kind),
        "f1": tm.f1_score(scores, truth, average="macro", **kind),
        "ece": ece,
    }
    found = values(p, y)
    assert {k: found[k] for k in expected} == pytest.approx(
        {k: float(v) for k, v in expected.items()}, abs=1e-6
    )


def test_multiclass_by_hand() -> None:
    p = np.array([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.1, 0.3, 0.6], [0.1, 0.8, 0.1]])
    y = np.array([0, 1, 2, 1])  # guessed 0, 0, 2, 1
    assert values(p, y) == pytest.approx(
        {
            "accuracy": 3 / 4,
            "balanced_accuracy": (1 + 1 / 2 + 1) / 3,
            "auroc": 1.0,
            "f1": (2 / 3 + 2 / 3 + 1) / 3,
            "ece": (0.3 + 0.5 + 0.4 + 0.2) / 4,  # every image in a bin of its own
            "brier": (0.14 + 0.62 + 0.26 + 0.06) / 4,
            "nll": -np.log([0.7, 0.4, 0.6, 0.8]).mean(),
        },
        abs=1e-6,
    )


def test_multilabel_by_hand() -> None:
    p = np.array([[0.9, 0.2], [0.6, 0.7], [0.3, 0.5], [0.1, 0.5]])
    y = np.array([[1, 0], [0, 1], [1, 1], [0, 0]])
    assert values(p, y) == pytest.approx(
        {
            "map": ((1 + 2 / 3) / 2 + (1 + 2 / 3) / 2) / 2,  # a tie at 0.5 comes in at once
            "auroc": (3 / 4 + 3.5 / 4) / 2,
            "f1": (1 / 2 + 2 / 3) / 2,  # 0.5 itself is no
            "ece": (0.1 + 0.2 + 0.6 + 0.3 + 0.7 + 0.0 + 0.1) / 8,  # of 0.5 and 0.5, one came true
            "brier": (0.01 + 0.36 + 0.49 + 0.01 + 0.04 + 0.09 + 0.25 + 0.25) / 8,
            "nll": -np.log([0.9, 0.4, 0.3, 0.9, 0.8, 0.7, 0.5, 0.5]).mean(),
        },
        abs=1e-6,
    )


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


def test_a_class_with_one_value_only_is_named_and_left_out() -> None:
    p, y = multilabel(0)
    y[:, 1] = 0
    result = evaluate(p, y, classes=NAMES, resamples=50)
    assert result.undefined == {"map": ("b",), "auroc": ("b",), "f1": ("b",)}
    others = (0, 2)
    expected = {
        "map": np.mean([sk.average_precision_score(y[:, c], p[:, c]) for c in others]),
        "auroc": np.mean([sk.roc_auc_score(y[:, c], p[:, c]) for c in others]),
        "f1": np.mean([sk.f1_score(y[:, c], p[:, c] > 0.5) for c in others]),
    }
    found = {name: result.metrics[name].value for name in expected}
    assert found == pytest.approx(expected, abs=1e-6)
    y[:, 1] = 1
    always = evaluate(p, y, classes=NAMES, resamples=1)
    assert always.undefined == {"map": ("b",), "auroc": ("b",)}


def test_an_absent_class_is_left_out_even_if_guessed() -> None:
    p, y = multiclass(1)
    y[y == 2] = 0
    guess = p.argmax(axis=1)
    assert 2 in guess
    result = evaluate(p, y, classes=NAMES, resamples=1)
    expected = {
        "balanced_accuracy": sk.recall_score(y, guess, labels=[0, 1], average="macro"),
        "auroc": np.mean([sk.roc_auc_score(y == c, p[:, c]) for c in (0, 1)]),
        "f1": sk.f1_score(y, guess, labels=[0, 1], average="macro"),
    }
    found = {name: result.metrics[name].value for name in expected}
    assert found == pytest.approx(expected, abs=1e-6)
    assert result.undefined == dict.fromkeys(expected, ("c",))


def test_one_label_column_is_enough() -> None:
    p, y = multilabel(0)
    found = evaluate(p[:, :1], y[:, :1], classes=("a",), resamples=1).metrics["auroc"].value
    assert found == pytest.approx(sk.roc_auc_score(y[:, 0], p[:, 0]), abs=1e-6)


def test_rounding_above_one_changes_nothing() -> None:
    p, y = multilabel(0)
    p[0], above = 1.0, p.copy()
    above[0] = 1 + 5e-10
    assert values(above, y) == pytest.approx(values(p, y), abs=1e-6)


def test_an_interval_needs_half_of_the_resamples() -> None:
    nan = np.nan
    assert _interval([np.array([nan, 0.5]), np.array([0.5, nan])], 0.5) == (0.5, 0.5)
    assert _interval([np.array([nan, 0.5, nan])], 0.5) == (None, None)
    assert _interval([], 1.0) == (None, None)


def test_nothing_defined_is_none_and_not_a_number() -> None:
    p = np.array([[0.2, 0.8], [0.7, 0.3]])
    result = evaluate(p, np.zeros((2, 2), dtype=int), classes=("a", "b"), resamples=20)
    assert result.metrics["auroc"].value is None
    assert result.metrics["auroc"].low is None
    written = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert written["undefined"] == {name: ["a", "b"] for name in ("map", "auroc", "f1")}
    assert written["auroc"] == {"value": None, "low": None, "high": None, "n": 2}
    assert written["groups"] == 2


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


@pytest.mark.parametrize("kind", [multiclass, multilabel])
def test_rates_of_each_class_equal_scikit_learn(kind: Callable) -> None:
    p, y = kind(4)
    truth = y if y.ndim == 2 else np.eye(3, dtype=int)[y]
    guess = (p > 0.5).astype(int) if y.ndim == 2 else np.eye(3, dtype=int)[p.argmax(axis=1)]
    found = evaluate(p, y, classes=NAMES, resamples=1).by_class
    assert list(found) == list(NAMES)
    for rates, t, g in zip(found.values(), truth.T, guess.T, strict=True):
        assert {name: (rate.value, rate.n) for name, rate in rates.items()} == {
            "sensitivity": (pytest.approx(sk.recall_score(t, g)), t.sum()),
            "specificity": (pytest.approx(sk.recall_score(1 - t, 1 - g)), (1 - t).sum()),
            "precision": (pytest.approx(sk.precision_score(t, g)), g.sum()),
        }


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


EVEN, ROW = np.array([[0.5, 0.3, 0.2]] * 2), np.array([0, 1])
BAD = {
    "at least 1": (np.zeros((0, 3)), np.zeros(0, dtype=int)),
    "row 0, column 0 is nan": (np.full((2, 3), np.nan), ROW),
    "row 0, column 0 is -0.1": (np.array([[-0.1, 0.6, 0.5]] * 2), ROW),
    "row 1, column 2 is 1.5": (
        np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 1.5]]),
        np.eye(3, dtype=int)[:2],
    ),
    "row 1 sums to 1.6": (np.array([[0.5, 0.3, 0.2], [0.5, 0.6, 0.5]]), ROW),
    "for 3 classes": (np.array([[0.5, 0.5]] * 2), ROW),
    r"\(3, 3\) and targets \(2,\)": (np.array([[0.5, 0.3, 0.2]] * 3), ROW),
    r"targets \(\)": (EVEN, np.array(1)),
    r"targets \(2, 1, 1\)": (EVEN, np.zeros((2, 1, 1), dtype=int)),
    "row 1 is 3": (EVEN, np.array([0, 3])),
    "row 0 is -1": (EVEN, np.array([-1, 0])),
    "float64": (EVEN, np.array([0.0, 1.0])),
    "row 0, column 2 is 2": (EVEN, np.array([[0, 1, 2], [0, 0, 0]])),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_pointed_at(message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(*BAD[message], classes=NAMES)


def test_bad_groups_and_too_few_classes() -> None:
    with pytest.raises(InputError, match="one id an image"):
        evaluate(EVEN, ROW, classes=NAMES, groups=np.array(["a"]))
    with pytest.raises(InputError, match="1 classes"):
        evaluate(np.ones((2, 1)), np.zeros(2, dtype=int), classes=("a",))


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
