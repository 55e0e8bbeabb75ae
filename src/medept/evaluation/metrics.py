"""How good predictions are, with 95 % intervals, and with what cannot be said said so.

Point values come from torchmetrics. Their intervals come from a bootstrap over *groups* (patients,
studies; images where there are none): a resampled data set is the same data with whole-number
weights, so each metric is also written here in a weighted form that takes all resamples at once.
With weights of one the two agree, which the tests check.

A class that has one label value only (all positive, or none) has no AUROC and no average
precision. It is left out of their mean and named in ``undefined``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from medept.errors import InputError

BINS = 15
"""Equal-width bins of the expected calibration error."""

NUMBERS_AT_ONCE = 4_000_000
"""Resamples are taken in blocks whose weights are about as many numbers as this."""


@dataclass(frozen=True)
class Metric:
    """A value with its 95 % interval; None where it is undefined. n: the number of images."""

    value: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Evaluation:
    """Metrics by name, the classes that some of them are undefined for, the number of groups."""

    metrics: dict[str, Metric]
    undefined: dict[str, tuple[str, ...]]
    groups: int

    def to_dict(self) -> dict[str, Any]:
        """The content of ``metrics.json``."""
        values = {name: asdict(metric) for name, metric in self.metrics.items()}
        return values | {"undefined": {k: list(v) for k, v in self.undefined.items()},
                         "groups": self.groups}  # fmt: skip


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
    the most probable class); ``brier`` (squared error summed over classes, from 0 to 2).
    Multi-label targets, (n, C) of 0 and 1: ``map`` (mean average precision), ``auroc``, ``f1`` (at
    one half), ``ece`` (of all labels together), ``brier`` (mean over labels, from 0 to 1).

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
    point, undefined = _point_values(probabilities, targets, classes)
    weighted = _weighted_multilabel if targets.ndim == 2 else _weighted_multiclass
    ids = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = int(ids.max()) + 1
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in point}
    for weights in _resampled(ids, count, resamples, seed):
        for name, values in weighted(probabilities, targets, weights).items():
            drawn[name].append(values)
    metrics = {
        name: Metric(value, *_interval(drawn[name], value, count), n)
        for name, value in point.items()
    }
    return Evaluation(metrics, undefined, count)


def _check(probabilities: np.ndarray, targets: np.ndarray, classes: Sequence[str]) -> None:
    if probabilities.ndim != 2 or not len(probabilities) or len(probabilities) != len(targets):
        raise InputError(
            f"probabilities {probabilities.shape} and targets {targets.shape}: expected (n, C) "
            "and (n,) or (n, C), with n at least 1"
        )
    if probabilities.shape[1] != len(classes):
        raise InputError(f"{probabilities.shape[1]} columns for {len(classes)} classes")
    if not ((probabilities >= 0) & (probabilities <= 1 + 1e-9)).all():
        raise InputError("probabilities must be numbers from 0 to 1")
    if targets.ndim == 2:
        if targets.shape != probabilities.shape or not np.isin(targets, (0, 1)).all():
            raise InputError("multi-label targets must be 0 or 1, one column a label")
    elif (
        not np.issubdtype(targets.dtype, np.integer)
        or not ((targets >= 0) & (targets < len(classes))).all()
    ):
        raise InputError(f"targets must be class indices from 0 to {len(classes) - 1}")
    elif np.abs(probabilities.sum(axis=1) - 1).max() > 1e-3:
        raise InputError("the probabilities of an image's classes must sum to 1")


# --- point values ----------------------------------------------------------------------------


def _point_values(
    probabilities: np.ndarray, targets: np.ndarray, classes: Sequence[str]
) -> tuple[dict[str, float | None], dict[str, tuple[str, ...]]]:
    import torch
    import torchmetrics.functional as tm

    scores, truth = torch.from_numpy(probabilities), torch.from_numpy(targets.astype(np.int64))
    C = len(classes)
    multilabel = targets.ndim == 2
    positives = targets.sum(axis=0) if multilabel else np.bincount(targets, minlength=C)
    present, both = positives > 0, (positives > 0) & (positives < len(targets))
    kind: dict[str, Any] = (
        {"task": "multilabel", "num_labels": C} if multilabel
        else {"task": "multiclass", "num_classes": C}
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes without both values are handled here
        auroc = tm.auroc(scores, truth, average=None, **kind).numpy()
        f1 = float(tm.f1_score(scores, truth, average="macro", **kind))
        if multilabel:
            ap = tm.average_precision(scores, truth, average=None, **kind).numpy()
            ece = tm.calibration_error(
                scores.flatten(), truth.flatten(), task="binary", n_bins=BINS
            )
            values = {"map": _mean(ap[present]), "auroc": _mean(auroc[both]), "f1": f1}
        else:
            recall = tm.recall(scores, truth, average=None, **kind).numpy()
            accuracy = tm.accuracy(scores, truth, average="micro", **kind)
            ece = tm.calibration_error(scores, truth, n_bins=BINS, **kind)
            values = {"accuracy": float(accuracy), "balanced_accuracy": _mean(recall[present]),
                      "auroc": _mean(auroc[both]), "f1": f1}  # fmt: skip
    values |= {"ece": float(ece), "brier": float(_squared_error(probabilities, targets).mean())}
    left_out = {"auroc": ~both, ("map" if multilabel else "balanced_accuracy"): ~present}
    undefined = {
        name: tuple(np.asarray(classes, dtype=object)[out])
        for name, out in left_out.items() if out.any()
    }  # fmt: skip
    return values, undefined


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _squared_error(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Each image's part of the Brier score (n,)."""
    if targets.ndim == 2:
        return ((probabilities - targets) ** 2).mean(axis=1)
    truth = np.eye(probabilities.shape[1])[targets]
    return ((probabilities - truth) ** 2).sum(axis=1)


