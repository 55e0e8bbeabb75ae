"""Methods fitted to features: saved and loaded, and through the classifier."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from clusters import FEATURES, LABELS, NEW, TARGETS, logits

from medept import FewShotClassifier
from medept.encoders.encoder import Encoder
from medept.methods import adapt
from medept.phantoms import make_phantoms


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
