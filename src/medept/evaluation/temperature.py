"""From logits to probabilities, and the one number that makes them honest (Guo et al. 2017)."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, log_softmax, softmax

BOUNDS = (0.05, 20.0)
"""Between which a temperature is looked for."""


def to_probabilities(logits: np.ndarray, *, task: str, temperature: float = 1.0) -> np.ndarray:
    """Logits -> probabilities (n, C): softmax (``multiclass``) or sigmoid (``multilabel``)."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    return expit(scaled) if task == "multilabel" else softmax(scaled, axis=1)


def negative_log_likelihood(logits: np.ndarray, targets: np.ndarray) -> float:
    """Mean over images (and labels) of -log p of the truth; targets (n,) or (n, C) of 0 and 1."""
    logits = np.asarray(logits, dtype=np.float64)
    if targets.ndim == 2:
        return float(-(targets * log_expit(logits) + (1 - targets) * log_expit(-logits)).mean())
    return float(-log_softmax(logits, axis=1)[np.arange(len(targets)), targets].mean())


def fit_temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """The temperature T within 0.05..20 for which ``logits / T`` explain the targets best."""
    targets = np.asarray(targets)
    if targets.ndim == 2:
        targets = targets.astype(np.float64)
    found = minimize_scalar(
        lambda log_t: negative_log_likelihood(logits / np.exp(log_t), targets),
        bounds=np.log(BOUNDS),
        method="bounded",
        options={"xatol": 1e-6},
    )
    unchanged = negative_log_likelihood(np.asarray(logits), targets)
    return float(np.exp(found.x)) if found.fun <= unchanged else 1.0
