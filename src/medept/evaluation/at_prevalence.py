"""Metrics that depend on how common classes are, as they would be at a stated prevalence.

Each is a mean over classes that weighs each as common as it is said to be: the test images of a
class stand for all images of that class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medept.evaluation.calibration_error import calibration_error
from medept.evaluation.intervals import (
    Estimate,
    Metric,
    bounded_estimate,
    mean_estimate,
    positive_estimate,
)
from medept.evaluation.predictions import LEAST, group_ids, indicators
from medept.evaluation.reliability import confidences


@dataclass(frozen=True)
class AtPrevalence:
    """Metrics at a stated prevalence.

    Attributes:
        prevalence: class -> how common it is said to be.
        metrics: ``ece``, ``brier`` and ``nll``, as in :class:`medept.evaluation.Evaluation`;
            without a value if the test set has no case with a class, or none without it.
    """

    prevalence: dict[str, float]
    metrics: dict[str, Metric]


def metrics_at_prevalence(
    probabilities: np.ndarray,
    targets: np.ndarray,
    classes: Sequence[str],
    prevalence: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    draws: int = 1000,
    seed: int = 0,
) -> AtPrevalence:
    """Calibration error, Brier score and log loss at a stated prevalence, with intervals.

    Args:
        probabilities: (n, C).
        targets: (n,) class indices, or (n, C) of 0 and 1.
        classes: C names.
        prevalence: (C,) of each class, between 0 and 1.
        groups: (n,) ids of groups that count as one; None: each image is its own.
        draws: of the noise of the ECE.
        seed: of the draws.

    >>> p = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    >>> y = np.array([0, 0, 1, 1])
    >>> found = metrics_at_prevalence(p, y, ["well", "ill"], np.array([0.9, 0.1]))
    >>> round(found.metrics["brier"].value, 3)  # 0.9 (0.02 + 0.08) / 2 + 0.1 (0.18 + 0.72) / 2
    0.09
    """
    n, ids = len(targets), group_ids(groups, len(targets))
    stated = dict(zip(classes, map(float, prevalence), strict=True))
    scores = np.asarray(probabilities, dtype=np.float64).clip(0, 1)
    truth = indicators(targets, len(classes))
    if not (truth.any(axis=0) & ~truth.all(axis=0)).all():
        nothing = Metric(None, None, None, n)
        return AtPrevalence(stated, dict.fromkeys(("ece", "brier", "nll"), nothing))
    errors = (scores - truth) ** 2
    losses = -np.log(np.where(truth == 1, scores, 1 - scores).clip(LEAST))
    if targets.ndim == 1:  # one column of kinds, which are the classes
        most, kinds, shares = 2.0, targets[:, None], prevalence[None]
        errors, losses = errors.sum(axis=1, keepdims=True), losses[np.arange(n), targets][:, None]
    else:  # a column for each label, whose kinds are absent and present
        most, kinds, shares = 1.0, targets, np.stack([1 - prevalence, prevalence], axis=1)
    parts = range(kinds.shape[1])
    weights = np.stack([_weights(kinds[:, j], shares[j]) for j in parts], axis=1)
    brier = mean_estimate([_brier(errors[:, j] / most, kinds[:, j], shares[j], ids) for j in parts])
    loss = float((weights * losses).mean())
    each = [_influence(losses[:, j], kinds[:, j], weights[:, j]) for j in parts]
    spread = np.mean(each, axis=0)
    of_kind = targets if targets.ndim == 1 else np.zeros(n, dtype=np.int64)
    confident, correct = confidences(scores, targets)
    of_each = np.repeat(ids, len(confident) // n)
    error, low, high, _ = calibration_error(
        confident, correct, of_each, draws=draws, seed=seed, weights=weights.ravel()
    )
    return AtPrevalence(
        stated,
        {
            "ece": Metric(error, low, high, n),
            "brier": Metric.of(brier.mapped(lambda x: most * x, most), n),
            "nll": Metric.of(positive_estimate(loss, spread, ids, of_kind), n),
        },
    )


def _weights(kinds: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """(n,) of mean 1: how many times as common the kind of each image is to be."""
    return (shares / np.bincount(kinds, minlength=len(shares)))[kinds] * len(kinds)


def _influence(values: np.ndarray, kinds: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(n,) how much each image moves the weighted mean, if the shares of kinds are fixed."""
    means = np.bincount(kinds, values) / np.bincount(kinds).clip(1)
    return weights * (values - means[kinds]) / len(values)


def _brier(values: np.ndarray, kinds: np.ndarray, shares: np.ndarray, ids: np.ndarray) -> Estimate:
    weights = _weights(kinds, shares)
    strata = [(kinds == k, float(share)) for k, share in enumerate(shares)]
    influence = _influence(values, kinds, weights)
    return bounded_estimate(float((weights * values).mean()), influence, ids, strata)
