"""How reliable probabilities are: reliability curves, calibration errors, and abstention.

Probabilities are (n, C), and targets (n,) class indices or (n, C) of 0 and 1. For classes, the
*confidence* is the largest probability, and the prediction is correct if that class is. In
multi-label data each label is a case of its own: its probability is the confidence, and it is
correct if the label is 1.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from medept.evaluation.predictions import indicators, is_correct


@dataclass(frozen=True)
class ReliabilityCurve:
    """Cases binned by confidence: K bins in order, without empty ones.

    Attributes:
        confidence: (K,) mean confidence.
        frequency: (K,) proportion that is correct.
        count: (K,) number of cases.
    """

    confidence: np.ndarray
    frequency: np.ndarray
    count: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error: the mean gap, weighted by the counts of the bins."""
        gaps = np.abs(self.confidence - self.frequency)
        return float((gaps * self.count).sum() / self.count.sum())


@dataclass(frozen=True)
class BrierParts:
    """Murphy's decomposition: score = reliability - resolution + uncertainty + within.

    Attributes:
        score: the Brier score.
        reliability: cost of miscalibration.
        resolution: gain from telling cases apart.
        uncertainty: score of always predicting the base rate.
        within: the remainder, as the cases of a bin are not all alike.
    """

    score: float
    reliability: float
    resolution: float
    uncertainty: float
    within: float


@dataclass(frozen=True)
class CalibrationErrors:
    """Calibration errors, from 0 (best) to 1, and the parts of the Brier score.

    Attributes:
        equal_mass: expected calibration error with about equally many cases in each bin.
        classwise: expected calibration error of each class's probability, mean over classes.
        brier: parts of the Brier score: their sums over classes, or their means over labels.
        by_chance: mean expected calibration error that perfect probabilities would have on as many
            images; None if it was not computed.
    """

    equal_mass: float
    classwise: float
    brier: BrierParts
    by_chance: float | None = None


def calibration_errors(
    probabilities: np.ndarray, targets: np.ndarray, *, bins: int
) -> CalibrationErrors:
    """All calibration errors.

    Args:
        probabilities: (n, C).
        targets: (n,) class indices, or (n, C) of 0 and 1.
        bins: number of bins.
    """
    curve = reliability_curve(*confidences(probabilities, targets), bins=bins, equal_mass=True)
    truth = indicators(targets, probabilities.shape[1]).astype(np.float64)
    parts = [brier_parts(p, t, bins=bins) for p, t in zip(probabilities.T, truth.T, strict=True)]
    mean_or_sum = np.mean if targets.ndim == 2 else np.sum
    names = [field.name for field in fields(BrierParts)]
    whole = {name: float(mean_or_sum([getattr(p, name) for p in parts])) for name in names}
    classwise = classwise_error(probabilities, targets, bins=bins)
    return CalibrationErrors(curve.error, classwise, BrierParts(**whole))


def confidences(probabilities: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Confidence, and 1 if correct, else 0: (n,) each, or (n C,) for multi-label targets.

    >>> confidences(np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([0, 0]))
    (array([0.9, 0.6]), array([1., 0.]))
    """
    if targets.ndim == 2:
        return probabilities.ravel(), targets.ravel().astype(float)
    return probabilities.max(axis=1), is_correct(probabilities, targets).astype(float)


def reliability_curve(
    confidence: np.ndarray, correct: np.ndarray, *, bins: int = 10, equal_mass: bool = False
) -> ReliabilityCurve:
    """Bin cases by confidence.

    Args:
        confidence: (n,) from 0 to 1.
        correct: (n,) of 0 and 1.
        bins: number of bins, some of which may be empty.
        equal_mass: whether bins have about equally many cases instead of equal width. Cases of
            one confidence stay in one bin.

    >>> curve = reliability_curve(np.array([0.72, 0.78, 0.95]), np.array([1.0, 0.0, 1.0]))
    >>> curve.confidence, curve.frequency, curve.count
    (array([0.75, 0.95]), array([0.5, 1. ]), array([2, 1]))
    >>> round(curve.error, 3)
    0.183
    """
    if equal_mass:
        edges = np.unique(np.quantile(confidence, np.linspace(0, 1, bins + 1)[1:-1]))
    else:
        edges = np.linspace(0, 1, bins + 1)[1:-1]
    place = np.searchsorted(edges, confidence, side="right")
    count = np.bincount(place, minlength=len(edges) + 1)
    used = count > 0
    sums = (np.bincount(place, x, minlength=len(count))[used] for x in (confidence, correct))
    mean_confidence, frequency = (total / count[used] for total in sums)
    return ReliabilityCurve(mean_confidence, frequency, count[used])


def classwise_error(probabilities: np.ndarray, targets: np.ndarray, *, bins: int = 10) -> float:
    """Expected calibration error of each class's probability, mean over classes.

    This is the classwise-ECE of Kull et al. 2019.

    Args:
        probabilities: (n, C).
        targets: (n,) class indices, or (n, C) of 0 and 1.
        bins: number of bins of equal width.
    """
    truth = indicators(targets, probabilities.shape[1])
    curves = [
        reliability_curve(p, t, bins=bins)
        for p, t in zip(probabilities.T, truth.T.astype(float), strict=True)
    ]
    return float(np.mean([curve.error for curve in curves]))


def brier_parts(confidence: np.ndarray, correct: np.ndarray, *, bins: int = 10) -> BrierParts:
    """Murphy's decomposition of the mean squared error of confidences.

    Args:
        confidence: (n,) from 0 to 1.
        correct: (n,) of 0 and 1.
        bins: number of bins of equal width.

    >>> parts = brier_parts(np.array([0.8, 0.8, 0.3, 0.3]), np.array([1.0, 0.0, 0.0, 0.0]))
    >>> round(parts.score, 3), round(parts.reliability, 3), round(parts.resolution, 4)
    (0.215, 0.09, 0.0625)
    """
    score, base = float(((confidence - correct) ** 2).mean()), float(correct.mean())
    curve = reliability_curve(confidence, correct, bins=bins)
    weight = curve.count / curve.count.sum()
    reliability = float((weight * (curve.confidence - curve.frequency) ** 2).sum())
    resolution = float((weight * (curve.frequency - base) ** 2).sum())
    uncertainty = base * (1 - base)
    within = score - (reliability - resolution + uncertainty)
    return BrierParts(score, reliability, resolution, uncertainty, within)


def abstention_curve(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coverage and accuracy when the least confident cases are left to somebody else.

    Args:
        confidence: (n,).
        correct: (n,) of 0 and 1.

    Returns:
        the proportion of cases answered (K,), rising to 1, and the accuracy among them (K,). Cases
        of one confidence are answered or left out together, so K is the number of confidences.

    >>> answered, accuracy = abstention_curve(np.array([0.9, 0.6, 0.6]), np.array([1.0, 1.0, 0.0]))
    >>> answered.round(2), accuracy.round(2)
    (array([0.33, 1.  ]), array([1.  , 0.67]))
    """
    order = np.argsort(-confidence, kind="stable")
    ends = np.flatnonzero(np.r_[np.diff(confidence[order]) != 0, True])
    answered = ends + 1
    return answered / len(confidence), correct[order].cumsum()[ends] / answered
