"""Ridge regression onto the classes, on frozen features, by scikit-learn."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from pydantic import Field

from medept.methods.base import MethodSettings
from medept.methods.features import FeatureMethod, is_multilabel


class Ridge(FeatureMethod):
    """Least squares onto one indicator per class.

    Every class weighs the same, whatever its number of images. With n samples of variance v (the
    trace of their covariance), the penalty is strength * v / n.
    """

    class Settings(MethodSettings):
        """How much it shrinks."""

        strength: float = Field(default=0.2, gt=0)
        """Penalty on the weights, relative to the variance of the features."""

    name = "ridge"
    summary = "ridge regression onto the classes, on frozen features"
    reads_every_block: ClassVar[bool] = True
    search: ClassVar[dict[str, tuple[float, ...]]] = {"strength": (0.03, 0.1, 0.2, 0.5, 2.0)}
    settings: Settings

    def fit_features(
        self, features: np.ndarray, targets: np.ndarray, groups: np.ndarray | None
    ) -> None:
        if is_multilabel(targets):
            columns = [self._weights(features, np.eye(2)[column]) for column in targets.T]
            weight = np.stack([w[1] - w[0] for w, _ in columns])
            bias = np.array([b[1] - b[0] for _, b in columns])
        else:
            weight, bias = self._weights(features, np.eye(self.classes)[targets])
        self.head.load_folded(
            {
                "weight": torch.as_tensor(weight / SCALE, dtype=torch.float32),
                "bias": torch.as_tensor(bias / SCALE, dtype=torch.float32),
            }
        )

    def _weights(self, features: np.ndarray, indicators: np.ndarray) -> tuple:
        """Weight (C, D) and bias (C,) for indicators (n, C) of one class a row."""
        from sklearn.linear_model import Ridge as LeastSquares

        features = features.astype(np.float64)
        sizes = indicators.sum(axis=0)
        weights = (indicators / np.maximum(sizes, 1)).sum(axis=1)
        weights /= weights.sum()
        centred = features - weights @ features
        variance = float(weights @ (centred**2).sum(axis=1))
        model = LeastSquares(alpha=self.settings.strength * max(variance, 1e-12) / len(features))
        model.fit(features, indicators, sample_weight=weights)
        return model.coef_, model.intercept_


SCALE = 0.25
"""Indicators from 0 to 1 are divided by it, to be logits."""
