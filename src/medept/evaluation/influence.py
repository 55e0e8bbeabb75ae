"""The measures of :func:`medept.evaluation.evaluate` with their intervals, by influence.

An influence is the derivative of a measure by the weight of an image (the infinitesimal
jackknife, Efron 1982). For AUROC these are the structural components of DeLong et al. 1988, and
their sums over groups the variance of Obuchowski 1997.

``ids`` (n,) are the numbers of the images' groups, 0 to G - 1.
"""

from __future__ import annotations

import numpy as np

from medept.evaluation.intervals import Estimate, Metric, bounded_estimate
from medept.evaluation.predictions import group_ids


def proportion_estimate(hit: np.ndarray, among: np.ndarray, ids: np.ndarray) -> Estimate | None:
    """The proportion of the images in ``among`` that are hits; None if there are none.

    Args:
        hit: (n,) of 0 and 1.
        among: (n,) of 0 and 1.
        ids: (n,).
    """
    count = among.sum()
    if not count:
        return None
    value = float((hit * among).sum() / count)
    return bounded_estimate(value, among * (hit - value) / count, ids, [(among > 0, 1.0)])


def proportion(hit: np.ndarray, groups: np.ndarray | None = None) -> Metric:
    """The proportion (of all) that is a hit, with its interval.

    Args:
        hit: (n,) of bool.
        groups: (n,) ids of groups that count as one; None: each is its own.
    """
    among, ids = np.ones(len(hit)), group_ids(groups, len(hit))
    return Metric.of(proportion_estimate(hit.astype(np.float64), among, ids), len(hit))


def f1_estimate(truth: np.ndarray, predicted: np.ndarray, ids: np.ndarray) -> Estimate | None:
    """F1 of one class; None without positives.

    F1 is a rising function of the proportion that is both, among images that are either.

    Args:
        truth: (n,) of 0 and 1.
        predicted: (n,) of 0 and 1.
        ids: (n,).
    """
    either = np.maximum(truth, predicted)
    both = proportion_estimate(truth * predicted, either, ids) if truth.any() else None
    return both and both.mapped(lambda x: 2 * x / (1 + x), 2 / (1 + both.value) ** 2)


def auroc_estimate(scores: np.ndarray, truth: np.ndarray, ids: np.ndarray) -> Estimate | None:
    """AUROC of one class; None if all images are of it, or none is.

    Args:
        scores: (n,).
        truth: (n,) of 0 and 1.
        ids: (n,).
    """
    positive = truth == 1
    if positive.all() or not positive.any():
        return None
    above = _proportion_below(scores[positive], scores[~positive])
    below = 1 - _proportion_below(scores[~positive], scores[positive])
    value = float(above.mean())
    influence = np.zeros(len(scores))
    influence[positive] = (above - value) / positive.sum()
    influence[~positive] = (below - value) / (~positive).sum()
    return bounded_estimate(value, influence, ids, [(positive, 1.0), (~positive, 1.0)])


def _proportion_below(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The proportion of the others that lie below each score; ties count one half."""
    ordered = np.sort(others)
    places = [np.searchsorted(ordered, scores, side) for side in ("left", "right")]
    return np.asarray(sum(places) / (2 * len(others)))


def average_precision_estimate(
    scores: np.ndarray, truth: np.ndarray, ids: np.ndarray
) -> Estimate | None:
    """Average precision of one class; None if all images are of it, or none is.

    Args:
        scores: (n,).
        truth: (n,) of 0 and 1.
        ids: (n,).
    """
    positive = truth == 1
    if positive.all() or not positive.any():
        return None
    count = int(positive.sum())
    thresholds, place = np.unique(-scores, return_inverse=True)
    here = np.bincount(place, positive, minlength=len(thresholds))
    hits = here.cumsum()
    reached = np.bincount(place, minlength=len(thresholds)).cumsum()
    value = float((here * hits / reached).sum() / count)
    # an image counts at every threshold below its score
    gain = (here * (reached - hits) / reached**2)[::-1].cumsum()[::-1]
    loss = (here * hits / reached**2)[::-1].cumsum()[::-1]
    own = (hits / reached)[place] - value
    influence = np.where(positive, own + gain[place], -loss[place]) / count
    return bounded_estimate(value, influence, ids, [(positive, 1.0), (~positive, 1.0)])
