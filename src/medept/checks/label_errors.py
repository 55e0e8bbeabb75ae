"""Labels that look wrong: a cross-validated probe is confident of another one.

Confident learning (Northcutt, Jiang and Chuang, JAIR 70, 2021): an image counts towards class j
if the out-of-fold probability of j is at least what it is, on average, for the images labelled j.
An image that counts most towards another class than its own is suspect. Here its own label must
moreover be held to be improbable, since a weak probe disagrees with many a right label.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from medept.episodes.folds import make_folds

FOLDS = 5
IMPROBABLE = 0.1
"""A label is suspect only where the probe gives it less than this."""
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
USEFUL = 0.3
"""How far from guessing (0) to perfect (1) the probe's balanced accuracy has to be."""


@dataclass(frozen=True)
class Suspects:
    """Images whose label is doubted, most doubtful first.

    Attributes:
        rows: (m,) row indices.
        suggested: (m,) the class the probe is confident of.
        given: (m,) probability of the label that the image has.
        balanced_accuracy: of the probe, out of fold.
    """

    rows: np.ndarray
    suggested: np.ndarray
    given: np.ndarray
    balanced_accuracy: float


def find_suspects(
    features: np.ndarray,
    targets: np.ndarray,
    groups: np.ndarray | None,
    progress: Callable[[int, int], None],
) -> Suspects | None:
    """Suspects among n labelled images; None where fewer than two classes have two groups,
    or groups of several classes cannot be dealt out.

    Classes of a single group cannot be cross-validated, and take no part.

    Args:
        features: (n, D) of a frozen encoder.
        targets: (n,) class indices.
        groups: (n,) ids that are never on both sides of a fold.
    """
    from sklearn.metrics import balanced_accuracy_score

    groups = np.arange(len(targets)) if groups is None else groups
    sizes = {c: len(set(groups[targets == c].tolist())) for c in set(targets.tolist())}
    usable = np.flatnonzero([sizes[c] > 1 for c in targets.tolist()])
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
    return Suspects(usable[rows], classes[suggested], given, accuracy)


def confident_disagreements(
    probabilities: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose label is off the diagonal of the confident joint and improbable, and the others.

    Args:
        probabilities: (n, C), out of fold.
        targets: (n,) class indices, each class there at least once.
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
    """Probabilities (n, C) of a logistic regression that never saw the image's group.

    None where patients of several classes cannot be dealt out to folds.

    Its strength is the one of :data:`STRENGTHS` with the least log-loss out of fold.
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
