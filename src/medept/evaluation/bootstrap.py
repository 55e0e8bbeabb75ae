"""Every metric for many reweightings (resamples) of one data set at once.

Weights are (R, n): R resamples of n images. A metric is (R,), NaN where it is undefined.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from medept.evaluation.predictions import decide, indicators, is_correct

BINS = 15
"""Equal-width bins of the expected calibration error."""

LEAST = float(np.finfo(np.float64).eps)
"""Probability for which the log likelihood takes a smaller one, as scikit-learn does."""


@dataclass(frozen=True)
class Cases:
    """What every metric is computed from; float64. k: 1 for multi-class, C for multi-label."""

    multilabel: bool
    scores: np.ndarray
    """(n, C)"""
    truth: np.ndarray
    """(n, C) of 0 and 1"""
    guess: np.ndarray
    """(n, C) of 0 and 1"""
    confidence: np.ndarray
    """(n, k): what calibration is about"""
    correct: np.ndarray
    """(n, k) of 0 and 1: whether that came true"""
    squared_error: np.ndarray
    """(n,): each image's part of the Brier score"""
    surprise: np.ndarray
    """(n,): its part of the negative log likelihood"""


def find_cases(probabilities: np.ndarray, targets: np.ndarray) -> Cases:
    """What metrics need of probabilities (n, C) and targets, (n,) or (n, C) of 0 and 1."""
    # torchmetrics takes scores for logits as soon as one lies outside 0..1
    scores = probabilities.clip(0, 1)
    multilabel = targets.ndim == 2
    predicted = decide(scores, "multilabel" if multilabel else "multiclass")
    truth, guess = (indicators(x, scores.shape[1]).astype(np.float64) for x in (targets, predicted))
    error = (scores - truth) ** 2
    surprise = -np.log(np.where(truth == 1, scores, 1 - scores).clip(LEAST))
    if multilabel:
        means = error.mean(axis=1), surprise.mean(axis=1)
        return Cases(True, scores, truth, guess, scores, truth, *means)
    top, correct = scores.max(axis=1, keepdims=True), is_correct(scores, targets)[:, None]
    sums = error.sum(axis=1), surprise[np.arange(len(targets)), targets]
    return Cases(False, scores, truth, guess, top, correct.astype(np.float64), *sums)


def weighted_values(cases: Cases, weights: np.ndarray) -> dict[str, np.ndarray]:
    """The metrics of :func:`medept.evaluation.evaluate` by name: weights (R, n) -> (R,)."""
    total = weights.sum(axis=1)
    positives, hits = weights @ cases.truth, weights @ (cases.truth * cases.guess)
    f1 = _ratio(2 * hits, positives + weights @ cases.guess)
    if cases.multilabel:
        values = {"map": _mean_over_classes(weighted_average_precision, cases, weights)}
    else:
        values = {
            "accuracy": _ratio(weights @ cases.correct[:, 0], total),
            "balanced_accuracy": _mean_defined(_ratio(hits, positives)),
        }
    return values | {
        "auroc": _mean_over_classes(weighted_auroc, cases, weights),
        "f1": _mean_defined(np.where(positives > 0, f1, np.nan)),
        "ece": _weighted_ece(cases, weights),
        "brier": _ratio(weights @ cases.squared_error, total),
        "nll": _ratio(weights @ cases.surprise, total),
    }


def weighted_rates(cases: Cases, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Sensitivity, specificity and precision of each class: weights (R, n) -> (R, C)."""
    truth, guess = cases.truth, cases.guess
    hits = weights @ (truth * guess)
    return {
        "sensitivity": _ratio(hits, weights @ truth),
        "specificity": _ratio(weights @ ((1 - truth) * (1 - guess)), weights @ (1 - truth)),
        "precision": _ratio(hits, weights @ guess),
    }


def weighted_auroc(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of one class, ties counted half: weights (R, n) -> (R,)."""
    positive, negative = _by_threshold(scores, truth, weights)
    below = negative.cumsum(axis=1) - negative / 2
    return _ratio((positive * below).sum(axis=1), positive.sum(axis=1) * negative.sum(axis=1))


def weighted_average_precision(
    scores: np.ndarray, truth: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Average precision of one class (a step sum, not interpolated): weights (R, n) -> (R,)."""
    positive, negative = _by_threshold(-scores, truth, weights)
    hits, misses = positive.cumsum(axis=1), negative.cumsum(axis=1)
    precision = np.nan_to_num(_ratio(hits, hits + misses))
    value = _ratio((positive * precision).sum(axis=1), hits[:, -1])
    return np.where(misses[:, -1] > 0, value, np.nan)


def _by_threshold(
    scores: np.ndarray, truth: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weights of positives and of negatives at each distinct score, ascending: (R, thresholds)."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) > 0])
    ordered, truth = weights[:, order], truth[order]
    return (
        np.add.reduceat(ordered * truth, starts, axis=1),
        np.add.reduceat(ordered * (1 - truth), starts, axis=1),
    )


def _weighted_ece(cases: Cases, weights: np.ndarray) -> np.ndarray:
    """Bins are closed below; as in torchmetrics, a confidence of 1 has a bin to itself."""
    n, k = cases.confidence.shape
    gaps = np.zeros((n, BINS + 1))
    rows = np.arange(n)[:, None]
    np.add.at(gaps, (rows, _bins(cases.confidence)), cases.confidence - cases.correct)
    return _ratio(np.abs(weights @ gaps).sum(axis=1), k * weights.sum(axis=1))


def _bins(confidence: np.ndarray) -> np.ndarray:
    """The bin of each confidence by torch's edges, which differ from numpy's in the last digit."""
    import torch

    edges = torch.linspace(0, 1, BINS + 1, dtype=torch.float64).numpy()
    return np.searchsorted(edges, confidence, side="right") - 1


def _mean_over_classes(
    metric: Callable[..., np.ndarray], cases: Cases, weights: np.ndarray
) -> np.ndarray:
    columns = zip(cases.scores.T, cases.truth.T, strict=True)
    return _mean_defined(
        np.stack([metric(scores, truth, weights) for scores, truth in columns], axis=1)
    )


def _mean_defined(values: np.ndarray) -> np.ndarray:
    """Mean over classes (R, C) -> (R,), undefined ones left out; NaN where none is defined."""
    defined = ~np.isnan(values)
    return _ratio(np.nan_to_num(values).sum(axis=1), defined.sum(axis=1))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, NaN where below is 0."""
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)
