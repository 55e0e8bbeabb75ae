"""Several encoders in one fit: the mean of what each would say by itself."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from medept import FewShotClassifier, InputError, load_encoder
from medept.classifier.several import pair_weights

RNG = np.random.default_rng(0)
IMAGES = list(RNG.integers(0, 255, (6, 64, 64, 3), dtype=np.uint8))
LABELS = np.array(["a", "b"] * 3)
USUAL = {"device": "cpu", "precision": "float32"}
FLIPPED = {**USUAL, "symmetry": "flip"}  # of two views: quicker than the sixteen of the default
NAMES = ["embedded", "test_vit"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "test_vit.safetensors"
    save_file(load_encoder("test_vit", weights="random").model.state_dict(), file)
    return file


@pytest.fixture(scope="module")
def fitted(weights: Path) -> FewShotClassifier:
    return FewShotClassifier(NAMES, encoder_weights=weights, **FLIPPED).fit(IMAGES, LABELS)


def test_probabilities_are_the_mean_of_each_alone(fitted, weights: Path) -> None:
    alone = [
        FewShotClassifier(name, encoder_weights=file, **FLIPPED).fit(IMAGES, LABELS)
        for name, file in zip(NAMES, [None, weights], strict=True)
    ]
    expected = np.mean([one.predict_proba(IMAGES) for one in alone], axis=0)
    np.testing.assert_allclose(fitted.predict_proba(IMAGES), expected, rtol=1e-5)
    softmax = np.exp(fitted.logits(IMAGES))
    np.testing.assert_allclose(softmax / softmax.sum(axis=1, keepdims=True), expected, rtol=1e-5)
    features = fitted.embed(IMAGES)
    assert features.shape == (6, sum(one.embed(IMAGES).shape[1] for one in alone))
    np.testing.assert_allclose(fitted.predict_proba_of_features(features), expected, rtol=1e-4)
    assert fitted.predict(IMAGES).tolist() == fitted.classes_[expected.argmax(axis=1)].tolist()


def test_all_leave_the_same_unreadable_images_out(fitted) -> None:
    mixed = ["none-1.png", *IMAGES[:3], "none-2.png", *IMAGES[3:]]
    unreadable: dict[int, InputError] = {}
    found = fitted.predict_cases(mixed, unreadable=unreadable)
    np.testing.assert_allclose(found.probabilities, fitted.predict_proba(IMAGES), atol=1e-6)
    missing = "no such image; check the path"
    told = {row: str(error) for row, error in unreadable.items()}
    assert told == {0: f"none-1.png: {missing}", 4: f"none-2.png: {missing}"}
    with pytest.raises(InputError, match="none of the 2 images can be read"):
        fitted.predict_cases([mixed[0], mixed[4]], unreadable={})


def test_saved_loaded_and_pickled_it_says_the_same(fitted, weights, tmp_path: Path) -> None:
    expected = fitted.predict_proba(IMAGES)
    fitted.save(tmp_path)
    loaded = FewShotClassifier.load(tmp_path, **USUAL)
    assert loaded.encoder == NAMES
    np.testing.assert_allclose(loaded.predict_proba(IMAGES), expected, rtol=1e-5)
    again = pickle.loads(pickle.dumps(loaded))
    np.testing.assert_allclose(again.predict_proba(IMAGES), expected, rtol=1e-5)
    assert [one.encoder.name for one in [loaded.info(), *loaded.info().others]] == NAMES


def test_fewer_views_are_averaged_over_where_that_is_asked_for(fitted, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    loaded = FewShotClassifier.load(tmp_path, **USUAL)
    every = loaded.predict_proba(IMAGES)
    one = loaded.set_params(tta=1).predict_proba(IMAGES)
    assert abs(one - every).max() > 1e-4
    np.testing.assert_array_equal(loaded.set_params(tta=None).predict_proba(IMAGES), every)


def test_a_fit_of_one_encoder_forgets_the_fit_of_several(weights: Path) -> None:
    classifier = FewShotClassifier(NAMES, encoder_weights=weights, **FLIPPED).fit(IMAGES, LABELS)
    classifier.set_params(encoder="embedded", encoder_weights=None).fit(IMAGES, LABELS)
    alone = FewShotClassifier(**FLIPPED).fit(IMAGES, LABELS)
    np.testing.assert_array_equal(classifier.predict_proba(IMAGES), alone.predict_proba(IMAGES))
    assert classifier.info().others == []


def test_an_image_size_is_that_of_the_encoder_beside_the_embedded_one(
    weights: Path, tmp_path: Path
) -> None:
    usual = {"encoder_weights": weights, "image_size": 80, **FLIPPED}
    both = FewShotClassifier(NAMES, **usual).fit(IMAGES, LABELS)
    infos = [both.info(), *both.info().others]
    assert [info.encoder.preprocessing.size[0] for info in infos] == [64, 80]
    both.save(tmp_path)
    assert FewShotClassifier.load(tmp_path, **USUAL).image_size == 80


def test_each_encoder_is_verified(fitted, tmp_path: Path) -> None:
    fitted.save(tmp_path / "adapter")
    other = load_encoder("test_vit", weights="random").model.state_dict()
    other = {name: tensor + 1 for name, tensor in other.items()}
    save_file(other, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="other weights of 'test_vit'"):
        FewShotClassifier.load(
            tmp_path / "adapter", encoder_weights=tmp_path / "other.safetensors", **USUAL
        )


@pytest.mark.parametrize(
    ("encoders", "weights", "message"),
    [
        (["embedded", "embedded"], None, "each encoder once"),
        (["a", "b"], ["one"], "give one for each"),
        (["a"], ["one", "two"], "give one for each"),
        ([], None, "one encoder at least"),
    ],
)
def test_what_does_not_go_together_is_refused(encoders, weights, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pair_weights(encoders, weights)


def test_weights_are_paired_in_order() -> None:
    assert pair_weights(["a", "embedded", "b"], ["1", "2"]) == [
        ("a", "1"), ("embedded", None), ("b", "2"),
    ]  # fmt: skip
    assert pair_weights(["a", "b"], None) == [("a", None), ("b", None)]
