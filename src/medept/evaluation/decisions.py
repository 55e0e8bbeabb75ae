"""What probabilities decide: the class or labels told, how surely, and whether that was right.

Everything takes probabilities (n, C). Of classes that exclude each other the most probable one is
told; of labels, each whose probability is above one half.
"""

from __future__ import annotations

import numpy as np

THRESHOLD = 0.5
"""Above which a label is told."""


def decide(probabilities: np.ndarray, task: str) -> np.ndarray:
    """What is told, as targets are: (n,) class indices, or (n, C) of 0 and 1 for ``multilabel``."""
    if task == "multilabel":
        return (probabilities > THRESHOLD).astype(np.uint8)
    return np.asarray(probabilities.argmax(axis=1))


def sureness(probabilities: np.ndarray, task: str) -> np.ndarray:
    """(n,) the probability of the class told; of labels, of what is told of the least sure one."""
    if task == "multilabel":
        return np.maximum(probabilities, 1 - probabilities).min(axis=1)
    return np.asarray(probabilities.max(axis=1))


def is_right(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(n,) whether what is told is the truth, (n,) or (n, C); of labels, whether all of it is."""
    if targets.ndim == 2:
        return np.equal(decide(probabilities, "multilabel"), targets).all(axis=1)
    return np.equal(decide(probabilities, "multiclass"), targets)


def indicators(targets: np.ndarray, classes: int) -> np.ndarray:
    """Targets (n,) or (n, C) as an array (n, C) of 0 and 1."""
    return np.asarray(targets) if targets.ndim == 2 else np.eye(classes, dtype=np.uint8)[targets]
