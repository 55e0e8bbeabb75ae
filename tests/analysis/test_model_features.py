"""The features and probabilities of a model are those that it gives itself."""

from __future__ import annotations

import numpy as np
import pytest

from medept import FewShotClassifier
from medept.analysis.model_features import extract_features
from medept.phantoms import make_phantoms


@pytest.mark.parametrize("frozen", [False, True])
def test_features_are_those_that_the_model_itself_gives(frozen: bool) -> None:
    """Prompts that are not trained act all the same."""
    data = make_phantoms("colon", patients=6, images_per_patient=2, size=64)
    settings = {"length": 20, "init": "kaiming", "frozen": frozen}
    model = FewShotClassifier(
        method="ept", settings=settings, epochs=1, device="cpu", precision="float32"
    )
    model.fit(data.images, data.labels)
    plain, tuned = extract_features([model], ["it"], data)
    np.testing.assert_allclose(tuned.features, model.embed(data.images), rtol=1e-5)
    np.testing.assert_allclose(tuned.probabilities, model.predict_proba(data.images), rtol=1e-4)
    assert abs(tuned.features - plain.features).max() > 1e-3
