"""Random probabilities with outcomes, for tests of the evaluation."""

from __future__ import annotations

import numpy as np
from scipy.special import softmax


def multiclass(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    p = random.dirichlet(np.ones(3), n)
    return p, np.array([random.choice(3, p=row) for row in p])


def multilabel(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    p = random.random((n, 3)).round(1)
    return p, (random.random((n, 3)) < p).astype(np.uint8)


def drawn(seed: int, n: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and classes drawn by them: perfectly calibrated."""
    random = np.random.default_rng(seed)
    p = softmax(random.normal(size=(n, classes)) * 1.5, axis=1)
    y = (random.random((n, 1)) > p.cumsum(axis=1)).sum(axis=1).clip(0, classes - 1)
    return p, y
