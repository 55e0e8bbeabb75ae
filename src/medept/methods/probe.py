"""Logistic regression on frozen features, by scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from medept.methods.features import FeatureMethod, is_multilabel


class Probe(FeatureMethod):
    """Logistic regression, with C chosen by the log-loss of cross-validation in the support set.

    C is one of seven values from 1e-4 to 100. Folds keep groups together. There are five, or as
    many as the rarest class has groups; folds that leave a single class to learn from are left
    out, and without any fold C is 1.
    """

    name = "probe"
    summary = "logistic regression on frozen features, C chosen by cross-validation"

    def fit_features(
        self, features: np.ndarray, targets: np.ndarray, groups: np.ndarray | None
    ) -> None:
        groups = np.arange(len(features)) if groups is None else groups
        mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-3
        standard = (features - mean) / scale
        if is_multilabel(targets):
            rows = [_binary(standard, column, groups) for column in targets.T]
            weight, bias = np.stack([r[0] for r in rows]), np.array([r[1] for r in rows])
        else:
            weight, bias = _multiclass(standard, targets, groups, self.classes)
        weight = weight / scale
        self.head.load_folded(
            {
                "weight": torch.as_tensor(weight, dtype=torch.float32),
                "bias": torch.as_tensor(bias - weight @ mean, dtype=torch.float32),
            }
        )


def _binary(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, float]:
    """Weight (D,) and bias of one label.

    A label that is the same for all images has weight 0. Its bias is the log-odds, as if there were
    one more image, half with the label and half without.
    """
    if len(set(labels.tolist())) < 2:
        frequency = (labels.sum() + 0.5) / (len(labels) + 1)
        return np.zeros(features.shape[1]), np.log(frequency / (1 - frequency))
    model = _logistic_regression(features, labels, groups)
    return model.coef_[0], model.intercept_[0]


def _multiclass(
    features: np.ndarray, targets: np.ndarray, groups: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Weight (C, D) and bias (C,); a class that has no image is as good as ruled out."""
    model = _logistic_regression(features, targets, groups)
    coefficients, intercepts = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # one row, the second class's: half for each
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    weight, bias = np.zeros((classes, features.shape[1])), np.full(classes, -30.0)
    weight[model.classes_], bias[model.classes_] = coefficients, intercepts
    return weight, bias


def _logistic_regression(features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> Any:
    """scikit-learn's, fitted with the best C."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold

    fewest = min(len(set(groups[labels == label])) for label in set(labels.tolist()))
    model = LogisticRegression(max_iter=2000)
    if fewest < 2:
        return model.fit(features, labels)
    splitter = StratifiedGroupKFold(min(5, fewest), shuffle=True, random_state=0)
    split = splitter.split(features, labels, groups)
    folds = [rows for rows in split if len(set(labels[rows[0]].tolist())) > 1]
    if not folds:  # few groups: every fold leaves a single class to learn from
        return model.fit(features, labels)
    search = GridSearchCV(model, {"C": np.logspace(-4, 2, 7)}, scoring=_log_likelihood, cv=folds)
    return search.fit(features, labels).best_estimator_


def _log_likelihood(model: Any, features: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the images whose class the model was fitted with, 0 if there are none.

    Where a group has several classes, a fold may have no image of a class to fit or to score.
    """
    known = np.isin(labels, model.classes_)
    if not known.any():
        return 0.0
    columns = np.searchsorted(model.classes_, labels[known])
    chosen = model.predict_proba(features[known])[np.arange(known.sum()), columns]
    return float(np.log(chosen.clip(np.finfo(float).tiny)).mean())
