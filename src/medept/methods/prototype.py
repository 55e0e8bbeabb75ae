"""Nearest class mean (Snell et al., NeurIPS 2017), by cosine."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from medept.methods.base import MethodSettings
from medept.methods.features import FeatureMethod, StoredHead, as_labels, is_multilabel


class PrototypeHead(StoredHead):
    """Cosine to the mean of each class, divided by a temperature.

    For labels that do not exclude each other, the cosine to the mean of the other images is
    subtracted first.
    """

    names = ("positive", "negative")
    positive: Tensor
    negative: Tensor

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, features: Tensor) -> Tensor:
        unit = F.normalize(features, dim=-1)
        cosine = unit @ F.normalize(self.positive, dim=-1).T
        if self.labels_may_coincide:
            cosine = cosine - unit @ F.normalize(self.negative, dim=-1).T
        return cosine / self.temperature


class Prototypes(FeatureMethod):
    """Nearest class mean (Snell et al. 2017), by cosine.

    The paper takes squared Euclidean distances, in features that were trained for them. Features of
    a frozen encoder are usually compared by cosine (Chen et al., "A closer look at few-shot
    classification", ICLR 2019). The temperature, 0.1, is medept's.
    """

    class Settings(MethodSettings):
        """The scale of the logits."""

        temperature: float = Field(default=0.1, gt=0)
        """Cosines divided by it are the logits."""

    name = "prototype"
    search: ClassVar[dict[str, tuple[Any, ...]]] = {"temperature": (0.02, 0.05, 0.1, 0.2, 0.5)}
    summary = "the nearest class mean, by cosine"
    settings: Settings

    def make_head(self, width: int, classes: int) -> PrototypeHead:
        return PrototypeHead(self.settings.temperature)

    def fit_features(
        self, features: np.ndarray, targets: np.ndarray, groups: np.ndarray | None
    ) -> None:
        labels = as_labels(targets, self.classes)
        unit = features / np.linalg.norm(features, axis=1, keepdims=True)
        means = {
            name: weights.T @ unit / np.maximum(1, weights.sum(axis=0))[:, None]
            for name, weights in (("positive", labels), ("negative", 1 - labels))
        }
        self.head.load_folded(
            {name: torch.as_tensor(mean, dtype=torch.float32) for name, mean in means.items()}
            | {"multilabel": torch.tensor(is_multilabel(targets))}
        )
