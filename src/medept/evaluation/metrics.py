"""How good predictions are, with 95 % bootstrap intervals; what is undefined is reported as such.

Point values come from torchmetrics. Their intervals come from a bootstrap over *groups* (patients,
studies; images where there are none): a resampled data set is the same data with whole-number
weights, so each metric also has a weighted form that takes all resamples at once
(:mod:`medept.evaluation.bootstrap`). With weights of one the two agree, which the tests check.

A class that has one label value only (all positive, or none) has no AUROC and no average
precision; a class without positives has no recall and no F1. Such a class is left out of the mean
and named in ``undefined``; in a resample that lacks a class the mean is likewise over the others,
so intervals are rough where a class has few groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from medept.errors import DataError
from medept.evaluation.bootstrap import BINS, Cases, find_cases, weighted_rates, weighted_values
from medept.evaluation.reliability import CalibrationErrors, calibration_errors

NUMBERS_AT_ONCE = 1_000_000
"""Resamples are taken in blocks whose weights are about as many numbers as this."""

ROUNDING = 1e-9
"""By how much a probability may lie outside 0..1 and be taken for the nearest that does not."""


@dataclass(frozen=True)
class Metric:
    """A value with its 95 % interval; None where it is undefined. n: the number of images."""

    value: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Evaluation:
    """How good predictions are.

    Attributes:
        metrics: by name.
        by_class: class -> ``sensitivity``, ``specificity`` and ``precision`` of its prediction,
            each with the number n of images that it is a share of.
        undefined: metric -> the classes it is undefined for.
        groups: how many.
        calibration: what ``ece`` and ``brier`` are made of, and other measures of the same.
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
    """Metrics of probabilities (n, C) against the truth.

    Multi-class targets, (n,) class indices: ``accuracy``; ``balanced_accuracy`` (mean recall);
    ``auroc`` (one against the rest, mean over classes); ``f1`` (mean over classes); ``ece`` (of
    the most probable class); ``brier`` (squared error summed over classes, from 0 to 2); ``nll``
    (negative log likelihood, natural logarithm).
    Multi-label targets, (n, C) of 0 and 1: ``map`` (mean average precision), ``auroc``, ``f1``
    (positive above one half), ``ece`` (of all labels together), ``brier`` (mean over labels, from
    0 to 1), ``nll`` (mean over labels).

    Intervals are the 2.5th and 97.5th percentiles of the resamples in which the metric is
    defined; None where it is undefined in more than half of them, or there is one group only.
    Where all are 0, or all are 1, resampling says nothing: a share (accuracy, and the rates of each
    class) then has the exact binomial interval of its number of groups, and the others have none.
    Chance alone makes an ECE, and resampling makes more of it: its interval is the one reflected
    at the value (the basic bootstrap), cut at 0, and reaches the value at least. Near perfect
    calibration it still lies too high.

    Args:
        groups: (n,) ids that the bootstrap keeps together; None: every image for itself.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        InputError: if shapes do not match, or a number is no probability or no target.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    targets = np.asarray(targets)
    _check(probabilities, targets, classes)
    n = len(targets)
    ids = np.arange(n) if groups is None else _group_ids(groups, n)
    count = int(ids.max()) + 1
    cases = find_cases(probabilities, targets)
    point, undefined = _point_values(cases)
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in point}
    rates: list[dict[str, np.ndarray]] = []
    for weights in _resampled(ids, count, resamples, seed):
        rates.append(weighted_rates(cases, weights))
        for name, values in weighted_values(cases, weights).items():
            drawn[name].append(values)
    metrics = {}
    for name, value in point.items():
        groups_of = count if name == "accuracy" else 0
        ends = _interval(drawn[name], value, biased=name == "ece", groups=groups_of)
        metrics[name] = Metric(value, *ends, n)
    named = {
        metric: tuple(name for name, out in zip(classes, left_out, strict=True) if out)
        for metric, left_out in undefined.items()
        if left_out.any()
    }
    errors = calibration_errors(cases.scores, targets, bins=BINS)
    return Evaluation(metrics, _by_class(cases, ids, classes, rates), named, count, errors)


def _by_class(
    cases: Cases, ids: np.ndarray, classes: Sequence[str], drawn: list[dict[str, np.ndarray]]
) -> dict[str, dict[str, Metric]]:
    """Rates of each class, with intervals from those drawn, (R, C) each in blocks."""
    point = weighted_rates(cases, np.ones((1, len(cases.truth))))
    of = {"sensitivity": cases.truth, "specificity": 1 - cases.truth, "precision": cases.guess}
    found: dict[str, dict[str, Metric]] = {name: {} for name in classes}
    for rate, values in point.items():
        for c, name in enumerate(classes):
            value = None if np.isnan(values[0, c]) else float(values[0, c])
            rows = np.flatnonzero(of[rate][:, c])
            groups = len(set(ids[rows].tolist()))
            ends = _interval([block[rate][:, c] for block in drawn], value, groups=groups)
            found[name][rate] = Metric(value, *ends, len(rows))
    return found


def _check(probabilities: np.ndarray, targets: np.ndarray, classes: Sequence[str]) -> None:
    n, C = len(np.atleast_1d(targets)), len(classes)
    if not n or probabilities.shape != (n, C) or targets.shape not in ((n,), (n, C)):
        raise DataError(
            f"probabilities {probabilities.shape} and targets {targets.shape} for {C} classes: "
            "expected (n, C) and (n,) or (n, C), with n at least 1"
        )
    fewest = 2 if targets.ndim == 1 else 1
    if len(classes) < fewest:
        raise DataError(f"{C} classes: give two or more, or multi-label targets of one or more")
    within = (probabilities >= -ROUNDING) & (probabilities <= 1 + ROUNDING)
    if not within.all():
        row, column = np.argwhere(~within)[0]
        raise DataError(
            f"probabilities: row {row}, column {column} is {probabilities[row, column]}; "
            "give numbers from 0 to 1"
        )
    if targets.ndim == 2:
        if not np.isin(targets, (0, 1)).all():
            row, column = np.argwhere(~np.isin(targets, (0, 1)))[0]
            raise DataError(
                f"targets: row {row}, column {column} is {targets[row, column]}; give 0 or 1"
            )
        return
    if not np.issubdtype(targets.dtype, np.integer):
        raise DataError(f"targets are {targets.dtype}; give class indices (integers)")
    if not ((targets >= 0) & (targets < C)).all():
        row = np.flatnonzero((targets < 0) | (targets >= C))[0]
        raise DataError(f"targets: row {row} is {targets[row]}; give indices from 0 to {C - 1}")
    sums = probabilities.sum(axis=1)
    if np.abs(sums - 1).max() > 1e-3:
        row = np.abs(sums - 1).argmax()
        raise DataError(
            f"probabilities: row {row} sums to {sums[row]:.4g}; those of an image's classes must "
            "sum to 1 (or give multi-label targets)"
        )


def _group_ids(groups: np.ndarray, n: int) -> np.ndarray:
    groups = np.asarray(groups)
    if groups.shape != (n,):
        raise DataError(f"groups {groups.shape}: expected ({n},), one id an image")
    return np.unique(groups, return_inverse=True)[1]


# --- point values ----------------------------------------------------------------------------


def _point_values(cases: Cases) -> tuple[dict[str, float | None], dict[str, np.ndarray]]:
    """Values by name, and for metrics that are means over classes the classes left out (C,)."""
    import torch
    import torchmetrics.functional as tm

    def mean(metric: Callable[..., Any], values: np.ndarray, left_out: np.ndarray) -> float | None:
        columns = torch.from_numpy(values), torch.from_numpy(cases.truth).long()
        each = [
            float(metric(column, truth, task="binary"))
            for column, truth, out in zip(*(x.T for x in columns), left_out, strict=True)
            if not out
        ]
        return float(np.mean(each)) if each else None

    positives: np.ndarray = cases.truth.sum(axis=0)
    absent = np.equal(positives, 0)
    one_value = absent | np.equal(positives, len(cases.truth))
    values: dict[str, float | None]
    if cases.multilabel:
        values = {"map": mean(tm.average_precision, cases.scores, one_value)}
        undefined = {"map": one_value}
    else:
        guess, truth = (torch.from_numpy(x.argmax(axis=1)) for x in (cases.guess, cases.truth))
        accuracy = tm.accuracy(guess, truth, task="multiclass", num_classes=len(positives))
        values = {
            "accuracy": float(accuracy),
            "balanced_accuracy": mean(tm.recall, cases.guess, absent),
        }
        undefined = {"balanced_accuracy": absent}
    confidence, correct = (torch.from_numpy(x.ravel()) for x in (cases.confidence, cases.correct))
    values |= {
        "auroc": mean(tm.auroc, cases.scores, one_value),
        "f1": mean(tm.f1_score, cases.guess, absent),
        "ece": float(tm.calibration_error(confidence, correct.long(), task="binary", n_bins=BINS)),
        "brier": float(cases.squared_error.mean()),
        "nll": float(cases.surprise.mean()),
    }
    return values, undefined | {"auroc": one_value, "f1": absent}


# --- bootstrap -------------------------------------------------------------------------------


def _resampled(ids: np.ndarray, count: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Weights of images (block, n) in blocks: how often each image's group was drawn."""
    random = np.random.default_rng(seed)
    block = max(1, NUMBERS_AT_ONCE // len(ids))
    for start in range(0, resamples if count > 1 else 0, block):
        size = min(block, resamples - start)
        times = random.multinomial(count, np.full(count, 1 / count), size=size)
        yield times[:, ids].astype(np.float64)


def _interval(
    drawn: list[np.ndarray], value: float | None, *, biased: bool = False, groups: int = 0
) -> tuple[float | None, float | None]:
    """Of the resamples; ``groups``: that a share is a share of, 0 of what is no share."""
    values = np.concatenate(drawn) if drawn else np.zeros(0)
    defined = values[~np.isnan(values)]
    if value is None or not len(defined) or 2 * len(defined) < len(values):
        return None, None
    low, high = (float(end) for end in np.percentile(defined, (2.5, 97.5)))
    if value == low == high and value in (0, 1):
        if not groups:
            return None, None
        from scipy.stats import binomtest

        exact = binomtest(round(value * groups), groups).proportion_ci(method="exact")
        return float(exact.low), float(exact.high)
    return (max(0.0, 2 * value - high), max(value, 2 * value - low)) if biased else (low, high)
