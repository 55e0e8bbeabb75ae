"""Labels that look wrong: a cross-validated probe is confident of another one.

Confident learning (Northcutt, Jiang and Chuang, JAIR 70, 2021): the probe is confident that an
image is of class j if the out-of-fold probability of j is at least its mean over the images
labelled j. A label is a candidate if the most probable of these classes is another one. Since a
weak probe disagrees with many correct labels, the label must also be improbable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from medept.episodes.folds import make_folds

FOLDS = 5

IMPROBABLE = 0.1
"""A label is doubted only if the probe gives it a probability below this."""

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse regularisation strengths of the probe among which cross-validation chooses."""

USEFUL = 0.3
"""Least balanced accuracy, rescaled to 0 for guessing, at which the probe is trusted."""


@dataclass(frozen=True)
class LabelErrors:
    """Labels that look wrong, the most improbable first.

    Attributes:
        rows: (m,) row indices of the images.
        suggested: (m,) class of which the probe is confident.
        given: (m,) probability of the label that the image has.
        balanced_accuracy: of the probe, out of fold.
    """

    rows: np.ndarray
    suggested: np.ndarray
    given: np.ndarray
    balanced_accuracy: float


def find_label_errors(
    features: np.ndarray,
    targets: np.ndarray,
    groups: np.ndarray | None,
    progress: Callable[[int, int], None],
) -> LabelErrors | None:
    """Labels of n images that look wrong.

    Classes with a single group cannot be cross-validated and are left out.

    Args:
        features: (n, D) of a frozen encoder.
        targets: (n,) class indices.
        groups: (n,) ids, each of which is in one fold only; default: each image is on its own.
        progress: called with the number of fitted probes, and of all.

    Returns:
        None if fewer than two classes have two groups, or if groups have several classes and cannot
        be divided into folds.
    """
    from sklearn.metrics import balanced_accuracy_score

    groups = np.arange(len(targets)) if groups is None else groups
    counts = {c: len(set(groups[targets == c].tolist())) for c in set(targets.tolist())}
    usable = np.flatnonzero([counts[c] > 1 for c in targets.tolist()])
    classes, codes = np.unique(targets[usable], return_inverse=True)
    if len(classes) < 2:
        return None
    probabilities = out_of_fold(features[usable], codes, groups[usable], progress)
    if probabilities is None:
        return None
    guess = probabilities.argmax(axis=1)
    accuracy = float(balanced_accuracy_score(codes, guess))
    if balanced_accuracy_score(codes, guess, adjusted=True) < USEFUL:
        rows = suggested = np.zeros(0, dtype=np.int64)
    else:
        rows, suggested = confident_disagreements(probabilities, codes)
    given = probabilities[rows, codes[rows]]
    return LabelErrors(usable[rows], classes[suggested], given, accuracy)


def confident_disagreements(
    probabilities: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose label is improbable while the probe is confident of another class, and that class.

    Args:
        probabilities: (n, C), out of fold.
        targets: (n,) class indices; each class occurs at least once.

    >>> probabilities = np.array([[0.9, 0.1], [0.05, 0.95], [0.2, 0.8], [0.1, 0.9]])
    >>> rows, classes = confident_disagreements(probabilities, np.array([0, 0, 1, 1]))
    >>> rows.tolist(), classes.tolist()
    ([1], [1])
    """
    count = probabilities.shape[1]
    thresholds = np.array([probabilities[targets == c, c].mean() for c in range(count)])
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    best = confident.argmax(axis=1)
    given = probabilities[np.arange(len(targets)), targets]
    doubted = (confident.max(axis=1) > 0) & (best != targets) & (given < IMPROBABLE)
    rows = np.flatnonzero(doubted)
    rows = rows[np.argsort(given[rows], kind="stable")]
    return rows, best[rows]


def out_of_fold(
    features: np.ndarray,
    targets: np.ndarray,
    groups: np.ndarray,
    progress: Callable[[int, int], None],
) -> np.ndarray | None:
    """Probabilities (n, C) by a logistic regression that was fitted without the image's group.

    The strength of its regularisation is that of :data:`STRENGTHS` with the least log loss.

    Returns:
        None if the groups cannot be divided into folds.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = make_folds(targets, groups, FOLDS, seed=0)
    if not folds:
        return None
    best, least = np.zeros(0), np.inf
    for done, strength in enumerate(STRENGTHS, start=1):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
        found = cross_val_predict(model, features, targets, cv=folds, method="predict_proba")
        if (loss := log_loss(targets, found)) < least:
            best, least = found, loss
        progress(done, len(STRENGTHS))
    return best
