"""Precision: bfloat16 where it was measured to be fast, and no worse where it is used."""

from __future__ import annotations

import gc
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score

from medept import FewShotClassifier, InputError
from medept.encoders.encoder import LAYERS, Encoder
from medept.encoders.load import load_encoder
from medept.encoders.weights import RANDOM
from medept.methods import METHODS, adapt, trained_of
from medept.phantoms import make_phantoms
from medept.training import device
from medept.training.inference import predict_logits


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


def test_an_accelerator_keeps_its_precision_when_another_is_made() -> None:
    """Though accelerate has one for all; and when threads make them at once."""
    first = device.make_accelerator("cpu", "float32")
    second = device.make_accelerator("cpu", "bfloat16")
    assert [device.precision_of(one) for one in (first, second)] == ["float32", "bfloat16"]
    with first.autocast():
        assert not torch.is_autocast_enabled("cpu")
    with second.autocast():
        assert torch.is_autocast_enabled("cpu")
    interval, asked = sys.getswitchinterval(), ["float32", "bfloat16"] * 50
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            made = list(
                threads.map(lambda precision: device.make_accelerator("cpu", precision), asked)
            )
    finally:
        sys.setswitchinterval(interval)
    assert [device.precision_of(one) for one in made] == asked


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


def held_for(name: str) -> Encoder:
    """A small encoder, held in bfloat16 but for what the method trains of it."""
    encoder = small_encoder()
    encoder.cast_to_bfloat16(except_for=trained_of(encoder, name))
    return encoder


def small_encoder() -> Encoder:
    return load_encoder("vit_tiny_patch16_224", weights=RANDOM, image_size=32)


@pytest.mark.parametrize("name", METHODS)
def test_what_is_held_in_bfloat16_gives_what_autocast_gives(name: str) -> None:
    """To the bit, and backward; what is trained begins with the same values in float32, but for
    DoRA's magnitudes, which are those of the weights that are held."""
    models = []
    for encoder in (small_encoder(), held_for(name)):
        torch.manual_seed(1)
        models.append(adapt(encoder, name, 2))
    plain, held = models
    assert held.encoder_identity == plain.encoder_identity
    layers = [m for m in held.encoder.modules() if isinstance(m, LAYERS)]
    matrices = [m.weight for m in layers if not m.weight.requires_grad]
    assert all(weight.dtype == torch.bfloat16 for weight in matrices)
    assert matrices or name == "full"
    mine = held.inserted_state()
    for key, value in plain.inserted_state().items():
        close = {"rtol": 4e-3, "atol": 0} if "magnitude" in key else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(mine[key], value, **close)
        assert mine[key].dtype == torch.float32
    held.load_inserted_state(plain.inserted_state())
    pixels = torch.randn(2, 3, 32, 32)
    with torch.autocast("cpu"):
        expected = plain.features(pixels)
    features = held.features(pixels)  # it needs no autocast
    assert features.dtype == torch.float32
    assert torch.equal(features, expected)
    with torch.autocast("cpu"):
        assert torch.equal(held.features(pixels), expected)
    trained = [p for group in held.parameter_groups().values() for p in group]
    if trained and held.trains_encoder:
        logits = held(pixels)
        assert logits.dtype == torch.float32
        logits.square().sum().backward()
        assert all(p.grad is not None for p in held.parameter_groups()["head"])
        assert all(p.grad.dtype == torch.float32 for p in trained if p.grad is not None)
    held.remove()
    torch.testing.assert_close(
        held.encoder(pixels), held_for("linear")(pixels), rtol=0.02, atol=0.02
    )


def test_dora_begins_as_the_encoder_that_is_held() -> None:
    """Its magnitudes are the norms of rounded weights, in float32: divided by them they are one."""
    encoder, pixels = held_for("dora"), torch.randn(2, 3, 32, 32)
    before = encoder(pixels)
    torch.testing.assert_close(adapt(encoder, "dora", 2).features(pixels), before)


@pytest.mark.parametrize("name", ["full", "partial"])
def test_what_is_trained_is_not_to_be_held(name: str) -> None:
    encoder = held_for("linear")
    places = [p.data_ptr() for p in encoder.parameters()]
    with pytest.raises(InputError, match=f"'{name}' trains weights that are in bfloat16"):
        adapt(encoder, name, 2)
    assert [p.data_ptr() for p in encoder.parameters()] == places
    assert not any(p.requires_grad for p in encoder.parameters())


def test_a_twin_of_what_is_held_is_held_in_the_same_memory() -> None:
    encoder = held_for("linear")
    twin = encoder.copy_with_shared_weights()
    assert twin.in_bfloat16
    assert [p.data_ptr() for p in twin.parameters()] == [p.data_ptr() for p in encoder.parameters()]


SQUARES = [np.full((32, 32, 3), value, np.uint8) for value in (0, 10, 20, 200, 210, 220)]


