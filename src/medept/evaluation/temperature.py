"""From logits to probabilities, and the one number that makes them honest (Guo et al. 2017)."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, log_softmax, softmax

from medept.errors import InputError

BOUNDS = (0.05, 20.0)
"""Between which a temperature is looked for."""


def to_probabilities(logits: np.ndarray, *, task: str, temperature: float = 1.0) -> np.ndarray:
    """Logits -> probabilities (n, C), float64: softmax (``multiclass``), sigmoid (``multilabel``).

    Raises:
        InputError: if the task is neither, or the temperature not above 0.
    """
    if task not in ("multiclass", "multilabel"):
        raise InputError(f"task {task!r}: give 'multiclass' or 'multilabel'")
    if not temperature > 0:
        raise InputError(f"temperature {temperature}: give a number above 0")
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    return expit(scaled) if task == "multilabel" else softmax(scaled, axis=1)


def negative_log_likelihood(logits: np.ndarray, targets: np.ndarray) -> float:
    """Mean over images (and labels) of -log p of the truth; targets (n,) or (n, C) of 0 and 1."""
    logits, targets = np.asarray(logits, dtype=np.float64), np.asarray(targets)
    if targets.ndim == 2:
        # of two outcomes, the one that came true has the logit with its sign
        return float(-log_expit(np.where(targets == 1, logits, -logits)).mean())
    return float(-log_softmax(logits, axis=1)[np.arange(len(targets)), targets].mean())


def fit_temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """The temperature T within 0.05..20 for which ``logits / T`` explain the targets best.

    Of images that the model was not fitted to. Never worse than T = 1 on those given.

    Args:
        logits: (n, C).
        targets: (n,) class indices, or (n, C) of 0 and 1 for multi-label.

    Raises:
        InputError: if there are no logits, they are not finite, or the shapes do not match.
    """
    logits, targets = np.asarray(logits, dtype=np.float64), np.asarray(targets)
    if logits.ndim != 2 or not logits.size or targets.shape not in (logits.shape, logits.shape[:1]):
        raise InputError(
            f"logits {logits.shape} and targets {targets.shape}: expected (n, C) and (n,) or "
            "(n, C), with n at least 1"
        )
    if not np.isfinite(logits).all():
        raise InputError(f"logits: row {np.argwhere(~np.isfinite(logits))[0][0]} is not finite")
    found = minimize_scalar(
        lambda log_t: negative_log_likelihood(logits / np.exp(log_t), targets),
        bounds=np.log(BOUNDS),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x)) if found.fun <= negative_log_likelihood(logits, targets) else 1.0
