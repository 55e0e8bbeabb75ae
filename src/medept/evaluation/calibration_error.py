"""The expected calibration error (ECE), its interval, and how much of it chance would make.

Few images in a bin make a gap by chance, so the ECE of a small test set is above 0 even if
probabilities are perfect. That is part of the ECE, and its interval is one of the ECE that test
sets of this size have on average.
"""

from __future__ import annotations

import numpy as np

from medept.evaluation.intervals import Z

BINS = 15
"""Number of bins of equal width."""


def calibration_error(
    confidence: np.ndarray,
    correct: np.ndarray,
    ids: np.ndarray,
    *,
    draws: int,
    seed: int,
    weights: np.ndarray | None = None,
) -> tuple[float, float, float, float]:
    """The ECE, the ends of its interval, and the mean ECE of perfect probabilities.

    Args:
        confidence: (m,) from 0 to 1.
        correct: (m,) of 0 and 1.
        ids: (m,) number of the group of each, 0 to G - 1.
        draws: number of draws of the noise.
        seed: of the draws.
        weights: (m,) of mean 1; None: all count alike.

    >>> confidence, correct = np.full(400, 0.8), np.arange(400) % 2
    >>> found = calibration_error(confidence, correct, np.arange(400), draws=1000, seed=0)
    >>> [round(number, 2) for number in found]
    [0.3, 0.25, 0.35, 0.02]
    """
    place = _bins(confidence)
    each = np.ones(len(confidence)) if weights is None else weights
    count = np.bincount(place, each, minlength=BINS + 1)
    gaps = np.bincount(place, each * (confidence - correct), minlength=BINS + 1) / len(confidence)
    error = float(np.abs(gaps).sum())
    noise = _noise(confidence, correct, each, place, count, ids, draws, seed)
    half = Z * float(np.abs(gaps + noise).sum(axis=1).std())
    return error, max(error - half, 0.0), min(error + half, 1.0), float(np.abs(noise).sum(1).mean())


def _bins(confidence: np.ndarray) -> np.ndarray:
    """The bin of each confidence, as in torchmetrics: by torch's edges, which belong to the bin
    above, and with a bin of its own for a confidence of 1."""
    import torch

    edges = torch.linspace(0, 1, BINS + 1, dtype=torch.float64).numpy()
    return np.searchsorted(edges, confidence, side="right") - 1


def _noise(
    confidence: np.ndarray,
    correct: np.ndarray,
    weights: np.ndarray,
    place: np.ndarray,
    count: np.ndarray,
    ids: np.ndarray,
    draws: int,
    seed: int,
) -> np.ndarray:
    """Normal noise of the gaps of the bins, (draws, K), with the covariance that groups have."""
    m = len(confidence)
    sizes = np.bincount(ids, weights)
    by_group = np.zeros((len(sizes), len(count)))
    np.add.at(by_group, (ids, place), weights * (confidence - correct) / m)
    covariance = (by_group - np.outer(sizes, by_group.sum(axis=0)) / m).T @ by_group
    # one more group in each bin, correct as often as it says, keeps bins of few from seeming exact
    share = count / m
    usual = np.bincount(place, weights * confidence, minlength=len(count))
    frequency = (
        np.bincount(place, weights * correct, minlength=len(count))
        + usual / np.where(count > 0, count, 1)
    ) / (count + 1)
    groups = m**2 / (sizes**2).sum()
    extra = frequency * (1 - frequency) * share / groups / (share * groups).clip(1)
    covariance = (covariance + covariance.T) / 2 + np.diag(extra)
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(values.clip(0))
    return np.random.default_rng(seed).standard_normal((draws, len(count))) @ root.T
