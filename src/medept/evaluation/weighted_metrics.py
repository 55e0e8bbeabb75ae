"""All metrics for many resamples of one data set at once.

A resample is the same n images with whole-number weights: how often each of them was drawn. For R
resamples weights are (R, n) and a metric is (R,), NaN where it is undefined.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from medept.evaluation.predictions import decide, indicators, is_correct

BINS = 15
"""Number of equal-width bins of the expected calibration error."""

LEAST = float(np.finfo(np.float64).eps)
"""Probabilities are raised to at least this before taking their logarithm, as in scikit-learn."""


@dataclass(frozen=True)
class MetricInputs:
    """The arrays that all metrics are computed from, in float64.

    Attributes:
        multilabel: whether an image can have any number of labels.
        scores: (n, C) probabilities.
        truth: (n, C) of 0 and 1.
        predicted: (n, C) of 0 and 1.
        confidence: (n, 1) probability of the predicted class, or (n, C) of each label.
        correct: 0 or 1 in the form of ``confidence``: whether the event it is the probability of
            came true.
        squared_error: (n,) each image's part of the Brier score.
        log_loss: (n,) each image's part of the negative log likelihood.
    """

    multilabel: bool
    scores: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    correct: np.ndarray
    squared_error: np.ndarray
    log_loss: np.ndarray


def metric_inputs(probabilities: np.ndarray, targets: np.ndarray) -> MetricInputs:
    """Prepare probabilities (n, C) and targets, (n,) class indices or (n, C) of 0 and 1."""
    # torchmetrics takes all scores for logits if one of them lies outside 0..1
    scores = probabilities.clip(0, 1)
    multilabel = targets.ndim == 2
    decided = decide(scores, "multilabel" if multilabel else "multiclass")
    truth, predicted = (
        indicators(x, scores.shape[1]).astype(np.float64) for x in (targets, decided)
    )
    squared_error = (scores - truth) ** 2
    log_loss = -np.log(np.where(truth == 1, scores, 1 - scores).clip(LEAST))
    if multilabel:
        means = squared_error.mean(axis=1), log_loss.mean(axis=1)
        return MetricInputs(True, scores, truth, predicted, scores, truth, *means)
    confidence = scores.max(axis=1, keepdims=True)
    correct = is_correct(scores, targets)[:, None].astype(np.float64)
    sums = squared_error.sum(axis=1), log_loss[np.arange(len(targets)), targets]
    return MetricInputs(False, scores, truth, predicted, confidence, correct, *sums)


def weighted_values(inputs: MetricInputs, weights: np.ndarray) -> dict[str, np.ndarray]:
    """The metrics of :func:`medept.evaluation.evaluate`, by name: weights (R, n) -> (R,)."""
    total = weights.sum(axis=1)
    positives, hits = weights @ inputs.truth, weights @ (inputs.truth * inputs.predicted)
    f1 = _ratio(2 * hits, positives + weights @ inputs.predicted)
    if inputs.multilabel:
        values = {"map": _mean_over_classes(weighted_average_precision, inputs, weights)}
    else:
        values = {
            "accuracy": _ratio(weights @ inputs.correct[:, 0], total),
            "balanced_accuracy": _mean_defined(_ratio(hits, positives)),
        }
    return values | {
        "auroc": _mean_over_classes(weighted_auroc, inputs, weights),
        "f1": _mean_defined(np.where(positives > 0, f1, np.nan)),
        "ece": _weighted_ece(inputs, weights),
        "brier": _ratio(weights @ inputs.squared_error, total),
        "nll": _ratio(weights @ inputs.log_loss, total),
    }


def weighted_rates(inputs: MetricInputs, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Sensitivity, specificity and precision of each class: weights (R, n) -> (R, C)."""
    truth, predicted = inputs.truth, inputs.predicted
    hits = weights @ (truth * predicted)
    return {
        "sensitivity": _ratio(hits, weights @ truth),
        "specificity": _ratio(weights @ ((1 - truth) * (1 - predicted)), weights @ (1 - truth)),
        "precision": _ratio(hits, weights @ predicted),
    }


def weighted_auroc(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of one class; ties count one half: weights (R, n) -> (R,)."""
    positive, negative = _by_threshold(scores, truth, weights)
    below = negative.cumsum(axis=1) - negative / 2
    return _ratio((positive * below).sum(axis=1), positive.sum(axis=1) * negative.sum(axis=1))


def weighted_average_precision(
    scores: np.ndarray, truth: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Average precision of one class, a sum over steps: weights (R, n) -> (R,)."""
    positive, negative = _by_threshold(-scores, truth, weights)
    hits, misses = positive.cumsum(axis=1), negative.cumsum(axis=1)
    precision = np.nan_to_num(_ratio(hits, hits + misses))
    value = _ratio((positive * precision).sum(axis=1), hits[:, -1])
    return np.where(misses[:, -1] > 0, value, np.nan)


def _by_threshold(
    scores: np.ndarray, truth: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Total weight of positives, and of negatives, at each distinct score, in ascending order.

    Both are (R, number of distinct scores).
    """
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) > 0])
    ordered, truth = weights[:, order], truth[order]
    return (
        np.add.reduceat(ordered * truth, starts, axis=1),
        np.add.reduceat(ordered * (1 - truth), starts, axis=1),
    )


def _weighted_ece(inputs: MetricInputs, weights: np.ndarray) -> np.ndarray:
    """Expected calibration error (R,).

    As in torchmetrics, a bin includes its lower edge, and a confidence of 1 has its own bin.
    """
    n, k = inputs.confidence.shape
    gaps = np.zeros((n, BINS + 1))
    rows = np.arange(n)[:, None]
    np.add.at(gaps, (rows, _bins(inputs.confidence)), inputs.confidence - inputs.correct)
    return _ratio(np.abs(weights @ gaps).sum(axis=1), k * weights.sum(axis=1))


def _bins(confidence: np.ndarray) -> np.ndarray:
    """The bin of each confidence, by torch's edges: numpy's differ from them in the last digit."""
    import torch

    edges = torch.linspace(0, 1, BINS + 1, dtype=torch.float64).numpy()
    return np.searchsorted(edges, confidence, side="right") - 1


def _mean_over_classes(
    metric: Callable[..., np.ndarray], inputs: MetricInputs, weights: np.ndarray
) -> np.ndarray:
    columns = zip(inputs.scores.T, inputs.truth.T, strict=True)
    return _mean_defined(
        np.stack([metric(scores, truth, weights) for scores, truth in columns], axis=1)
    )


def _mean_defined(values: np.ndarray) -> np.ndarray:
    """Mean over classes, (R, C) -> (R,), without those undefined; NaN if all are undefined."""
    defined = ~np.isnan(values)
    return _ratio(np.nan_to_num(values).sum(axis=1), defined.sum(axis=1))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below; NaN where below is 0."""
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)
