"""Linear discriminant analysis with a shrunk covariance, on frozen features."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch

from medept.methods.features import FeatureMethod


class LDA(FeatureMethod):
    """One Gaussian a class, with equal priors and one covariance, shrunk as Ledoit and Wolf (2004).

    The covariance is that of all samples around the mean of their class, so a class of one image
    counts by its views; where nothing varies, the nearest class mean is left.
    """

    name = "lda"
    summary = "linear discriminant analysis with shrinkage, on frozen features"
    reads_every_block: ClassVar[bool] = True

    def fit_features(
        self, features: np.ndarray, targets: np.ndarray, groups: np.ndarray | None
    ) -> None:
        if targets.ndim == 2:
            columns = [_discriminants(features, column, 2) for column in targets.T]
            weight = np.stack([w[1] - w[0] for w, _ in columns])
            bias = np.array([b[1] - b[0] for _, b in columns])
        else:
            weight, bias = _discriminants(features, targets, self.classes)
        self.head.load_folded(
            {
                "weight": torch.as_tensor(weight, dtype=torch.float32),
                "bias": torch.as_tensor(bias, dtype=torch.float32),
            }
        )


def _discriminants(
    features: np.ndarray, targets: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Weight (C, D) and bias (C,); a class without a sample is never chosen."""
    from sklearn.covariance import ledoit_wolf

    features = features.astype(np.float64)
    weight, bias = np.zeros((classes, features.shape[1])), np.full(classes, NEVER)
    met = np.unique(targets)
    means = np.stack([features[targets == c].mean(axis=0) for c in met])
    around = features - means[np.searchsorted(met, targets)]
    covariance = (
        ledoit_wolf(around, assume_centered=True)[0] if around.any() else np.eye(len(around.T))
    )
    weight[met] = np.linalg.solve(covariance, means.T).T
    bias[met] = -0.5 * (means * weight[met]).sum(axis=1)
    return weight, bias


NEVER = -1e6
"""Logit of a class that has no sample."""
