"""Precision: bfloat16 where it was measured to be fast, and no worse where it is used."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from medept import FewShotClassifier
from medept.data.phantoms import make_phantoms
from medept.encoders import RANDOM, load_encoder
from medept.methods import METHODS, adapt
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


@pytest.mark.parametrize("name", METHODS)
def test_frozen_matrices_are_held_in_bfloat16_and_given_back(name: str) -> None:
    """Every method runs so, forward and backward; what it trains stays in float32."""
    encoder = load_encoder("vit_tiny_patch16_224", weights=RANDOM, image_size=32)
    model = adapt(encoder, name, 2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    accelerator = device.make_accelerator("cpu", "bfloat16")
    pixels = torch.randn(2, 3, 32, 32)
    with device.frozen_held(model, accelerator):
        for parameter in model.parameters():
            if parameter.requires_grad:
                assert parameter.dtype == torch.float32
        held = [p for p in encoder.parameters() if p.dtype == torch.bfloat16]
        assert held or name == "full"
        with accelerator.autocast():
            features = model.features(pixels)
        assert features.dtype == torch.float32
        trained = [p for group in model.parameter_groups().values() for p in group]
        if trained and model.trains_encoder:
            with accelerator.autocast():
                logits = model(pixels)
            assert logits.dtype == torch.float32
            logits.square().sum().backward()
            assert all(p.grad is not None for p in model.parameter_groups()["head"])
            assert all(p.grad.dtype == torch.float32 for p in trained if p.grad is not None)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