def matrices(dtype: torch.dtype) -> int:
    """The memory of the encoder's large matrices that there are, in numbers; each counted once."""
    gc.collect()
    found = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() // tensor.itemsize
        for tensor in gc.get_objects()
        if type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.dtype == dtype
        and tensor.ndim == 2
        and tensor.numel() >= 192 * 192
    }
    return sum(found.values())


@pytest.mark.parametrize("method", ["ept", "lora", "partial"])
@pytest.mark.parametrize("loaded", [False, True])
def test_a_classifier_holds_frozen_matrices_once(
    method: str, loaded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16 alone, for the fit and those of its folds; and the same of what is loaded."""
    known = {dtype: matrices(dtype) for dtype in (torch.float32, torch.bfloat16)}
    most = dict.fromkeys(known, 0)

    def look(what: str, done: int, total: int) -> None:
        for dtype in known:
            most[dtype] = max(most[dtype], matrices(dtype) - known[dtype])

    def predicted(*args: Any, **kwargs: Any) -> Any:
        look("in a fold, beside the fit", 0, 1)
        return predict_logits(*args, **kwargs)

    monkeypatch.setattr("medept.classifier.fitting.predict_logits", predicted)
    usual = {"device": "cpu", "precision": "bfloat16", "progress": look}
    classifier = FewShotClassifier(
        "vit_tiny_patch16_224", method, encoder_weights=RANDOM, image_size=32, epochs=2, **usual
    )
    classifier.fit(SQUARES, ["a"] * 3 + ["b"] * 3)
    assert classifier.calibration_.kind == "temperature"
    expected = classifier.logits(SQUARES)
    block = 12 * 192 * 192
    if loaded:
        classifier.save(tmp_path)
        del classifier
        known, most = {dtype: matrices(dtype) for dtype in known}, dict.fromkeys(known, 0)
        classifier = FewShotClassifier.load(tmp_path, **usual)
        np.testing.assert_allclose(classifier.logits(SQUARES), expected, rtol=1e-3, atol=1e-4)
    trained = block if method == "partial" else 0
    assert most[torch.bfloat16] == 12 * block - trained
    # partial trains a copy of what it began with; in training with a gradient and two moments
    assert most[torch.float32] == (2 if loaded else 5) * trained


def test_more_precision_is_had_from_the_encoder_that_is_loaded_again() -> None:
    fitted = {}
    for precision in ("float32", "bfloat16"):
        fitted[precision] = FewShotClassifier(
            "vit_tiny_patch16_224", "linear", encoder_weights=RANDOM, image_size=32, epochs=2,
            calibrate="none", device="cpu", precision=precision,
        ).fit(SQUARES, ["a"] * 3 + ["b"] * 3)  # fmt: skip
    low, features = fitted["bfloat16"], fitted["float32"].embed(SQUARES)
    expected = low.decision_function(SQUARES)
    assert not np.array_equal(low.embed(SQUARES), features)
    low.set_params(precision="float32")
    state = torch.get_rng_state()
    np.testing.assert_array_equal(low.embed(SQUARES), features)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_allclose(low.decision_function(SQUARES), expected, atol=0.1)
    assert low.info().precision == "bfloat16"
    low.set_params(precision="bfloat16")
    np.testing.assert_allclose(low.decision_function(SQUARES), expected, rtol=1e-3, atol=1e-4)
    assert low.model_.encoder.in_bfloat16


def test_what_was_pickled_waits_for_a_device_that_is_there() -> None:
    fitted = FewShotClassifier(
        "vit_tiny_patch16_224", "lora", encoder_weights=RANDOM, image_size=32, epochs=1,
        calibrate="none", device="cpu", precision="bfloat16",
    ).fit(SQUARES, ["a"] * 3 + ["b"] * 3)  # fmt: skip
    expected = fitted.logits(SQUARES)
    again = pickle.loads(pickle.dumps(fitted.set_params(device="tpu")))
    with pytest.raises(InputError, match="'tpu' is not available"):
        again.logits(SQUARES)
    again.set_params(device="cpu")
    np.testing.assert_allclose(again.logits(SQUARES), expected, rtol=1e-3, atol=1e-4)


def test_a_search_may_choose_what_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the encoder's own parameters: they are not held in bfloat16 before."""
    pytest.importorskip("optuna")
    monkeypatch.setattr(METHODS["partial"], "search", {"k": (1, 2, 3)})
    tried: list[int] = []

    def noting(encoder: Encoder, name: str, classes: int, settings: dict[str, Any]) -> Any:
        model = adapt(encoder, name, classes, settings)
        tried.append(settings.get("k", 1))
        return model

    monkeypatch.setattr("medept.classifier.fitting.adapt", noting)
    FewShotClassifier(
        "vit_tiny_patch16_224", "partial", encoder_weights=RANDOM, image_size=32, epochs=1, tune=6,
        calibrate="none", device="cpu", precision="bfloat16",
    ).fit(SQUARES, ["a"] * 3 + ["b"] * 3)  # fmt: skip
    assert {1, 2, 3} == set(tried)
