"""Precision: bfloat16 where it was measured to be fast, and no worse where it is used."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score

from medept import FewShotClassifier, InputError
from medept.data.phantoms import make_phantoms
from medept.loading import RANDOM, load_encoder
from medept.methods import METHODS, adapt
from medept.training import device


@pytest.mark.parametrize(("fast", "mixed"), [(True, "bf16"), (False, "no")])
def test_auto_takes_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, fast: bool, mixed: str
) -> None:
    monkeypatch.setattr(device, "fast_bfloat16", lambda kind: fast)
    assert device.make_accelerator("cpu", "auto").mixed_precision == mixed
    assert device.make_accelerator("cpu", "float32").mixed_precision == "no"


@pytest.mark.parametrize(("gain", "fast"), [(2.0, True), (1.2, False)])
def test_fast_is_half_as_fast_again(
    monkeypatch: pytest.MonkeyPatch, gain: float, fast: bool
) -> None:
    """By a clock that a product moves on, in bfloat16 by less."""
    clock = [0.0]

    def product(tokens: torch.Tensor, weight: torch.Tensor) -> None:
        clock[0] += 1.0 if tokens.dtype == torch.float32 else 1 / gain

    monkeypatch.setattr(torch.nn.functional, "linear", product)
    monkeypatch.setattr(device.time, "perf_counter", lambda: clock[0])
    assert device.fast_bfloat16.__wrapped__("cpu") == fast


def test_the_device_asked_for_is_taken_whatever_was_used_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from accelerate.state import PartialState

    assert device.make_accelerator("cpu", "float32").device.type == "cpu"
    forgotten = []
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(PartialState, "_reset_state", lambda: forgotten.append(True))
    device.make_accelerator("mps", "float32")
    device.make_accelerator("auto", "float32")
    assert len(forgotten) == (1 if torch.cuda.is_available() else 2)


@pytest.mark.parametrize("name", ["cuda:1", "cpu:0", "tpu"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"'{name}' is not available here: use one of auto, cpu"):
        device.make_accelerator(name)


@pytest.mark.slow
def test_bfloat16_is_as_good_as_float32() -> None:
    """Its metrics differ by less than those of one support set and seed from another's."""
    data = make_phantoms("colon", patients=40, images_per_patient=1, size=48, difficulty=0.6)
    test = data.subset(np.arange(16, 40))
    found: dict[str, list[list[float]]] = {"float32": [], "bfloat16": []}
    for precision, rows in found.items():
        for seed in range(5):
            support = data.subset(np.random.default_rng(seed).permutation(16)[:10])
            classifier = FewShotClassifier(
                epochs=4,
                image_size=32,
                seed=seed,
                device="cpu",
                precision=precision,
                calibrate="none",
            )
            classifier.fit(support.images, support.labels, classes=data.classes)
            probabilities = classifier.predict_proba(test.images)
            rows.append([
                roc_auc_score(test.targets, probabilities[:, 1]),
                balanced_accuracy_score(test.targets, probabilities.argmax(1)),
                log_loss(test.targets, probabilities),
            ])  # fmt: skip
    plain, low = (np.array(rows) for rows in found.values())
    spread = plain.std(axis=0, ddof=1)
    assert (spread > 0).all()
    assert (abs((low - plain).mean(axis=0)) <= spread).all()


@pytest.mark.parametrize("name", METHODS)
def test_frozen_matrices_are_held_in_bfloat16_and_given_back(name: str) -> None:
    """Every method runs so, forward and backward, and gives what autocast gives; what it trains
    stays in float32."""
    encoder = load_encoder("vit_tiny_patch16_224", weights=RANDOM, image_size=32)
    model = adapt(encoder, name, 2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    accelerator = device.make_accelerator("cpu", "bfloat16")
    pixels = torch.randn(2, 3, 32, 32)
    with accelerator.autocast():
        expected = model.features(pixels)
    with device.frozen_held(model, accelerator):
        for parameter in model.parameters():
            if parameter.requires_grad:
                assert parameter.dtype == torch.float32
        held = [p for p in encoder.parameters() if p.dtype == torch.bfloat16]
        assert held or name == "full"
        with accelerator.autocast():
            features = model.features(pixels)
        assert features.dtype == torch.float32
        assert torch.equal(features, expected)
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
