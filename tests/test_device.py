"""Precision: bfloat16 where it was measured to be fast, and no worse where it is used."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medept import FewShotClassifier
from medept.data.phantoms import make_phantoms
from medept.training import device


@pytest.mark.parametrize(("fast", "mixed"), [(True, "bf16"), (False, "no")])
def test_auto_takes_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, fast: bool, mixed: str
) -> None:
    monkeypatch.setattr(device, "fast_bfloat16", lambda: fast)
    assert device.make_accelerator("cpu", "auto").mixed_precision == mixed
    assert device.make_accelerator("cpu", "float32").mixed_precision == "no"


def test_bfloat16_is_as_good_as_float32() -> None:
    """Its AUROC differs by less than one support set's differs from another's."""
    data = make_phantoms("colon", patients=24, images_per_patient=1, size=48)
    rest, found = np.arange(12, 24), {}
    for precision in ("float32", "bfloat16"):
        for seed in range(3):
            rows = np.random.default_rng(seed).permutation(12)[:8]
            support = data.subset(rows)
            classifier = FewShotClassifier(
                epochs=4, seed=seed, device="cpu", precision=precision, calibrate="none"
            )
            classifier.fit(support.images, support.labels, classes=data.classes)
            test = data.subset(rest)
            score = classifier.predict_proba(test.images)[:, 1]
            found[precision, seed] = roc_auc_score(test.targets, score)
    plain = np.array([found["float32", seed] for seed in range(3)])
    low = np.array([found["bfloat16", seed] for seed in range(3)])
    assert abs(low.mean() - plain.mean()) <= max(plain.std(ddof=1), 0.05)
