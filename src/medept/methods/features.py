"""What a practitioner would try first, on frozen features: logistic regression, neighbours, means.

These are fitted at once, on one view of each support image; there is nothing to iterate.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from medept.methods.base import AdaptedEncoder, MethodSettings


class FeatureMethod(AdaptedEncoder):
    """A method that is fitted to features in closed form."""

    def fit_features(
        self, features: np.ndarray, targets: np.ndarray, groups: np.ndarray | None
    ) -> None:
        """Fit the head.

        Args:
            features: (n, D).
            targets: (n,) class indices, or (n, C) of 0 and 1.
            groups: (n,) ids that cross-validation keeps together.
        """
        raise NotImplementedError


class Probe(FeatureMethod):
    """Logistic regression; C chosen by cross-validated log-loss over groups in the support set.

    Five folds, or as many as the rarest class has groups; with fewer than two, C = 1.
    """

    name = "probe"
    summary = "logistic regression on frozen features, C chosen by cross-validation"

    def fit_features(
        self, features: np.ndarray, targets: np.ndarray, groups: np.ndarray | None
    ) -> None:
        groups = np.arange(len(features)) if groups is None else groups
        mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-3
        standard = (features - mean) / scale
        if targets.ndim == 2:
            rows = [_binary(standard, column, groups) for column in targets.T]
            weight, bias = np.stack([r[0] for r in rows]), np.array([r[1] for r in rows])
        else:
            weight, bias = _multiclass(standard, targets, groups, self.head.out_features)
        weight = weight / scale
        self.head.load_folded(
            {
                "weight": torch.as_tensor(weight, dtype=torch.float32),
                "bias": torch.as_tensor(bias - weight @ mean, dtype=torch.float32),
            }
        )


def _binary(features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> tuple:
    """Weight (D,) and bias of one label; the log-odds alone where it has one value only."""
    if len(set(labels.tolist())) < 2:
        share = (labels.sum() + 0.5) / (len(labels) + 1)
        return np.zeros(features.shape[1]), np.log(share / (1 - share))
    model = _logistic_regression(features, labels, groups)
    return model.coef_[0], model.intercept_[0]


def _multiclass(
    features: np.ndarray, targets: np.ndarray, groups: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    model = _logistic_regression(features, targets, groups)
    coefficients, intercepts = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # one row for the second class: halves for each
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    weight, bias = np.zeros((classes, features.shape[1])), np.full(classes, -30.0)
    weight[model.classes_], bias[model.classes_] = coefficients, intercepts
    return weight, bias


def _logistic_regression(features: np.ndarray, labels: np.ndarray, groups: np.ndarray):  # type: ignore[no-untyped-def]
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold

    fewest = min(len(set(groups[labels == label])) for label in set(labels.tolist()))
    model = LogisticRegression(max_iter=2000)
    if fewest < 2:
        return model.fit(features, labels)
    folds = StratifiedGroupKFold(min(5, fewest), shuffle=True, random_state=0)
    search = GridSearchCV(
        model, {"C": np.logspace(-4, 2, 7)}, scoring="neg_log_loss", cv=folds, error_score=-np.inf
    )
    return search.fit(features, labels, groups=groups).best_estimator_


class _StoredHead(nn.Module):
    """A head made of tensors that are stored, not trained; its interface is that of ``Head``."""

    names: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        for name in (*self.names, "multilabel"):
            self.register_buffer(name, torch.zeros(0))

    def standardise(self, features: Tensor) -> None:
        """Cosine similarity needs none."""

    def folded(self) -> dict[str, Tensor]:
        return dict(self.named_buffers())

    def load_folded(self, state: dict[str, Tensor]) -> None:
        for name, tensor in state.items():
            setattr(self, name, tensor.to(getattr(self, name).device))


class NeighbourHead(_StoredHead):
    """Votes of the k nearest support images by cosine, weighted by exp(cosine / temperature)."""

    names = ("features", "labels")
    features: Tensor
    labels: Tensor
    multilabel: Tensor

    def __init__(self, k: int, temperature: float) -> None:
        super().__init__()
        self.k, self.temperature = k, temperature

    def forward(self, features: Tensor) -> Tensor:
        cosine = F.normalize(features, dim=-1) @ F.normalize(self.features, dim=-1).T
        nearest, rows = cosine.topk(min(self.k, len(self.features)), dim=-1)
        weights = (nearest / self.temperature).softmax(-1)
        votes = (weights[..., None] * self.labels[rows]).sum(1).clamp(1e-4, 1 - 1e-4)
        return torch.logit(votes) if self.multilabel else votes.log()


class Neighbours(FeatureMethod):
    """k nearest neighbours (as DINO evaluates features: temperature 0.07)."""

    class Settings(MethodSettings):
        """k: neighbours that vote. temperature: of their weights."""

        k: int = Field(default=5, ge=1)
        temperature: float = Field(default=0.07, gt=0)

    name = "knn"
    summary = "votes of the nearest support images, by cosine"
    settings: Settings

    def make_head(self, width: int, classes: int) -> NeighbourHead:
        self.classes = classes
        return NeighbourHead(self.settings.k, self.settings.temperature)

    def fit_features(
        self, features: np.ndarray, targets: np.ndarray, groups: np.ndarray | None
    ) -> None:
        labels = targets if targets.ndim == 2 else np.eye(self.classes)[targets]
        self.head.load_folded(
            {
                "features": torch.as_tensor(features, dtype=torch.float32),
                "labels": torch.as_tensor(labels, dtype=torch.float32),
                "multilabel": torch.tensor(targets.ndim == 2),
            }
        )


class PrototypeHead(_StoredHead):
    """Cosine to the mean of each class, over a temperature; less that to the mean of the rest
    for labels that do not exclude each other."""

    names = ("positive", "negative")
    positive: Tensor
    negative: Tensor
    multilabel: Tensor

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, features: Tensor) -> Tensor:
        unit = F.normalize(features, dim=-1)
        cosine = unit @ F.normalize(self.positive, dim=-1).T
        if self.multilabel:
            cosine = cosine - unit @ F.normalize(self.negative, dim=-1).T
        return cosine / self.temperature


class Prototypes(FeatureMethod):
    """Nearest class mean (Snell et al. 2017), by cosine."""

    class Settings(MethodSettings):
        """temperature: by which cosines are divided."""

        temperature: float = Field(default=0.1, gt=0)

    name = "prototype"
    summary = "the nearest class mean, by cosine"
    settings: Settings

    def make_head(self, width: int, classes: int) -> PrototypeHead:
        self.classes = classes
        return PrototypeHead(self.settings.temperature)

    def fit_features(
        self, features: np.ndarray, targets: np.ndarray, groups: np.ndarray | None
    ) -> None:
        labels = targets if targets.ndim == 2 else np.eye(self.classes)[targets]
        unit = features / np.linalg.norm(features, axis=1, keepdims=True)
        means = {
            name: weights.T @ unit / np.maximum(1, weights.sum(axis=0))[:, None]
            for name, weights in (("positive", labels), ("negative", 1 - labels))
        }
        self.head.load_folded(
            {name: torch.as_tensor(mean, dtype=torch.float32) for name, mean in means.items()}
            | {"multilabel": torch.tensor(targets.ndim == 2)}
        )
