"""What a crop leaves out is said: once by a fit, once by a prediction, with the remedy."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from medept import FewShotClassifier, load_encoder
from medept.training.cropped import warn_of_cropping


def wide(count: int = 6) -> tuple[list[np.ndarray], list[int]]:
    """Grey pictures of 90 x 160, on which a lesion is at a side that a crop cuts off."""
    images, labels = [], [i % 2 for i in range(count)]
    for i, label in enumerate(labels):
        pixels = np.random.default_rng(i).integers(90, 130, (90, 160, 3), np.uint8)
        if label:
            pixels[30:54, 2:26] = (200, 40, 40)
        images.append(pixels)
    return images, labels


def quick(**options: object) -> FewShotClassifier:
    fixed = {"calibrate": "none", "device": "cpu", "precision": "float32", "tta": 1}
    return FewShotClassifier(symmetry="none", **(fixed | options))


def messages(caught: list[warnings.WarningMessage]) -> list[str]:
    return [str(one.message) for one in caught if "cut off" in str(one.message)]


def test_a_fit_and_a_prediction_say_it_once(tmp_path: Path) -> None:
    images, labels = wide()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted = quick().fit(images, labels)
        fitted.predict(images)
        fitted.predict(images)
    (said,) = messages(caught)
    assert "43 % of their area is cut off" in said
    assert "fit_image=squeeze" in said
    fitted.save(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = FewShotClassifier.load(tmp_path, device="cpu", precision="float32")
        loaded.predict(images)
        loaded.embed(images)
    assert len(messages(caught)) == 1


@pytest.mark.parametrize("fit_image", ["squeeze", "pad"])
def test_the_whole_of_wide_images_is_seen_if_asked_for(fit_image: str, tmp_path: Path) -> None:
    images, labels = wide(16)
    fitted = quick(fit_image=fit_image)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted.fit(images[:8], labels[:8]).save(tmp_path)
        assert fitted.score(images[8:], labels[8:]) == 1.0
    assert not messages(caught)
    assert fitted.info().fit_image == fit_image
    loaded = FewShotClassifier.load(tmp_path, device="cpu", precision="float32")
    assert loaded.fit_image == fit_image
    assert loaded.model_.encoder.preprocessing == fitted.model_.encoder.preprocessing
    np.testing.assert_array_equal(loaded.predict(images), fitted.predict(images))


def test_what_is_hardly_cut_is_not_said() -> None:
    encoder = load_encoder()
    assert not warn_of_cropping([np.zeros((64, 70, 3), np.uint8)] * 3, encoder)
    assert not warn_of_cropping(["not-there.png"], encoder)
    with pytest.warns(UserWarning, match="11 %"):
        assert warn_of_cropping([np.zeros((64, 72, 3), np.uint8)] * 3, encoder)
