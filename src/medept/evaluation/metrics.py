"""How good predictions are, with 95 % bootstrap intervals.

Point values come from torchmetrics. Intervals come from a bootstrap over *groups* (patients,
studies; images if there are no groups), with the weighted form that each metric has in
:mod:`medept.evaluation.weighted_metrics`. With all weights 1 both forms agree, which tests check.

Metrics can be undefined for a class. If its labels are all positive or all negative in the test
set, it has no AUROC and no average precision; without positives, it has no recall and no F1. Such
a class is left out of the mean over classes, and named in ``undefined``. The same is done in a
resample that lacks a class, so intervals are rough if a class has few groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from medept.errors import DataError
from medept.evaluation.bootstrap import interval, resample_weights
from medept.evaluation.reliability import CalibrationErrors, calibration_errors
from medept.evaluation.weighted_metrics import (
    BINS,
    MetricInputs,
    metric_inputs,
    weighted_rates,
    weighted_values,
)

ROUNDING = 1e-9
"""A probability may lie outside 0..1 by this much, and is then taken for 0 or 1."""


@dataclass(frozen=True)
class Metric:
    """A value with its 95 % interval.

    Attributes:
        value: None if it is undefined.
        low: lower end of the interval; None if there is no interval.
        high: upper end of the interval; None likewise.
        n: number of images that the value is computed from.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Evaluation:
    """How good predictions are.

    Attributes:
        metrics: by name. For classes: ``accuracy``; ``balanced_accuracy`` (mean recall);
            ``auroc`` (one class against the rest, mean over classes); ``f1`` (mean over classes);
            ``ece`` (expected calibration error of the predicted class, 15 bins of equal width);
            ``brier`` (squared error, summed over classes, from 0 to 2); ``nll`` (negative log
            likelihood, natural logarithm). For labels: ``map`` (mean average precision);
            ``auroc``; ``f1`` (of labels above one half); ``ece`` (of all labels together);
            ``brier`` (mean over labels, from 0 to 1); ``nll`` (mean over labels).
        by_class: class -> ``sensitivity``, ``specificity`` and ``precision``, where n is the
            number of images in the denominator.
        undefined: metric -> the classes for which it is undefined.
        groups: number of groups.
        calibration: further calibration errors, and the parts of the Brier score.
    """

    metrics: dict[str, Metric]
    by_class: dict[str, dict[str, Metric]]
    undefined: dict[str, tuple[str, ...]]
    groups: int
    calibration: CalibrationErrors

    def to_dict(self) -> dict[str, Any]:
        """The content of ``metrics.json``."""
        return {
            **{name: asdict(metric) for name, metric in self.metrics.items()},
            "by_class": {
                name: {rate: asdict(metric) for rate, metric in rates.items()}
                for name, rates in self.by_class.items()
            },
            "undefined": {name: list(classes) for name, classes in self.undefined.items()},
            "groups": self.groups,
            "calibration": asdict(self.calibration),
        }


def evaluate(
    probabilities: np.ndarray,
    targets: np.ndarray,
    *,
    classes: Sequence[str],
    groups: np.ndarray | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Metrics of probabilities against the truth, with intervals.

    How intervals are computed, and when there is none, says
    :func:`medept.evaluation.bootstrap.interval`. There is none if there is only one group. Near
    perfect calibration, that of the ECE lies too high.

    Args:
        probabilities: (n, C).
        targets: (n,) class indices, or for multi-label data (n, C) of 0 and 1.
        classes: C names.
        groups: (n,) ids of the groups that are drawn as a whole; None: images are drawn singly.
        resamples: number of bootstrap resamples.
        seed: of the bootstrap.

    Raises:
        InputError: if shapes do not match, or a number is not a probability or target.

    >>> probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]])
    >>> found = evaluate(probabilities, np.array([0, 0, 1, 1]), classes=["benign", "malignant"])
    >>> found.metrics["balanced_accuracy"]
    Metric(value=0.75, low=0.5, high=1.0, n=4)
    >>> found.by_class["malignant"]["sensitivity"].value
    0.5
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    targets = np.asarray(targets)
    _check(probabilities, targets, classes)
    ids = _group_ids(groups, len(targets))
    count = int(ids.max()) + 1
    inputs = metric_inputs(probabilities, targets)
    point, undefined = _point_values(inputs)
    values: dict[str, list[np.ndarray]] = {name: [] for name in point}
    rates: list[dict[str, np.ndarray]] = []
    for weights in resample_weights(ids, resamples, seed):
        rates.append(weighted_rates(inputs, weights))
        for name, drawn in weighted_values(inputs, weights).items():
            values[name].append(drawn)
    metrics = {
        name: _with_interval(name, value, values[name], len(ids), count)
        for name, value in point.items()
    }
    named = {
        name: tuple(c for c, out in zip(classes, left_out, strict=True) if out)
        for name, left_out in undefined.items()
        if left_out.any()
    }
    errors = calibration_errors(inputs.scores, targets, bins=BINS)
    return Evaluation(metrics, _by_class(inputs, ids, classes, rates), named, count, errors)


def _with_interval(
    name: str, value: float | None, drawn: list[np.ndarray], n: int, groups: int
) -> Metric:
    proportion_of = groups if name == "accuracy" else 0
    return Metric(value, *interval(drawn, value, groups=proportion_of, biased=name == "ece"), n)


