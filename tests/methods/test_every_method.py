"""Every method through the classifier: both libraries, both tasks, saved, killed, tuned."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from adapting import TRAINED
from safetensors.torch import load_file, save_file
from sklearn.base import clone

from medept import FewShotClassifier
from medept.analysis.model_features import extract_features
from medept.data.labelled_images import LabelledImages
from medept.encoders.load import load_encoder
from medept.methods import METHODS

RANDOM = np.random.default_rng(0)
IMAGES = [RANDOM.integers(0, 255, (32, 32, 3)).astype(np.uint8) for _ in range(8)]
TARGETS = {
    "classes": np.array(["a", "b"] * 4),
    "labels": np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0], [0, 0, 1]] * 2),
}


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """Small encoders as the classifier is told of them: real architectures, random weights."""
    folder = tmp_path_factory.mktemp("encoders")
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=0)
    save_file(model.state_dict(), folder / "timm.safetensors")
    found = {
        "timm": {
            "encoder": "test_vit",
            "encoder_weights": folder / "timm.safetensors",
            "image_size": 32,
        }
    }
    try:
        import transformers
    except ImportError:
        return found
    config = transformers.ViTConfig(
        hidden_size=48, num_hidden_layers=3, num_attention_heads=3, intermediate_size=96,
        image_size=32, patch_size=8,
    )  # fmt: skip
    transformers.ViTModel(config).save_pretrained(folder / "vit")
    size = {"height": 32, "width": 32}
    transformers.ViTImageProcessor(size=size).save_pretrained(folder / "vit")
    return found | {"transformers": {"encoder": f"transformers:{folder / 'vit'}"}}


def make(encoders: dict[str, dict], library: str, method: str, **options: object):  # type: ignore[no-untyped-def]
    if library not in encoders:
        pytest.skip(f"needs {library}")
    defaults = {"epochs": 4, "batch_size": 3, "device": "cpu", "precision": "float32"}
    options = defaults | {"calibrate": "none"} | options
    return FewShotClassifier(method=method, **encoders[library], **options)


@pytest.mark.parametrize("task", TARGETS)
@pytest.mark.parametrize("library", ["timm", "transformers"])
@pytest.mark.parametrize("method", METHODS)
def test_fitted_saved_and_loaded(
    encoders: dict[str, dict],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    method: str,
    library: str,
    task: str,
) -> None:
    caplog.set_level(logging.INFO, "medept")
    said: list[bool] = []
    classifier = make(
        encoders, library, method,
        progress=lambda what, *_: said.append("trained parameters" in caplog.text),
    )  # fmt: skip
    classifier.fit(IMAGES, TARGETS[task])
    model = classifier.model_
    count = model.trainable_count()
    assert all(said)
    assert said
    assert f"{count:,} trained parameters" in caplog.text
    parts = [row["trained"] for row in classifier.history_]
    if model.trains_encoder:
        assert parts == 2 * ["head"] + 2 * ["all"]
    else:
        assert parts == (4 * ["head"] if method in TRAINED else [])

    classifier.save(tmp_path)
    kept = load_file(tmp_path / "adapter.safetensors")
    assert kept.keys() == model.trained_state().keys()
    if method in TRAINED and method != "ept":  # whose prompts are kept merged
        assert sum(tensor.numel() for tensor in kept.values()) == count
    loaded = FewShotClassifier.load(tmp_path, device="cpu", precision="float32")
    expected = classifier.predict_proba(IMAGES)
    assert expected.shape == (8, 2 if task == "classes" else 3)
    np.testing.assert_allclose(loaded.predict_proba(IMAGES), expected, rtol=1e-3, atol=1e-5)

    model.remove()
    fresh = load_encoder(
        classifier.encoder,
        weights=classifier.encoder_weights,
        image_size=classifier.image_size,
    ).state_dict()
    left = model.encoder.state_dict()
    assert left.keys() == fresh.keys()
    assert all(torch.equal(left[name], tensor) for name, tensor in fresh.items())


@pytest.mark.parametrize("method", TRAINED)
def test_killed_and_taken_up_again_it_ends_at_the_same_weights(
    encoders: dict[str, dict], tmp_path: Path, method: str
) -> None:
    def killed(what: str, done: int, total: int) -> None:
        if what.startswith("training") and done == 4:
            raise KeyboardInterrupt

    whole = make(encoders, "timm", method).fit(IMAGES, TARGETS["classes"])
    file = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        make(encoders, "timm", method, progress=killed).fit(
            IMAGES, TARGETS["classes"], checkpoint=file
        )
    assert file.exists()
    epochs: list[int] = []
    seen = lambda what, done, _: epochs.append(done) if "loss" in what else None  # noqa: E731
    resumed = make(encoders, "timm", method, progress=seen).fit(
        IMAGES, TARGETS["classes"], checkpoint=file
    )
    assert epochs == [4]

    def curve(fitted: FewShotClassifier) -> list[tuple]:
        return [(row["trained"], row["epoch"], row["loss"]) for row in fitted.history_]

    assert [epoch for _, epoch, _ in curve(resumed)] == [1, 2, 3, 4]
    assert curve(resumed) == curve(whole)
    state = resumed.model_.trained_state()
    assert all(torch.equal(state[k], t) for k, t in whole.model_.trained_state().items())


@pytest.mark.parametrize("method", METHODS)
def test_tuned(encoders: dict[str, dict], method: str) -> None:
    pytest.importorskip("optuna")
    classifier = make(encoders, "timm", method, epochs=1, tune=2)
    classifier.fit(IMAGES, TARGETS["classes"], groups=np.arange(8) // 2)
    settings = classifier.model_.settings.model_dump()
    for name, choices in METHODS[method].search.items():
        assert settings[name] in choices
    assert classifier.predict_proba(IMAGES).shape == (8, 2)


def test_the_optimiser_can_be_chosen(encoders: dict[str, dict]) -> None:
    classifier = make(encoders, "timm", "vpt", recipe_settings={"optimizer": "sgd"}, epochs=1)
    assert classifier.fit(IMAGES, TARGETS["classes"]).recipe_.optimizer == "sgd"


def test_an_adapter_of_transformers_is_copied_and_fitted_again(
    encoders: dict[str, dict], tmp_path: Path
) -> None:
    """Though its encoder takes images of one size only."""
    fitted = make(encoders, "transformers", "linear").fit(IMAGES, TARGETS["classes"])
    fitted.save(tmp_path)
    loaded = FewShotClassifier.load(tmp_path, device="cpu", precision="float32")
    twin = pickle.loads(pickle.dumps(loaded))
    np.testing.assert_array_equal(twin.logits(IMAGES), loaded.logits(IMAGES))
    again = clone(loaded).fit(IMAGES, TARGETS["classes"])
    np.testing.assert_allclose(again.logits(IMAGES), fitted.logits(IMAGES), rtol=1e-4, atol=1e-5)
    (look, *_) = extract_features([loaded], ["here"], LabelledImages(
        tuple(IMAGES), tuple("abcdefgh"), np.arange(8) % 2, ("a", "b")))  # fmt: skip
    assert look.features.shape == (8, 48)
