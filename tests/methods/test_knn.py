"""k nearest neighbours against scikit-learn."""

from __future__ import annotations

import numpy as np
import torch
from clusters import FEATURES, NEW, TARGETS, logits
from sklearn.neighbors import KNeighborsClassifier

from medept.encoders.encoder import Encoder
from medept.methods import adapt


def test_neighbours_equal_scikit_learn(encoder: Encoder) -> None:
    model = adapt(encoder, "knn", 3, {"k": 7})
    model.fit_features(FEATURES, TARGETS, None)
    own = KNeighborsClassifier(7, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07)).fit(
        FEATURES, TARGETS
    )
    found = torch.from_numpy(logits(model, NEW)).softmax(-1).numpy()
    np.testing.assert_allclose(found, own.predict_proba(NEW), atol=1e-3)
