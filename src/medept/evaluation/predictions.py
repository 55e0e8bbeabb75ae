"""From probabilities to predictions: what is predicted, how confidently, and whether correctly.

All functions take probabilities (n, C). For classes, the most probable one is predicted; for labels
(multi-label data), each one whose probability is above one half.
"""

from __future__ import annotations

import numpy as np

from medept.errors import DataError

THRESHOLD = 0.5
"""A label is predicted if its probability is above this."""

LEAST = float(np.finfo(np.float64).eps)
"""Probabilities are raised to at least this before taking their logarithm, as in scikit-learn."""


def decide(probabilities: np.ndarray, task: str) -> np.ndarray:
    """Predictions in the form of targets: (n,) class indices, or (n, C) of 0 and 1.

    Args:
        probabilities: (n, C).
        task: ``multiclass`` or ``multilabel``.

    >>> probabilities = np.array([[0.1, 0.9], [0.7, 0.3]])
    >>> decide(probabilities, "multiclass")
    array([1, 0])
    >>> decide(probabilities, "multilabel")
    array([[0, 1],
           [1, 0]], dtype=uint8)
    """
    if task == "multilabel":
        return (probabilities > THRESHOLD).astype(np.uint8)
    return np.asarray(probabilities.argmax(axis=1))


def confidence(probabilities: np.ndarray, task: str) -> np.ndarray:
    """(n,) probability of the predicted class; for labels, of the least certain prediction.

    >>> confidence(np.array([[0.1, 0.9], [0.7, 0.3]]), "multiclass")
    array([0.9, 0.7])
    """
    if task == "multilabel":
        return np.maximum(probabilities, 1 - probabilities).min(axis=1)
    return np.asarray(probabilities.max(axis=1))


def is_correct(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(n,) whether the prediction is correct; for labels, whether all of them are.

    Args:
        probabilities: (n, C).
        targets: (n,) class indices, or (n, C) of 0 and 1.

    >>> is_correct(np.array([[0.1, 0.9], [0.7, 0.3]]), np.array([1, 1]))
    array([ True, False])
    """
    if targets.ndim == 2:
        return np.equal(decide(probabilities, "multilabel"), targets).all(axis=1)
    return np.equal(decide(probabilities, "multiclass"), targets)


def indicators(targets: np.ndarray, classes: int) -> np.ndarray:
    """Targets, (n,) class indices or (n, C) of 0 and 1, as (n, C) of 0 and 1.

    >>> indicators(np.array([2, 0]), classes=3)
    array([[0, 0, 1],
           [1, 0, 0]], dtype=uint8)
    """
    return np.asarray(targets) if targets.ndim == 2 else np.eye(classes, dtype=np.uint8)[targets]


def group_ids(groups: np.ndarray | None, n: int) -> np.ndarray:
    """(n,) number of each image's group, 0 to G - 1.

    Args:
        groups: (n,) ids; None: each image is its own.
        n: number of images.

    Raises:
        DataError: if there is another number of ids.
    """
    if groups is None:
        return np.arange(n)
    groups = np.asarray(groups)
    if groups.shape != (n,):
        raise DataError(f"groups {groups.shape}: expected ({n},), one id per image")
    return np.unique(groups, return_inverse=True)[1]
