"""From probabilities to predictions: what is predicted, how confidently, and whether it is correct.

Everything takes probabilities (n, C). Of classes that exclude each other the most probable one is
predicted; of labels, each whose probability is above one half.
"""

from __future__ import annotations

import numpy as np

THRESHOLD = 0.5
"""Probability above which a label is predicted."""


def decide(probabilities: np.ndarray, task: str) -> np.ndarray:
    """Predictions in the form of targets: (n,) class indices, or (n, C) of 0 and 1 (multilabel)."""
    if task == "multilabel":
        return (probabilities > THRESHOLD).astype(np.uint8)
    return np.asarray(probabilities.argmax(axis=1))


def confidence(probabilities: np.ndarray, task: str) -> np.ndarray:
    """(n,) the probability of the predicted class; of labels, of the least certain prediction."""
    if task == "multilabel":
        return np.maximum(probabilities, 1 - probabilities).min(axis=1)
    return np.asarray(probabilities.max(axis=1))


def is_correct(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(n,) whether the prediction is the target, (n,) or (n, C); of labels, whether all are."""
    if targets.ndim == 2:
        return np.equal(decide(probabilities, "multilabel"), targets).all(axis=1)
    return np.equal(decide(probabilities, "multiclass"), targets)


def indicators(targets: np.ndarray, classes: int) -> np.ndarray:
    """Targets (n,) or (n, C) as an array (n, C) of 0 and 1."""
    return np.asarray(targets) if targets.ndim == 2 else np.eye(classes, dtype=np.uint8)[targets]
