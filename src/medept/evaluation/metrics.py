"""How good predictions are, with 95 % intervals.

Intervals count *groups* (patients, studies; images if there are no groups), and hold the truth
about as often as they say from five groups of a class on (:mod:`medept.evaluation.intervals`).

Metrics can be undefined for a class. If its labels are all positive or all negative in the test
set, it has no AUROC and no average precision; without positives, it has no recall and no F1. Such
a class is left out of the mean over classes, and named in ``undefined``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from medept.errors import DataError
from medept.evaluation.at_prevalence import AtPrevalence
from medept.evaluation.calibration_error import BINS, calibration_error
from medept.evaluation.decisions import Decisions
from medept.evaluation.influence import (
    auroc_estimate,
    average_precision_estimate,
    f1_estimate,
    proportion_estimate,
)
from medept.evaluation.intervals import (
    Estimate,
    Metric,
    bounded_estimate,
    mean_estimate,
    positive_estimate,
)
from medept.evaluation.prediction_sets import SetCoverage
from medept.evaluation.predictions import (
    LEAST,
    decide,
    group_ids,
    indicators,
    is_correct,
)
from medept.evaluation.reliability import CalibrationErrors, calibration_errors, confidences
from medept.evaluation.subgroups import Subgroups

FEW = 5
"""Groups of a class, below which intervals were measured to be too narrow."""

ROUNDING = 1e-9
"""A probability may lie outside 0..1 by this much, and is then taken for 0 or 1."""


@dataclass(frozen=True)
class Evaluation:
    """How good predictions are.

    Attributes:
        metrics: by name. For classes: ``accuracy``; ``balanced_accuracy`` (mean recall);
            ``auroc`` (one class against the rest, mean over classes); ``f1`` (mean over classes);
            ``ece`` (expected calibration error of the predicted class, 15 bins of equal width;
            its interval is one of the mean over test sets of this size);
            ``brier`` (squared error, summed over classes, from 0 to 2); ``nll`` (negative log
            likelihood, natural logarithm). For labels: ``map`` (mean average precision);
            ``auroc``; ``f1`` (of labels above one half); ``ece`` (of all labels together);
            ``brier`` (mean over labels, from 0 to 1); ``nll`` (mean over labels).
        by_class: class -> ``sensitivity``, ``specificity`` and ``precision``, where n is the
            number of images in the denominator.
        undefined: metric -> the classes for which it is undefined.
        few: classes of fewer than five groups, whose intervals may be too narrow, and those of
            means over classes with them: class -> number of groups.
        groups: number of groups.
        calibration: further calibration errors, and the parts of the Brier score.
        decisions: at operating points, each followed by those at common sensitivities.
        sets: how often prediction sets hold the truth; None without sets.
        unfamiliar: proportion of images unlike the training images; None if that is not known.
        subgroups: metrics in subgroups, and the gaps between them; None if none were asked for.
        at_prevalence: what depends on how common classes are, at a stated prevalence; None if none
            is stated.
    """

    metrics: dict[str, Metric]
    by_class: dict[str, dict[str, Metric]]
    undefined: dict[str, tuple[str, ...]]
    few: dict[str, int]
    groups: int
    calibration: CalibrationErrors
    decisions: tuple[Decisions, ...] = ()
    sets: SetCoverage | None = None
    unfamiliar: Metric | None = None
    subgroups: Subgroups | None = None
    at_prevalence: AtPrevalence | None = None

    def to_dict(self) -> dict[str, Any]:
        """The content of ``metrics.json``."""
        return {
            **{name: asdict(metric) for name, metric in self.metrics.items()},
            "by_class": {
                name: {rate: asdict(metric) for rate, metric in rates.items()}
                for name, rates in self.by_class.items()
            },
            "undefined": {name: list(classes) for name, classes in self.undefined.items()},
            "few": self.few,
            "groups": self.groups,
            "calibration": asdict(self.calibration),
            "decisions": [asdict(each) for each in self.decisions],
            "sets": self.sets and asdict(self.sets),
            "unfamiliar": self.unfamiliar and asdict(self.unfamiliar),
            "subgroups": self.subgroups and asdict(self.subgroups),
            "at_prevalence": self.at_prevalence and asdict(self.at_prevalence),
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

    There is no interval if there is only one group.

    Args:
        probabilities: (n, C).
        targets: (n,) class indices, or for multi-label data (n, C) of 0 and 1.
        classes: C names.
        groups: (n,) ids of the groups that are drawn as a whole; None: images are drawn singly.
        resamples: number of draws for the interval of the ECE; 0 leaves all intervals out.
        seed: of the draws.

    Raises:
        InputError: if shapes do not match, or a number is not a probability or target.

    >>> probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]])
    >>> found = evaluate(probabilities, np.array([0, 0, 1, 1]), classes=["benign", "malignant"])
    >>> accuracy = found.metrics["accuracy"]
    >>> accuracy.value, round(accuracy.low, 2), round(accuracy.high, 2)
    (0.75, 0.24, 0.99)
    >>> found.by_class["malignant"]["sensitivity"].value
    0.5
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    targets = np.asarray(targets)
    _check(probabilities, targets, classes)
    scores = probabilities.clip(0, 1)
    ids = group_ids(groups, len(targets))
    count = int(ids.max()) + 1
    told = resamples > 0 and count > 1
    truth = indicators(targets, len(classes)).astype(np.float64)
    predicted = indicators(decide(scores, _task(targets)), len(classes)).astype(np.float64)
    means, undefined = _class_means(scores, truth, predicted, ids, targets.ndim == 2)
    estimates = means | _image_means(scores, targets, truth, ids)
    ece, by_chance = _ece(scores, targets, ids, resamples if told else 0, seed)
    metrics = {
        name: Metric.of(estimate, len(ids), interval=told) for name, estimate in estimates.items()
    }
    errors = calibration_errors(scores, targets, bins=BINS)
    left_out = {
        name: tuple(c for c, left in zip(classes, out, strict=True) if left)
        for name, out in undefined.items()
    }
    sizes = {c: len(set(ids[t == 1].tolist())) for c, t in zip(classes, truth.T, strict=True)}
    return Evaluation(
        metrics={name: (metrics | {"ece": ece})[name] for name in _order(targets)},
        by_class=_by_class(truth, predicted, ids, classes, told),
        undefined={name: names for name, names in left_out.items() if names},
        few={name: size for name, size in sizes.items() if 0 < size < FEW},
        groups=count,
        calibration=replace(errors, by_chance=by_chance),
    )


def _task(targets: np.ndarray) -> str:
    return "multilabel" if targets.ndim == 2 else "multiclass"


def _order(targets: np.ndarray) -> list[str]:
    """The names of the metrics, in the order in which they are shown."""
    first = ["map"] if targets.ndim == 2 else ["accuracy", "balanced_accuracy"]
    return [*first, "auroc", "f1", "ece", "brier", "nll"]


def _class_means(
    scores: np.ndarray,
    truth: np.ndarray,
    predicted: np.ndarray,
    ids: np.ndarray,
    multilabel: bool,
) -> tuple[dict[str, Estimate | None], dict[str, np.ndarray]]:
    """Means over classes; and for each, which classes (C,) are left out as undefined."""

    def recall(t: np.ndarray, p: np.ndarray, ids: np.ndarray) -> Estimate | None:
        return proportion_estimate(p, t, ids)

    measures: dict[str, tuple[Callable[..., Estimate | None], np.ndarray, np.ndarray]] = {
        "map": (average_precision_estimate, scores, truth),
        "balanced_accuracy": (recall, truth, predicted),
        "auroc": (auroc_estimate, scores, truth),
        "f1": (f1_estimate, truth, predicted),
    }
    del measures["balanced_accuracy" if multilabel else "map"]
    means: dict[str, Estimate | None] = {}
    undefined = {}
    for name, (measure, one, other) in measures.items():
        each = [measure(a, b, ids) for a, b in zip(one.T, other.T, strict=True)]
        defined = [estimate for estimate in each if estimate is not None]
        means[name] = mean_estimate(defined) if defined else None
        undefined[name] = np.array([estimate is None for estimate in each])
    return means, undefined


def _image_means(
    scores: np.ndarray, targets: np.ndarray, truth: np.ndarray, ids: np.ndarray
) -> dict[str, Estimate | None]:
    """Means over images: accuracy (of classes), Brier score and log loss."""
    n = len(targets)
    found: dict[str, Estimate | None] = {}
    errors = (scores - truth) ** 2
    losses = -np.log(np.where(truth == 1, scores, 1 - scores).clip(LEAST))
    if targets.ndim == 2:
        kinds, most = np.zeros(n, dtype=np.int64), 1.0
        brier, loss = errors.mean(axis=1), losses.mean(axis=1)
    else:
        kinds, most = targets, 2.0
        brier, loss = errors.sum(axis=1), losses[np.arange(n), targets]
        correct = is_correct(scores, targets).astype(np.float64)
        found["accuracy"] = proportion_estimate(correct, np.ones(n), ids)
    strata = [(kinds == c, float((kinds == c).mean())) for c in np.unique(kinds)]
    share, mean_loss = float(brier.mean()) / most, float(loss.mean())
    error = bounded_estimate(share, (brier / most - share) / n, ids, strata)
    return found | {
        "brier": error.mapped(lambda x: most * x, most),
        "nll": positive_estimate(mean_loss, (loss - mean_loss) / n, ids, kinds),
    }


def _ece(
    scores: np.ndarray, targets: np.ndarray, ids: np.ndarray, draws: int, seed: int
) -> tuple[Metric, float | None]:
    """The expected calibration error, and what it would be if probabilities were perfect."""
    confident, correct = confidences(scores, targets)
    each = np.repeat(ids, len(confident) // len(ids))
    value, low, high, by_chance = calibration_error(
        confident, correct, each, draws=max(draws, 1), seed=seed
    )
    if not draws:
        return Metric(value, None, None, len(ids)), None
    return Metric(value, low, high, len(ids)), by_chance


def _by_class(
    truth: np.ndarray, predicted: np.ndarray, ids: np.ndarray, classes: Sequence[str], told: bool
) -> dict[str, dict[str, Metric]]:
    """Sensitivity, specificity and precision of each class."""
    found = {}
    for name, t, p in zip(classes, truth.T, predicted.T, strict=True):
        rates = {"sensitivity": (p, t), "specificity": (1 - p, 1 - t), "precision": (t, p)}
        found[name] = {
            rate: Metric.of(proportion_estimate(hit, among, ids), int(among.sum()), interval=told)
            for rate, (hit, among) in rates.items()
        }
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
