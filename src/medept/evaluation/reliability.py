"""How reliable probabilities are: reliability curves, their errors, and abstention.

Everything here takes probabilities (n, C) and targets, (n,) class indices or (n, C) of 0 and 1.
For classes that exclude each other the *confidence* is the largest probability, and it comes true
where that class is correct; in multi-label data each label counts by itself, and comes true if it
is 1.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from medept.evaluation.predictions import indicators, is_correct


@dataclass(frozen=True)
class ReliabilityCurve:
    """Bins that are not empty, in order: mean confidence, share that came true, how many (K,)."""

    confidence: np.ndarray
    frequency: np.ndarray
    count: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error: mean gap, weighted by the bins' counts."""
        gaps = np.abs(self.confidence - self.frequency)
        return float((gaps * self.count).sum() / self.count.sum())


@dataclass(frozen=True)
class BrierParts:
    """Murphy's decomposition: score = reliability - resolution + uncertainty + within.

    ``reliability`` is what miscalibration costs, ``resolution`` what telling cases apart gains,
    ``uncertainty`` what always telling the base rate would score, and ``within`` what is left of
    taking all cases of a bin for alike.
    """

    score: float
    reliability: float
    resolution: float
    uncertainty: float
    within: float


@dataclass(frozen=True)
class CalibrationErrors:
    """How far probabilities are off, from 0 (best) to 1, and the parts of the Brier score.

    Attributes:
        equal_mass: the expected calibration error over bins of about equally many cases.
        classwise: that of each class's own probability, mean over classes.
        brier: the parts of the Brier score as ``metrics.json`` has it: summed over classes, or of
            labels their mean.
    """

    equal_mass: float
    classwise: float
    brier: BrierParts


def calibration_errors(
    probabilities: np.ndarray, targets: np.ndarray, *, bins: int
) -> CalibrationErrors:
    """All of them, over so many bins."""
    curve = reliability_curve(*confidences(probabilities, targets), bins=bins, equal_mass=True)
    truth = indicators(targets, probabilities.shape[1]).astype(np.float64)
    parts = [brier_parts(p, t, bins=bins) for p, t in zip(probabilities.T, truth.T, strict=True)]
    mean_or_sum = np.mean if targets.ndim == 2 else np.sum
    names = [field.name for field in fields(BrierParts)]
    whole = {name: float(mean_or_sum([getattr(p, name) for p in parts])) for name in names}
    classwise = classwise_error(probabilities, targets, bins=bins)
    return CalibrationErrors(curve.error, classwise, BrierParts(**whole))


def confidences(probabilities: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Confidence and whether it came true: (n,) each, or (n C,) for multi-label targets."""
    if targets.ndim == 2:
        return probabilities.ravel(), targets.ravel().astype(float)
    return probabilities.max(axis=1), is_correct(probabilities, targets).astype(float)


def reliability_curve(
    confidence: np.ndarray, correct: np.ndarray, *, bins: int = 10, equal_mass: bool = False
) -> ReliabilityCurve:
    """Bins of equal width, or of about equally many cases (ties stay together)."""
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
    """The calibration error of each class's own probability, mean over classes.

    Kull et al. 2019, "classwise-ECE".
    """
    truth = indicators(targets, probabilities.shape[1])
    curves = [
        reliability_curve(p, t, bins=bins)
        for p, t in zip(probabilities.T, truth.T.astype(float), strict=True)
    ]
    return float(np.mean([curve.error for curve in curves]))


def brier_parts(confidence: np.ndarray, correct: np.ndarray, *, bins: int = 10) -> BrierParts:
    """Murphy's decomposition of the mean squared error of confidences over equal-width bins."""
    score, base = float(((confidence - correct) ** 2).mean()), float(correct.mean())
    curve = reliability_curve(confidence, correct, bins=bins)
    weight = curve.count / curve.count.sum()
    reliability = float((weight * (curve.confidence - curve.frequency) ** 2).sum())
    resolution = float((weight * (curve.frequency - base) ** 2).sum())
    uncertainty = base * (1 - base)
    within = score - (reliability - resolution + uncertainty)
    return BrierParts(score, reliability, resolution, uncertainty, within)


def abstention_curve(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share answered, and accuracy among those, when the least confident are left out first.

    Cases of one confidence are answered or left out together: (K,) each, the share rising to 1.
    """
    order = np.argsort(-confidence, kind="stable")
    ends = np.flatnonzero(np.r_[np.diff(confidence[order]) != 0, True])
    answered = ends + 1
    return answered / len(confidence), correct[order].cumsum()[ends] / answered
