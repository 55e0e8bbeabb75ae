"""Metrics against torchmetrics, scikit-learn and hand counts; bad input."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchmetrics.functional as tm
from drawn_predictions import multiclass, multilabel
from sklearn import metrics as sk

from medept import InputError
from medept.evaluation import evaluate

NAMES = ("a", "b", "c")


def values(p: np.ndarray, y: np.ndarray) -> dict[str, float | None]:
    found = evaluate(p, y, classes=NAMES[: p.shape[1]], resamples=1)
    return {name: metric.value for name, metric in found.metrics.items()}


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


def test_nothing_defined_is_none_and_not_a_number() -> None:
    p = np.array([[0.2, 0.8], [0.7, 0.3]])
    result = evaluate(p, np.zeros((2, 2), dtype=int), classes=("a", "b"), resamples=20)
    assert result.metrics["auroc"].value is None
    assert result.metrics["auroc"].low is None
    written = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert written["undefined"] == {name: ["a", "b"] for name in ("map", "auroc", "f1")}
    assert written["auroc"] == {"value": None, "low": None, "high": None, "n": 2}
    assert written["groups"] == 2


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
    with pytest.raises(InputError, match="one id per image"):
        evaluate(EVEN, ROW, classes=NAMES, groups=np.array(["a"]))
    with pytest.raises(InputError, match="1 classes"):
        evaluate(np.ones((2, 1)), np.zeros(2, dtype=int), classes=("a",))
