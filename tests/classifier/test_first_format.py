"""An adapter that the first version of medept wrote still predicts what it did then."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medept import FewShotClassifier
from medept.fits.adapter import read_info

FOLDER = Path(__file__).parent / "first_format"
IMAGES = list(np.random.default_rng(0).integers(0, 256, (6, 64, 90, 3), dtype=np.uint8))
PRINTED = [0.538828160703815, 0.5377223706866281, 0.4807959482505994, 0.48812528564212615,
           0.43563551145318546, 0.44727617244368845]  # fmt: skip
"""The probabilities of class ``a`` that it printed."""


def test_it_predicts_what_it_did() -> None:
    classifier = FewShotClassifier.load(FOLDER, device="cpu", precision="float32")
    np.testing.assert_allclose(classifier.predict_proba(IMAGES)[:, 0], PRINTED, atol=1e-5)
    assert (classifier.info().symmetry, classifier.info().tta) == ("flip", 1)


@pytest.mark.parametrize(("kept", "resized"), [(1.0, None), (0.875, (73, 73))])
def test_the_part_that_a_crop_keeps_is_read_as_a_size(tmp_path: Path, kept, resized) -> None:
    """As timm computes it: 64 / 0.875 = 73.1."""
    content = json.loads((FOLDER / "adapter.json").read_text())
    content["encoder"]["preprocessing"]["crop_pct"] = kept
    (tmp_path / "adapter.json").write_text(json.dumps(content))
    assert read_info(tmp_path).encoder.preprocessing.resized == resized