# --- the same, weighted: weights (R, n) -> values (R,) ----------------------------------------


def _weighted_multiclass(
    probabilities: np.ndarray, targets: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    C = probabilities.shape[1]
    truth = np.eye(C)[targets]
    chosen = probabilities.argmax(axis=1)
    guess = np.eye(C)[chosen]
    confidence, right = probabilities.max(axis=1), (chosen == targets).astype(float)
    recall = _ratio(weights @ (truth * guess), weights @ truth)
    return {
        "accuracy": _ratio(weights @ right, weights.sum(axis=1)),
        "balanced_accuracy": _mean_defined(recall),
        "auroc": _mean_defined(_columns(weighted_auroc, probabilities, truth, weights)),
        "f1": _f1(truth, guess, weights),
        "ece": _ece(confidence, right, weights),
        "brier": _ratio(weights @ _squared_error(probabilities, targets), weights.sum(axis=1)),
    }


def _weighted_multilabel(
    probabilities: np.ndarray, targets: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    truth = targets.astype(float)
    C = truth.shape[1]
    precision = _columns(weighted_average_precision, probabilities, truth, weights)
    return {
        "map": _mean_defined(precision),
        "auroc": _mean_defined(_columns(weighted_auroc, probabilities, truth, weights)),
        "f1": _f1(truth, (probabilities > 0.5).astype(float), weights),
        "ece": _ece(probabilities.ravel(), truth.ravel(), np.repeat(weights, C, axis=1)),
        "brier": _ratio(weights @ _squared_error(probabilities, targets), weights.sum(axis=1)),
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
    hits = positive.cumsum(axis=1)
    precision = np.nan_to_num(_ratio(hits, hits + negative.cumsum(axis=1)))
    return _ratio((positive * precision).sum(axis=1), hits[:, -1])


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


def _columns(
    metric: Callable[..., np.ndarray], scores: np.ndarray, truth: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """``metric`` of every class: (R, C)."""
    return np.stack([metric(s, t, weights) for s, t in zip(scores.T, truth.T, strict=True)], axis=1)


def _f1(truth: np.ndarray, guess: np.ndarray, weights: np.ndarray) -> np.ndarray:
    hits = weights @ (truth * guess)
    per_class = _ratio(2 * hits, weights @ truth + weights @ guess)
    if truth.shape[1] and (truth.sum(axis=1) == 1).all() and (guess.sum(axis=1) == 1).all():
        return _mean_defined(per_class)
    return np.nan_to_num(per_class).mean(axis=1)


def _ece(confidence: np.ndarray, right: np.ndarray, weights: np.ndarray) -> np.ndarray:
    place = np.searchsorted(np.linspace(0, 1, BINS + 1), confidence, side="right") - 1
    gaps = np.eye(BINS + 1)[place] * (confidence - right)[:, None]
    return _ratio(np.abs(weights @ gaps).sum(axis=1), weights.sum(axis=1))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, NaN where below is 0."""
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)


def _mean_defined(values: np.ndarray) -> np.ndarray:
    """Mean over classes (R, C) -> (R,), undefined ones left out; NaN where none is defined."""
    defined = ~np.isnan(values)
    return _ratio(np.nan_to_num(values).sum(axis=1), defined.sum(axis=1))


# --- bootstrap -------------------------------------------------------------------------------


def _resampled(ids: np.ndarray, count: int, resamples: int, seed: int) -> Any:
    """Weights of images (block, n) in blocks: how often each image's group was drawn."""
    random = np.random.default_rng(seed)
    block = max(1, NUMBERS_AT_ONCE // len(ids))
    for start in range(0, resamples if count > 1 else 0, block):
        size = min(block, resamples - start)
        times = random.multinomial(count, np.full(count, 1 / count), size=size)
        yield times[:, ids].astype(np.float64)


def _interval(
    drawn: list[np.ndarray], value: float | None, count: int
) -> tuple[float | None, float | None]:
    values = np.concatenate(drawn) if drawn else np.zeros(0)
    defined = values[~np.isnan(values)]
    if value is None or count < 2 or len(defined) <= len(values) / 2:
        return None, None
    low, high = np.percentile(defined, (2.5, 97.5))
    return float(low), float(high)
