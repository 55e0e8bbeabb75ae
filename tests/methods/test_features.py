"""Probe, neighbours and prototypes against scikit-learn and hand counts."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.exceptions import FitFailedWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from torch import nn

from medept import FewShotClassifier
from medept.encoders.encoder import Encoder
from medept.encoders.preprocessing import Preprocessing
from medept.methods import adapt
from medept.phantoms import make_phantoms

RANDOM = np.random.default_rng(0)
CENTRES = RANDOM.normal(size=(3, 48)) * 0.7
TARGETS = np.arange(60) % 3
FEATURES = (CENTRES[TARGETS] + RANDOM.normal(size=(60, 48))).astype(np.float32)
NEW = (CENTRES[TARGETS] + RANDOM.normal(size=(60, 48))).astype(np.float32)
LABELS = np.stack([TARGETS == 0, TARGETS != 2], axis=1).astype(np.uint8)


@pytest.fixture
def encoder(tiny_vit: nn.Module) -> Encoder:
    return Encoder(tiny_vit, "tiny", Preprocessing((32, 32), (0.5,) * 3, (0.5,) * 3))


def logits(model, features: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model.head(torch.from_numpy(features)).numpy()


def test_probe_equals_scikit_learn_where_it_cannot_cross_validate(encoder: Encoder) -> None:
    """One group a class: C is 1, and the folded head gives scikit-learn's own probabilities."""
    model = adapt(encoder, "probe", 3)
    model.fit_features(FEATURES, TARGETS, groups=TARGETS)
    mean, scale = FEATURES.mean(0), FEATURES.std(0) + 1e-3
    own = LogisticRegression(max_iter=2000).fit((FEATURES - mean) / scale, TARGETS)
    found = torch.from_numpy(logits(model, NEW)).softmax(-1).numpy()
    np.testing.assert_allclose(found, own.predict_proba((NEW - mean) / scale), atol=1e-4)


def test_probe_for_two_classes_and_for_labels(encoder: Encoder) -> None:
    two = TARGETS < 2
    model = adapt(encoder, "probe", 2)
    model.fit_features(FEATURES[two], TARGETS[two], groups=TARGETS[two])
    mean, scale = FEATURES[two].mean(0), FEATURES[two].std(0) + 1e-3
    own = LogisticRegression(max_iter=2000).fit((FEATURES[two] - mean) / scale, TARGETS[two])
    found = torch.from_numpy(logits(model, NEW[two])).softmax(-1).numpy()
    np.testing.assert_allclose(found, own.predict_proba((NEW[two] - mean) / scale), atol=1e-4)

    model = adapt(encoder, "probe", 3)
    constant = np.column_stack([LABELS, np.zeros(60, dtype=np.uint8)])
    model.fit_features(FEATURES, constant, groups=None)
    guess = logits(model, NEW) > 0
    assert (guess[:, :2] == LABELS).mean() > 0.85
    assert not guess[:, 2].any()


def test_probe_chooses_c_by_groups(encoder: Encoder) -> None:
    """Labels that only a group's own look explains: by groups, the strongest shrinkage wins."""
    groups = np.arange(60) // 6
    look = np.random.default_rng(1).normal(size=(10, 48))[groups].astype(np.float32)
    labels = np.array([0, 1, 1, 0, 1, 0, 0, 1, 0, 1])[groups]
    norms = {}
    for name, ids in (("grouped", groups), ("images", np.arange(60))):
        model = adapt(encoder, "probe", 2)
        model.fit_features(look + 0.1 * FEATURES, labels, ids)
        norms[name] = model.head.weight.norm().item()
    assert norms["grouped"] < norms["images"] / 2


def test_probe_chooses_c_where_folds_lack_a_class(encoder: Encoder) -> None:
    """Patients with several classes each: a fold without one of them must not spoil the choice."""
    random = np.random.default_rng(28)
    targets, groups = random.integers(0, 7, 42), random.integers(0, 12, 42)
    features = 2 * random.normal(size=(7, 48))[targets] + random.normal(size=(42, 48))
    model = adapt(encoder, "probe", 7)
    model.fit_features(features.astype(np.float32), targets, groups)
    probabilities = torch.from_numpy(logits(model, features.astype(np.float32))).softmax(-1)
    assert probabilities.max(dim=1).values.mean() > 0.8  # the strongest shrinkage gives 1/7


def test_probe_passes_over_folds_that_leave_one_class(encoder: Encoder) -> None:
    """Patients who have both classes: one of two folds has a single class to learn from."""
    groups = np.array([4, 2, 0, 0, 0, 2, 0, 2, 2, 2, 4, 4, 0, 0])
    labels = np.array([1, 0, 0, 0, 0, 1, 0, 1, 1, 1, 0, 0, 0, 0])
    parts = list(
        StratifiedGroupKFold(2, shuffle=True, random_state=0).split(labels, labels, groups)
    )
    assert [len(set(labels[learnt])) for learnt, _ in parts] == [2, 1]
    features = FEATURES[: len(labels)] + 3 * labels[:, None].astype(np.float32)
    model = adapt(encoder, "probe", 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FitFailedWarning)
        model.fit_features(features, labels, groups)
    found = torch.from_numpy(logits(model, features)).softmax(-1).numpy()[:, 1]
    assert (found > 0.5).tolist() == labels.astype(bool).tolist()
    assert min(found[labels == 1]) > 0.8, "it is not shrunk to nothing"


def test_neighbours_equal_scikit_learn(encoder: Encoder) -> None:
    model = adapt(encoder, "knn", 3, {"k": 7})
    model.fit_features(FEATURES, TARGETS, None)
    own = KNeighborsClassifier(7, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07)).fit(
        FEATURES, TARGETS
    )
    found = torch.from_numpy(logits(model, NEW)).softmax(-1).numpy()
    np.testing.assert_allclose(found, own.predict_proba(NEW), atol=1e-3)


def test_prototypes_equal_scikit_learn(encoder: Encoder) -> None:
    model = adapt(encoder, "prototype", 3)
    model.fit_features(FEATURES, TARGETS, None)

    def unit(x: np.ndarray) -> np.ndarray:
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    means = np.stack([unit(FEATURES)[c == TARGETS].mean(0) for c in range(3)])
    own = NearestCentroid().fit(unit(means), np.arange(3)).predict(unit(NEW))
    assert (logits(model, NEW).argmax(1) == own).all()


@pytest.mark.parametrize("name", ["probe", "knn", "prototype"])
@pytest.mark.parametrize("targets", [TARGETS, LABELS], ids=["classes", "labels"])
def test_kept_and_put_back(encoder: Encoder, name: str, targets: np.ndarray) -> None:
    classes = 3 if targets.ndim == 1 else 2
    model = adapt(encoder, name, classes)
    model.fit_features(FEATURES, targets, None)
    again = adapt(encoder, name, classes)
    again.load_trained_state({k: t.clone() for k, t in model.trained_state().items()})
    assert np.array_equal(logits(again, NEW), logits(model, NEW))


@pytest.mark.parametrize("name", ["probe", "knn", "prototype"])
def test_through_the_classifier(name: str, tmp_path: Path) -> None:
    data = make_phantoms("colon", patients=8, images_per_patient=2, size=64, difficulty=0.1)
    classifier = FewShotClassifier(method=name, device="cpu")
    classifier.fit(data.images, data.labels, groups=data.groups)
    classifier.save(tmp_path)
    loaded = FewShotClassifier.load(tmp_path, device="cpu")
    np.testing.assert_allclose(
        loaded.predict_proba(data.images), classifier.predict_proba(data.images), atol=1e-5
    )
