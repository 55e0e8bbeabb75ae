"""How good a classifier is by the number of labels, and what more labels would bring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from medept.episodes.folds import make_folds

FitPredict = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Learns from features (n, D) and targets (n,), and gives the class of each of features (m, D)."""

REPEATS, FOLDS, BOOTSTRAP = 3, 5, 500
LEAST = 8
"""Labels below which nothing is estimated."""


@dataclass(frozen=True)
class LearningCurve:
    """Cross-validated balanced accuracy by the number of labels that were learnt from.

    Attributes:
        sizes: (S,) numbers of labels, rising; the last is all but those of one fold.
        scores: (S,) balanced accuracy.
        low: (S,) lower ends of 95 % intervals, by bootstrap over groups.
        high: (S,) upper ends.
        predicted: (n,) the class of each image, by a classifier that did not see its label.
        gain: by how much the score would rise with ``more`` labels more, and its interval.
        more: how many.
    """

    sizes: np.ndarray
    scores: np.ndarray
    low: np.ndarray
    high: np.ndarray
    predicted: np.ndarray
    gain: tuple[float, float, float]
    more: int


def learning_curve(
    features: np.ndarray,
    targets: np.ndarray,
    fit_predict: FitPredict,
    *,
    groups: np.ndarray | None = None,
    more: int = 20,
    seed: int = 0,
) -> LearningCurve | None:
    """The curve of n labelled images, by cross-validation on parts of them.

    What more labels bring is read off the line through the scores over 1 / sqrt(n), which assumes
    that the next labels are like those that are there.

    Args:
        features: (n, D).
        targets: (n,) class indices.
        fit_predict: learns and predicts.
        groups: (n,) patients, which stay together; None: each image is its own.
        more: labels whose gain is estimated.
        seed: of folds, parts and the bootstrap.

    Returns:
        None if there are fewer than :data:`LEAST` labels, or a class has one group alone.
    """
    owners = np.arange(len(targets)) if groups is None else groups
    if len(targets) < LEAST or len(set(targets.tolist())) < 2:
        return None
    runs = [make_folds(targets, owners, FOLDS, seed + repeat) for repeat in range(REPEATS)]
    if not all(runs):
        return None
    least = min(len(train) for folds in runs for train, _ in folds)
    start = max(2 * len(set(targets.tolist())), LEAST // 2)
    sizes = np.unique(np.geomspace(min(start, least), least, 5).round().astype(int))
    right = np.zeros((len(sizes), len(targets)))
    predicted = np.zeros(len(targets), dtype=np.int64)
    rng = np.random.default_rng(seed)
    for folds in runs:
        for train, held_out in folds:
            order = _interleaved(targets[train], rng)
            for s, size in enumerate(sizes):
                rows = train[order[:size]]
                found = fit_predict(features[rows], targets[rows], features[held_out])
                right[s, held_out] += (found == targets[held_out]) / REPEATS
            predicted[held_out] = found
    drawn = _bootstrap_weights(owners, rng)
    scores = _balanced(right, targets, np.ones((1, len(targets))))[0]
    spread = _balanced(right, targets, drawn)
    low, high = np.percentile(spread, [2.5, 97.5], axis=0)
    gains = _gain(spread, sizes, len(targets), more)
    gain = float(_gain(scores[None], sizes, len(targets), more)[0])
    ends = [float(end) for end in np.percentile(gains, [2.5, 97.5])]
    return LearningCurve(sizes, scores, low, high, predicted, (gain, ends[0], ends[1]), more)


def _interleaved(targets: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random order of rows of which every beginning has as many classes as it can.

    The first of each class come first, and then all others in random order, so that larger parts
    have the classes in their own proportions.
    """
    order = rng.permutation(len(targets))
    _, first = np.unique(targets[order], return_index=True)
    return np.concatenate([order[np.sort(first)], np.delete(order, first)])


def _bootstrap_weights(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How often each row is drawn, (B, n), where groups are drawn with replacement."""
    names, member = np.unique(groups, return_inverse=True)
    share = np.full(len(names), 1 / len(names))
    return rng.multinomial(len(names), share, size=BOOTSTRAP)[:, member]


def _balanced(right: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Balanced accuracy (B, S) of rows right (S, n), weighted (B, n); without classes not drawn."""
    parts = []
    for c in np.unique(targets):
        own = weights[:, targets == c]
        total = own.sum(axis=1, keepdims=True)
        parts.append(own @ right[:, targets == c].T / np.where(total > 0, total, np.nan))
    return np.nanmean(np.stack(parts), axis=0)


def _gain(scores: np.ndarray, sizes: np.ndarray, count: int, more: int) -> np.ndarray:
    """What ``more`` labels bring, (B,), by lines through scores (B, S) over 1 / sqrt(size)."""
    if len(sizes) < 2:
        return np.zeros(len(scores))
    x = sizes**-0.5 - (sizes**-0.5).mean()
    slopes = scores @ x / (x @ x)
    return slopes * ((count + more) ** -0.5 - count**-0.5)
