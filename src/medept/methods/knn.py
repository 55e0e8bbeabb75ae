"""k nearest neighbours among the support images, by their features."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from medept.methods.base import MethodSettings
from medept.methods.features import FeatureMethod, StoredHead, as_labels, is_multilabel


class NeighbourHead(StoredHead):
    """The k nearest support images vote, each with the weight exp(cosine / temperature)."""

    names = ("features", "labels")
    features: Tensor
    labels: Tensor

    def __init__(self, k: int, temperature: float) -> None:
        super().__init__()
        self.k, self.temperature = k, temperature

    def forward(self, features: Tensor) -> Tensor:
        cosine = F.normalize(features, dim=-1) @ F.normalize(self.features, dim=-1).T
        nearest, rows = cosine.topk(min(self.k, len(self.features)), dim=-1)
        weights = (nearest / self.temperature).softmax(-1)
        votes = (weights[..., None] * self.labels[rows]).sum(1).clamp(1e-4, 1 - 1e-4)
        return torch.logit(votes) if self.labels_may_coincide else votes.log()


class Neighbours(FeatureMethod):
    """k nearest neighbours, as DINO evaluates features (Caron et al., ICCV 2021)."""

    class Settings(MethodSettings):
        """How many vote, and with what weights."""

        k: int = Field(default=5, ge=1)
        """Neighbours that vote."""

        temperature: float = Field(default=0.07, gt=0)
        """A neighbour's vote weighs exp(cosine / temperature); 0.07 is DINO's."""

    name = "knn"
    search: ClassVar[dict[str, tuple[Any, ...]]] = {
        "k": (1, 3, 5, 10, 20),
        "temperature": (0.01, 0.03, 0.07, 0.2),
    }
    summary = "votes of the nearest support images, by cosine"
    settings: Settings

    def make_head(self, width: int, classes: int) -> NeighbourHead:
        return NeighbourHead(self.settings.k, self.settings.temperature)

    def fit_views(
        self, features: np.ndarray, targets: np.ndarray, groups: np.ndarray | None
    ) -> None:
        """Store the mean of each image's views: several views of one image are one neighbour."""
        self.fit_features(features.mean(axis=1), targets, groups)

    def fit_features(
        self, features: np.ndarray, targets: np.ndarray, groups: np.ndarray | None
    ) -> None:
        labels = as_labels(targets, self.classes)
        self.head.load_folded(
            {
                "features": torch.as_tensor(features, dtype=torch.float32),
                "labels": torch.as_tensor(labels, dtype=torch.float32),
                "multilabel": torch.tensor(is_multilabel(targets)),
            }
        )
