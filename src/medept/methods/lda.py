"""Linear discriminant analysis with a shrunk covariance, on frozen features."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from pydantic import Field

from medept.methods.base import MethodSettings
from medept.methods.features import FeatureMethod, is_multilabel

NEVER = -1e6
"""Logit of a class that has no sample."""


class LDA(FeatureMethod):
    """One Gaussian a class, with equal priors and one covariance.

    The covariance is that of all samples around the mean of their class, shrunk towards a multiple
    of the identity; so a class of one image counts by its views, and where nothing varies, the
    nearest class mean is left. Views of one image are not independent, and raw logits would be far
    too sure: they are divided by the mean margin between a class and the others at their means.
    """

    class Settings(MethodSettings):
        """Its settings."""

        shrinkage: float = Field(default=0.3, gt=0, le=1)
        """Share of the identity in the covariance; 1 is the nearest class mean."""

    name = "lda"
    summary = "linear discriminant analysis with shrinkage, on frozen features"
    search: ClassVar[dict[str, tuple[float, ...]]] = {"shrinkage": (0.1, 0.3, 0.6, 0.9)}
    reads_every_block: ClassVar[bool] = True
    settings: Settings

    def fit_features(
        self, features: np.ndarray, targets: np.ndarray, groups: np.ndarray | None
    ) -> None:
        shrinkage = self.settings.shrinkage
        if is_multilabel(targets):
            columns = [discriminants(features, column, 2, shrinkage) for column in targets.T]
            weight = np.stack([w[1] - w[0] for w, _ in columns])
            bias = np.array([b[1] - b[0] for _, b in columns])
        else:
            weight, bias = discriminants(features, targets, self.classes, shrinkage)
        self.head.load_folded(
            {
                "weight": torch.as_tensor(weight, dtype=torch.float32),
                "bias": torch.as_tensor(bias, dtype=torch.float32),
            }
        )


def discriminants(
    features: np.ndarray, targets: np.ndarray, classes: int, shrinkage: float
) -> tuple[np.ndarray, np.ndarray]:
    """Weight (C, D) and bias (C,) of the discriminants of features (n, D).

    Args:
        targets: (n,) class indices; a class without a sample is never chosen.
        shrinkage: share of the identity in the covariance, above 0 and up to 1.

    >>> weight, bias = discriminants(np.array([[0.0], [1.0], [9.0]]), np.array([0, 0, 1]), 2, 0.5)
    >>> (np.array([[0.0], [9.0]]) @ weight.T + bias).argmax(axis=1)
    array([0, 1])
    """
    features = features.astype(np.float64)
    weight, bias = np.zeros((classes, features.shape[1])), np.full(classes, NEVER)
    met = np.unique(targets)
    means = np.stack([features[targets == c].mean(axis=0) for c in met])
    around = features - means[np.searchsorted(met, targets)]
    centre = features.mean(axis=0)
    solved = _solve(around, means - centre, shrinkage)
    found = -0.5 * ((means - centre) * solved).sum(axis=1) - solved @ centre
    margin = _mean_margin(means @ solved.T + found)
    weight[met], bias[met] = solved / margin, found / margin
    return weight, bias


def _solve(around: np.ndarray, means: np.ndarray, shrinkage: float) -> np.ndarray:
    """The inverse covariance times each mean (C, D).

    With R (n, D) the samples around their class means, the covariance is a I + b R'R. Where n is
    below D it is inverted in n dimensions: (a I + b R'R)^-1 = (I - R'(a / b I + R R')^-1 R) / a.
    """
    count, width = around.shape
    identity = shrinkage * max((around**2).sum() / count / width, 1e-12)
    if shrinkage == 1 or not around.any():
        return means / identity
    spread = (1 - shrinkage) / count
    if count >= width:
        covariance = identity * np.eye(width) + spread * around.T @ around
        return np.linalg.solve(covariance, means.T).T
    gram = identity / spread * np.eye(count) + around @ around.T
    return (means - np.linalg.solve(gram, around @ means.T).T @ around) / identity


def _mean_margin(logits: np.ndarray) -> float:
    """By how much, on average, a class exceeds the others at its mean: logits (C, C)."""
    if len(logits) < 2:
        return 1.0
    others = (logits.sum(axis=1) - logits.diagonal()) / (len(logits) - 1)
    return max(float((logits.diagonal() - others).mean()), 1e-12) * MARGIN


MARGIN = 0.25
"""So that a class at its mean is ahead of the others by four logits: as sure as was measured."""
