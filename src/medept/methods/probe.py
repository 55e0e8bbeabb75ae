"""Logistic regression on frozen features, by scikit-learn."""

from __future__ import annotations

import numpy as np
import torch

from medept.methods.features import FeatureMethod


class Probe(FeatureMethod):
    """Logistic regression; C chosen by cross-validated log-loss over groups in the support set.

    C is one of seven values from 1e-4 to 100. Five folds, or as many as the rarest class has
    groups, less those that leave a single class to learn from; without any, C = 1.
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
    splitter = StratifiedGroupKFold(min(5, fewest), shuffle=True, random_state=0)
    split = splitter.split(features, labels, groups)
    folds = [rows for rows in split if len(set(labels[rows[0]].tolist())) > 1]
    if not folds:  # few patients: each fold leaves a single class to learn from
        return model.fit(features, labels)
    search = GridSearchCV(model, {"C": np.logspace(-4, 2, 7)}, scoring=_log_likelihood, cv=folds)
    return search.fit(features, labels).best_estimator_


def _log_likelihood(model, features: np.ndarray, labels: np.ndarray) -> float:  # type: ignore[no-untyped-def]
    """Mean over the images of classes that the model has met: patients who have several classes
    may leave one without an image to learn from, or to be scored on."""
    met = np.isin(labels, model.classes_)
    if not met.any():
        return 0.0
    columns = np.searchsorted(model.classes_, labels[met])
    chosen = model.predict_proba(features[met])[np.arange(met.sum()), columns]
    return float(np.log(chosen.clip(np.finfo(float).tiny)).mean())
