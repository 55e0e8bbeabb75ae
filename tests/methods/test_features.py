"""Methods fitted to features: against scikit-learn, saved, and through the classifier."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from clusters import FEATURES, LABELS, NEW, TARGETS, logits
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

from medept import FewShotClassifier
from medept.encoders.encoder import Encoder
from medept.methods import adapt
from medept.phantoms import make_phantoms


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
