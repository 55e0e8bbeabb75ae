"""A classifier holds frozen matrices once, in the precision it computes in, whatever is asked."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medept import FewShotClassifier, InputError
from medept.encoders.encoder import Encoder
from medept.encoders.weights import RANDOM
from medept.methods import METHODS, adapt
from medept.training.inference import encode_images

SQUARES = [np.full((32, 32, 3), value, np.uint8) for value in (0, 10, 20, 200, 210, 220)]


TYPES = (torch.float32, torch.bfloat16)


@pytest.fixture
def only_new_objects() -> Iterator[None]:
    """The garbage collector does not look at what is there already: it takes long."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def matrices() -> dict[torch.dtype, int]:
    """Memory of the encoder's large matrices, in numbers, by type; each matrix is counted once."""
    gc.collect()
    found = {
        (tensor.dtype, tensor.untyped_storage().data_ptr()): (
            tensor.untyped_storage().nbytes() // tensor.itemsize
        )
        for tensor in gc.get_objects()
        if type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.dtype in TYPES
        and tensor.ndim == 2
        and tensor.numel() >= 192 * 192
    }
    return {kind: sum(n for (dtype, _), n in found.items() if dtype == kind) for kind in TYPES}


@pytest.mark.usefixtures("only_new_objects")
@pytest.mark.parametrize("method", ["ept", "lora", "partial"])
@pytest.mark.parametrize("loaded", [False, True])
def test_a_classifier_holds_frozen_matrices_once(
    method: str, loaded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16 alone, for the fit and those of its folds; and the same of what is loaded."""
    known, most = matrices(), dict.fromkeys(TYPES, 0)

    def look(what: str, done: int, total: int) -> None:
        for dtype, now in matrices().items():
            most[dtype] = max(most[dtype], now - known[dtype])

    def encoded(*args: Any, **kwargs: Any) -> Any:
        look("in a fold, beside the fit", 0, 1)
        return encode_images(*args, **kwargs)

    monkeypatch.setattr("medept.classifier.fitting.encode_images", encoded)
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
        known, most = matrices(), dict.fromkeys(TYPES, 0)
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

    def noting(
        encoder: Encoder, name: str, classes: int, settings: dict[str, Any], pool: str
    ) -> Any:
        model = adapt(encoder, name, classes, settings, pool)
        tried.append(settings.get("k", 1))
        return model

    monkeypatch.setattr("medept.classifier.fitting.adapt", noting)
    FewShotClassifier(
        "vit_tiny_patch16_224", "partial", encoder_weights=RANDOM, image_size=32, epochs=1, tune=6,
        calibrate="none", device="cpu", precision="bfloat16",
    ).fit(SQUARES, ["a"] * 3 + ["b"] * 3)  # fmt: skip
    assert {1, 2, 3} == set(tried)
