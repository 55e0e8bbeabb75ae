"""Closed-form heads against their formulas, written out in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from medept.encoders.load import load_encoder
from medept.methods import adapt
from medept.methods.lda import discriminants

RNG = np.random.default_rng(0)
TARGETS = np.repeat([0, 1, 2], [3, 5, 9])
FEATURES = RNG.normal(size=(17, 192)) + 0.5 * np.eye(192)[TARGETS]
LABELS = np.stack([TARGETS == 0, TARGETS > 0], axis=1).astype(int)


def logits(method: str, targets: np.ndarray, classes: int) -> np.ndarray:
    model = adapt(load_encoder(), method, classes)
    model.fit_features(FEATURES, targets, None)
    state = model.head.folded()
    return FEATURES @ state["weight"].double().numpy().T + state["bias"].double().numpy()


def ridge(indicators: np.ndarray) -> np.ndarray:
    """min sum_i w_i |y_i - W x_i - b|^2 + a |W|^2, by its normal equations."""
    w = (indicators / indicators.sum(axis=0)).sum(axis=1)
    w /= w.sum()
    x, y = FEATURES - w @ FEATURES, indicators - w @ indicators
    a = 0.2 * (w @ (x**2).sum(axis=1)) / len(x)
    weight = np.linalg.solve(
        x.T @ (w[:, None] * x) + a * np.eye(x.shape[1]), x.T @ (w[:, None] * y)
    )
    return x @ weight + w @ indicators


def test_ridge_solves_its_normal_equations() -> None:
    found = logits("ridge", TARGETS, 3)
    np.testing.assert_allclose(found, ridge(np.eye(3)[TARGETS]) / 0.25, rtol=1e-4, atol=1e-4)
    labels = logits("ridge", LABELS, 2)
    for c in range(2):
        each = ridge(np.eye(2)[LABELS[:, c]]) / 0.25
        np.testing.assert_allclose(labels[:, c], each[:, 1] - each[:, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("repeats", [1, 20])
def test_lda_is_the_log_density_of_its_gaussians(repeats: int) -> None:
    """Up to a factor; with fewer samples than features, and with more."""
    rng = np.random.default_rng(1)
    targets = np.tile(TARGETS, repeats)
    features = rng.normal(size=(len(targets), 192)) + 0.5 * np.eye(192)[targets]
    means = np.stack([features[targets == c].mean(axis=0) for c in range(3)])
    around = features - means[targets]
    within = around.T @ around / len(around)
    within = 0.7 * within + 0.3 * np.trace(within) / 192 * np.eye(192)
    offsets = features[:, None] - means
    density = -0.5 * np.einsum("ncd,de,nce->nc", offsets, np.linalg.inv(within), offsets)
    weight, bias = discriminants(features, targets, 3, 0.3)
    found = features @ weight.T + bias
    found, density = (x - x.mean(axis=1, keepdims=True) for x in (found, density))
    factor = (found * density).sum() / (density**2).sum()
    np.testing.assert_allclose(found, factor * density, atol=1e-6 * abs(found).max())
    at_means = means @ weight.T + bias
    ahead = at_means.diagonal() - (at_means.sum(axis=1) - at_means.diagonal()) / 2
    np.testing.assert_allclose(ahead.mean(), 4)


@pytest.mark.parametrize("method", ["ridge", "lda"])
def test_a_class_weighs_the_same_whatever_its_number_of_images(method: str) -> None:
    model = adapt(load_encoder(), method, 3)
    rows = np.concatenate([np.flatnonzero(TARGETS == 0).repeat(4), np.flatnonzero(TARGETS > 0)])
    model.fit_features(FEATURES[rows], TARGETS[rows], None)
    state = model.head.folded()
    again = FEATURES @ state["weight"].double().numpy().T + state["bias"].double().numpy()
    assert (again.argmax(axis=1) == logits(method, TARGETS, 3).argmax(axis=1)).mean() > 0.9


@pytest.mark.parametrize("method", ["ridge", "lda"])
def test_a_class_without_images_is_never_chosen(method: str) -> None:
    assert (
        logits(method, TARGETS, 4)[:, 3].max() < logits(method, TARGETS, 4)[:, :3].max(axis=1).min()
    )
    constant = logits(method, np.zeros((17, 1), int), 1)
    assert np.isfinite(constant).all()
