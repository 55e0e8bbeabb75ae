"""Class means against scikit-learn."""

from __future__ import annotations

import numpy as np
from clusters import FEATURES, NEW, TARGETS, logits
from sklearn.neighbors import NearestCentroid

from medept.encoders.encoder import Encoder
from medept.methods import adapt


def test_prototypes_equal_scikit_learn(encoder: Encoder) -> None:
    model = adapt(encoder, "prototype", 3)
    model.fit_features(FEATURES, TARGETS, None)

    def unit(x: np.ndarray) -> np.ndarray:
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    means = np.stack([unit(FEATURES)[c == TARGETS].mean(0) for c in range(3)])
    own = NearestCentroid().fit(unit(means), np.arange(3)).predict(unit(NEW))
    assert (logits(model, NEW).argmax(1) == own).all()
