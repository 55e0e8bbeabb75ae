"""Metrics against torchmetrics, scikit-learn and hand counts; intervals against their meaning."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from medept import InputError
from medept.evaluation import evaluate
from medept.evaluation.metrics import (
    _weighted_multiclass,
    _weighted_multilabel,
    weighted_auroc,
    weighted_average_precision,
)

NAMES = ("a", "b", "c")


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
    found = {k: m.value for k, m in evaluate(p, y, classes=NAMES, resamples=1).metrics.items()}
    guess = p.argmax(axis=1)
    assert found == pytest.approx(
        {
            "accuracy": sk.accuracy_score(y, guess),
            "balanced_accuracy": sk.balanced_accuracy_score(y, guess),
            "auroc": sk.roc_auc_score(y, p, multi_class="ovr"),
            "f1": sk.f1_score(y, guess, average="macro"),
            "ece": ece_by_hand(p.max(axis=1), guess == y),
            "brier": sum(((p[:, c] - (y == c)) ** 2).mean() for c in range(3)),
        },
        abs=1e-6,
    )


@pytest.mark.parametrize("seed", range(5))
def test_multilabel_equals_scikit_learn(seed: int) -> None:
    p, y = multilabel(seed)
    found = {k: m.value for k, m in evaluate(p, y, classes=NAMES, resamples=1).metrics.items()}
    assert found == pytest.approx(
        {
            "map": sk.average_precision_score(y, p, average="macro"),
            "auroc": sk.roc_auc_score(y, p, average="macro"),
            "f1": sk.f1_score(y, p > 0.5, average="macro"),
            "ece": ece_by_hand(p.ravel(), y.ravel()),
            "brier": np.mean([sk.brier_score_loss(y[:, c], p[:, c]) for c in range(3)]),
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


@pytest.mark.parametrize("data", [multiclass, multilabel])
def test_the_weighted_forms_equal_the_point_values(data) -> None:
    p, y = data(3, 200)
    weighted = _weighted_multilabel if y.ndim == 2 else _weighted_multiclass
    ones = {k: v[0] for k, v in weighted(p, y, np.ones((1, len(y)))).items()}
    points = {k: m.value for k, m in evaluate(p, y, classes=NAMES, resamples=1).metrics.items()}
    assert ones == pytest.approx(points, abs=1e-6)


@pytest.mark.parametrize("data", [multiclass, multilabel])
def test_a_weight_of_two_is_a_row_twice(data) -> None:
    p, y = data(4)
    times = np.random.default_rng(0).integers(0, 4, len(y))
    weighted = _weighted_multilabel if y.ndim == 2 else _weighted_multiclass
    found = {k: v[0] for k, v in weighted(p, y, times[None].astype(float)).items()}
    repeated = evaluate(
        p.repeat(times, axis=0), y.repeat(times, axis=0), classes=NAMES, resamples=1
    )
    assert found == pytest.approx({k: m.value for k, m in repeated.metrics.items()}, abs=1e-6)


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
    assert result.undefined == {"auroc": ("b",), "map": ("b",)}
    expected = np.mean([sk.roc_auc_score(y[:, c], p[:, c]) for c in (0, 2)])
    assert result.metrics["auroc"].value == pytest.approx(expected, abs=1e-6)
    y[:, 1] = 1
    assert evaluate(p, y, classes=NAMES, resamples=1).undefined == {"auroc": ("b",)}


def test_an_absent_class_is_left_out_of_balanced_accuracy() -> None:
    p, y = multiclass(1)
    y[y == 2] = 0
    result = evaluate(p, y, classes=NAMES, resamples=1)
    recall = sk.recall_score(y, p.argmax(axis=1), labels=[0, 1], average="macro")
    assert result.metrics["balanced_accuracy"].value == pytest.approx(recall, abs=1e-6)
    assert result.undefined["balanced_accuracy"] == ("c",)


def test_nothing_defined_is_none_and_not_a_number() -> None:
    p = np.array([[0.2, 0.8], [0.7, 0.3]])
    result = evaluate(p, np.zeros((2, 2), dtype=int), classes=("a", "b"), resamples=20)
    assert result.metrics["auroc"].value is None
    assert result.metrics["auroc"].low is None
    assert result.to_dict()["undefined"]["map"] == ["a", "b"]


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


def test_one_group_has_no_interval_and_a_seed_repeats() -> None:
    p, y = multiclass(0)
    single = evaluate(p, y, classes=NAMES, groups=np.zeros(len(y)))
    assert single.metrics["accuracy"].low is None
    assert evaluate(p, y, classes=NAMES, seed=5) == evaluate(p, y, classes=NAMES, seed=5)
    assert evaluate(p, y, classes=NAMES, seed=5) != evaluate(p, y, classes=NAMES, seed=6)


BAD = {
    "empty": (np.zeros((0, 3)), np.zeros(0, dtype=int)),
    "not a number": (np.full((2, 3), np.nan), np.array([0, 1])),
    "negative": (np.array([[-0.1, 0.6, 0.5]] * 2), np.array([0, 1])),
    "sum": (np.array([[0.5, 0.6, 0.5]] * 2), np.array([0, 1])),
    "columns": (np.array([[0.5, 0.5]] * 2), np.array([0, 1])),
    "rows": (np.array([[0.5, 0.3, 0.2]] * 3), np.array([0, 1])),
    "class": (np.array([[0.5, 0.3, 0.2]] * 2), np.array([0, 3])),
    "label": (np.array([[0.5, 0.3, 0.2]] * 2), np.array([[0, 1, 2], [0, 0, 0]])),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input(kind: str) -> None:
    with pytest.raises(InputError):
        evaluate(*BAD[kind], classes=NAMES)
