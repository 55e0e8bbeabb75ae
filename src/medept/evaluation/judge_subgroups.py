"""Metrics in subgroups of a test set: for whom it fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from medept.evaluation.influence import auroc_estimate, proportion_estimate
from medept.evaluation.intervals import Metric, Z
from medept.evaluation.metrics import evaluate
from medept.evaluation.operating_points import OperatingPoint
from medept.evaluation.predictions import group_ids, indicators
from medept.evaluation.subgroups import (
    FEW,
    UNKNOWN,
    Subgroup,
    Subgroups,
    binned,
    largest_gaps,
    value_order,
)


def judge_subgroups(
    columns: Mapping[str, Sequence[str] | np.ndarray],
    probabilities: np.ndarray,
    targets: np.ndarray,
    classes: Sequence[str],
    groups: np.ndarray | None = None,
    points: Sequence[OperatingPoint] = (),
) -> Subgroups:
    """Metrics in each subgroup, and the largest gap of each metric in each column.

    Args:
        columns: name -> n cells; empty ones count as unknown, and numbers are cut at quartiles.
        probabilities: (n, C).
        targets: (n,) class indices, or (n, C) of 0 and 1.
        classes: C names.
        groups: (n,) ids of groups that count as one; None: each case is its own.
        points: operating points, of each of which subgroups are told.

    >>> random = np.random.default_rng(0)
    >>> y, sex = np.arange(400) % 2, np.repeat(["f", "m"], 200)
    >>> p = random.random(400) + np.where(sex == "f", 0.8, 0.0) * (y - 0.5)
    >>> p = np.stack([1 - p, p], axis=1).clip(0, 1)
    >>> point = OperatingPoint(positive=["ill"], threshold=0.5, aim="threshold 0.5")
    >>> found = judge_subgroups({"sex": sex}, p, y, ["well", "ill"], points=[point])
    >>> worst = found.gaps[0]
    >>> worst.metric, worst.highest, worst.lowest, worst.low > 0
    ('auroc', 'f', 'm', True)
    """
    ids = group_ids(groups, len(targets))
    each = []
    for column, cells in columns.items():
        values = binned(column, cells)
        for value in sorted(set(values), key=lambda v: (v == UNKNOWN, value_order(v))):
            rows = np.array([cell == value for cell in values])
            part = probabilities[rows], targets[rows], classes, ids[rows]
            told = [_at_point(column, value, point, *part) for point in points]
            each += told or [_plain(column, value, *part)]
    return Subgroups(each, largest_gaps(each))


def _at_point(
    column: str,
    value: str,
    point: OperatingPoint,
    probabilities: np.ndarray,
    targets: np.ndarray,
    classes: Sequence[str],
    ids: np.ndarray,
) -> Subgroup:
    chosen = np.isin(list(classes), point.positive)
    truth = np.asarray(indicators(targets, len(classes))[:, chosen].any(axis=1))
    scores, n = point.scores(probabilities, classes), len(targets)
    t, found = truth.astype(np.float64), (scores >= point.threshold).astype(np.float64)
    own = np.unique(ids, return_inverse=True)[1]
    estimates = {
        "auroc": (auroc_estimate(scores, t, own), n),
        "sensitivity": (proportion_estimate(found, t, own), int(t.sum())),
        "specificity": (proportion_estimate(1 - found, 1 - t, own), int(n - t.sum())),
    }
    metrics = {name: Metric.of(estimate, m) for name, (estimate, m) in estimates.items()}
    metrics["excess"] = _excess(scores - t, own)
    sizes = [len(set(own[rows].tolist())) for rows in (truth, ~truth)]
    return Subgroup(column, value, point.name, n, len(set(own.tolist())), float(truth.mean()),
                    metrics, min(sizes) < FEW)  # fmt: skip


def _excess(differences: np.ndarray, ids: np.ndarray) -> Metric:
    """A mean of numbers from -1 to 1, with the interval of a mean over groups."""
    n, value = len(differences), float(differences.mean())
    sums = np.bincount(ids, differences - value) / n
    count = len(sums)
    if count < 2:
        return Metric(value, None, None, n)
    half = Z * float(np.sqrt((sums**2).sum() * count / (count - 1)))
    return Metric(value, value - half, value + half, n)


def _plain(
    column: str,
    value: str,
    probabilities: np.ndarray,
    targets: np.ndarray,
    classes: Sequence[str],
    ids: np.ndarray,
) -> Subgroup:
    found = evaluate(probabilities, targets, classes=classes, groups=ids, resamples=200)
    names = ("auroc", "map" if targets.ndim == 2 else "balanced_accuracy", "ece")
    truth = indicators(targets, len(classes)).astype(bool)
    sizes = [len(set(ids[rows].tolist())) for rows in truth.T]
    metrics = {name: found.metrics[name] for name in names}
    return Subgroup(column, value, "", len(targets), len(set(ids.tolist())), None, metrics,
                    min(sizes) < FEW)  # fmt: skip