def _by_class(
    inputs: MetricInputs,
    ids: np.ndarray,
    classes: Sequence[str],
    drawn: list[dict[str, np.ndarray]],
) -> dict[str, dict[str, Metric]]:
    """Sensitivity, specificity and precision of each class.

    Args:
        ids: (n,) numbers of the images' groups.
        drawn: the rates (R, C) in the resamples, in blocks.
    """
    point = weighted_rates(inputs, np.ones((1, len(inputs.truth))))
    denominators = {
        "sensitivity": inputs.truth,
        "specificity": 1 - inputs.truth,
        "precision": inputs.predicted,
    }
    found: dict[str, dict[str, Metric]] = {name: {} for name in classes}
    for rate, values in point.items():
        for c, name in enumerate(classes):
            value = None if np.isnan(values[0, c]) else float(values[0, c])
            rows = np.flatnonzero(denominators[rate][:, c])
            groups = len(set(ids[rows].tolist()))
            ends = interval([block[rate][:, c] for block in drawn], value, groups=groups)
            found[name][rate] = Metric(value, *ends, len(rows))
    return found


# --- checks ----------------------------------------------------------------------------------


def _check(probabilities: np.ndarray, targets: np.ndarray, classes: Sequence[str]) -> None:
    n, C = len(np.atleast_1d(targets)), len(classes)
    if not n or probabilities.shape != (n, C) or targets.shape not in ((n,), (n, C)):
        raise DataError(
            f"probabilities {probabilities.shape} and targets {targets.shape} for {C} classes: "
            "expected (n, C) and (n,) or (n, C), with n at least 1"
        )
    fewest = 2 if targets.ndim == 1 else 1
    if fewest > C:
        raise DataError(f"{C} classes: give two or more, or multi-label targets of one or more")
    within = (probabilities >= -ROUNDING) & (probabilities <= 1 + ROUNDING)
    if not within.all():
        row, column = np.argwhere(~within)[0]
        raise DataError(
            f"probabilities: row {row}, column {column} is {probabilities[row, column]}; "
            "give numbers from 0 to 1"
        )
    if targets.ndim == 2:
        _check_labels(targets)
    else:
        _check_classes(probabilities, targets)


def _check_labels(targets: np.ndarray) -> None:
    if not np.isin(targets, (0, 1)).all():
        row, column = np.argwhere(~np.isin(targets, (0, 1)))[0]
        raise DataError(
            f"targets: row {row}, column {column} is {targets[row, column]}; give 0 or 1"
        )


def _check_classes(probabilities: np.ndarray, targets: np.ndarray) -> None:
    if not np.issubdtype(targets.dtype, np.integer):
        raise DataError(f"targets are {targets.dtype}; give class indices (integers)")
    C = probabilities.shape[1]
    if not ((targets >= 0) & (targets < C)).all():
        row = np.flatnonzero((targets < 0) | (targets >= C))[0]
        raise DataError(f"targets: row {row} is {targets[row]}; give indices from 0 to {C - 1}")
    sums = probabilities.sum(axis=1)
    if np.abs(sums - 1).max() > 1e-3:
        row = np.abs(sums - 1).argmax()
        raise DataError(
            f"probabilities: row {row} sums to {sums[row]:.4g}; the probabilities of an image's "
            "classes must sum to 1 (or give multi-label targets)"
        )


def _group_ids(groups: np.ndarray | None, n: int) -> np.ndarray:
    """(n,) number of each image's group, 0 to groups - 1."""
    if groups is None:
        return np.arange(n)
    groups = np.asarray(groups)
    if groups.shape != (n,):
        raise DataError(f"groups {groups.shape}: expected ({n},), one id per image")
    return np.unique(groups, return_inverse=True)[1]


# --- point values ----------------------------------------------------------------------------


def _point_values(
    inputs: MetricInputs,
) -> tuple[dict[str, float | None], dict[str, np.ndarray]]:
    """Values by name; and for each mean over classes, whether a class is left out (C,)."""
    import torch
    import torchmetrics.functional as tm

    positives: np.ndarray = inputs.truth.sum(axis=0)
    absent = np.equal(positives, 0)
    one_value = absent | np.equal(positives, len(inputs.truth))
    confidence, correct = (torch.from_numpy(x.ravel()) for x in (inputs.confidence, inputs.correct))
    values = {
        "auroc": _class_mean(tm.auroc, inputs.scores, inputs.truth, one_value),
        "f1": _class_mean(tm.f1_score, inputs.predicted, inputs.truth, absent),
        "ece": float(tm.calibration_error(confidence, correct.long(), task="binary", n_bins=BINS)),
        "brier": float(inputs.squared_error.mean()),
        "nll": float(inputs.log_loss.mean()),
    }
    left_out = {"auroc": one_value, "f1": absent}
    if inputs.multilabel:
        precision = _class_mean(tm.average_precision, inputs.scores, inputs.truth, one_value)
        return {"map": precision} | values, {"map": one_value} | left_out
    predicted, truth = (
        torch.from_numpy(x.argmax(axis=1)) for x in (inputs.predicted, inputs.truth)
    )
    accuracy = tm.accuracy(predicted, truth, task="multiclass", num_classes=len(positives))
    first = {
        "accuracy": float(accuracy),
        "balanced_accuracy": _class_mean(tm.recall, inputs.predicted, inputs.truth, absent),
    }
    return first | values, {"balanced_accuracy": absent} | left_out


def _class_mean(
    metric: Callable[..., Any], values: np.ndarray, truth: np.ndarray, left_out: np.ndarray
) -> float | None:
    """Mean over classes of a binary metric of torchmetrics; None if all are left out."""
    import torch

    columns = zip(
        torch.from_numpy(values).T, torch.from_numpy(truth).long().T, left_out, strict=True
    )
    each = [float(metric(value, t, task="binary")) for value, t, out in columns if not out]
    return float(np.mean(each)) if each else None
