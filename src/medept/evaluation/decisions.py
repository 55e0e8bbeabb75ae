"""How good decisions at an operating point are: the 2 x 2 table and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medept.evaluation.influence import proportion_estimate
from medept.evaluation.intervals import Estimate, Metric
from medept.evaluation.operating_points import OperatingPoint
from medept.evaluation.predictions import indicators


@dataclass(frozen=True)
class Decisions:
    """Decisions at one threshold, against the truth.

    Attributes:
        positive: the positive classes in words.
        threshold: from this probability on, a case is positive.
        aim: what the threshold was chosen for.
        true_positive: number of positives found.
        false_negative: number of positives missed.
        false_positive: number of false alarms.
        true_negative: number of negatives left alone.
        rates: ``sensitivity``, ``specificity``, ``ppv`` and ``npv`` (the predictive values at the
            prevalence of the test set), ``lr_positive`` and ``lr_negative`` (likelihood ratios).
        at_prevalence: ``ppv`` and ``npv`` at a stated prevalence; empty without one.
        prevalence: the stated one.
    """

    positive: str
    threshold: float
    aim: str
    true_positive: int
    false_negative: int
    false_positive: int
    true_negative: int
    rates: dict[str, Metric]
    at_prevalence: dict[str, Metric]
    prevalence: float | None = None


def judge_point(
    point: OperatingPoint,
    probabilities: np.ndarray,
    targets: np.ndarray,
    classes: Sequence[str],
    groups: np.ndarray | None = None,
    *,
    prevalence: float | None = None,
) -> list[Decisions]:
    """Decisions at an operating point, and then at the thresholds of common sensitivities.

    Args:
        point: the operating point.
        probabilities: (n, C).
        targets: (n,) class indices, or (n, C) of 0 and 1.
        classes: C names.
        groups: (n,) ids of groups that count as one; None: each image is its own.
        prevalence: of the positives among the cases to be decided, if it is known.

    >>> point = OperatingPoint(positive=["ill"], threshold=0.5, aim="threshold 0.5")
    >>> p = np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.2, 0.8]])
    >>> found = judge_point(point, p, np.array([0, 0, 1, 1]), ["well", "ill"])[0]
    >>> found.rates["sensitivity"].value, found.rates["specificity"].value
    (1.0, 0.5)
    >>> found.rates["lr_positive"].value
    2.0
    """
    columns = [list(classes).index(name) for name in point.positive]
    truth = indicators(targets, len(classes))[:, columns].any(axis=1)
    ids = np.arange(len(targets)) if groups is None else np.unique(groups, return_inverse=True)[1]
    scores = point.scores(probabilities, classes)
    thresholds = {point.aim: point.threshold} | {
        f"sensitivity {rate} in the support set": at for rate, at in point.others.items()
    }
    return [
        _judged(point.name, aim, at, scores >= at, np.asarray(truth), ids, prevalence)
        for aim, at in thresholds.items()
    ]


def _judged(
    name: str,
    aim: str,
    threshold: float,
    found: np.ndarray,
    truth: np.ndarray,
    ids: np.ndarray,
    prevalence: float | None,
) -> Decisions:
    f, t = found.astype(np.float64), truth.astype(np.float64)
    estimates = {
        "sensitivity": (proportion_estimate(f, t, ids), t),
        "specificity": (proportion_estimate(1 - f, 1 - t, ids), 1 - t),
        "ppv": (proportion_estimate(t, f, ids), f),
        "npv": (proportion_estimate(1 - t, 1 - f, ids), 1 - f),
    }
    rates = {rate: Metric.of(estimate, int(among.sum()))
             for rate, (estimate, among) in estimates.items()}  # fmt: skip
    sensitivity, specificity = estimates["sensitivity"][0], estimates["specificity"][0]
    at_prevalence = {}
    if sensitivity is not None and specificity is not None:
        n = len(truth)
        wrong, missed = _complement(specificity), _complement(sensitivity)
        rates["lr_positive"] = _ratio(sensitivity, wrong, n)
        rates["lr_negative"] = _ratio(missed, specificity, n)
        if prevalence is not None:
            odds = prevalence / (1 - prevalence)
            at_prevalence = {
                "ppv": _share(_ratio(sensitivity, wrong, n), odds),
                "npv": _share(_ratio(specificity, missed, n), 1 / odds),
            }
    return Decisions(
        positive=name,
        threshold=threshold,
        aim=aim,
        true_positive=int((found & truth).sum()),
        false_negative=int((~found & truth).sum()),
        false_positive=int((found & ~truth).sum()),
        true_negative=int((~found & ~truth).sum()),
        rates=rates,
        at_prevalence=at_prevalence,
        prevalence=prevalence,
    )


def _complement(part: Estimate) -> Estimate:
    return Estimate(1 - part.value, 1 - part.high, 1 - part.low, -part.influence)


def _ratio(above: Estimate, below: Estimate, n: int) -> Metric:
    """A ratio of independent proportions; its ends combine theirs on the scale of the logarithm.

    There is no value, and no upper end, if ``below`` is 0.
    """
    if below.value == 0:
        return Metric(None, above.low / below.high, None, n)
    value = above.value / below.value
    up = np.log(below.value / below.low) if below.low > 0 else np.inf
    down = np.log(below.high / below.value)
    if above.value == 0:
        return Metric(0.0, 0.0, float(above.high / below.low) if below.low > 0 else None, n)
    fall = np.log(above.value / above.low) if above.low > 0 else np.inf
    rise = np.log(above.high / above.value)
    high = value * float(np.exp(np.hypot(rise, up)))
    return Metric(value, value * float(np.exp(-np.hypot(fall, down))),
                  high if np.isfinite(high) else None, n)  # fmt: skip


def _share(ratio: Metric, odds: float) -> Metric:
    """The predictive value that follows from a likelihood ratio and prior odds."""

    def share(x: float | None) -> float:
        return 1.0 if x is None else x * odds / (1 + x * odds)

    return Metric(share(ratio.value), share(ratio.low), share(ratio.high), ratio.n)
