"""Flips and quarter turns against NumPy's, and what predictions make of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from medept import FewShotClassifier
from medept.encoders.preprocessing import Preprocessing
from medept.encoders.symmetry import SYMMETRIES, Symmetry
from medept.errors import SettingsError
from medept.training.views import Views

IMAGE = np.arange(2 * 3 * 3).reshape(2, 3, 3)


def by_numpy(name: str) -> set[bytes]:
    turns = {"turns": range(4), "all": range(4), "flips": (0, 2)}.get(name, (0,))
    flips = (False,) if name in ("none", "turns") else (False, True)
    return {
        np.ascontiguousarray(np.rot90(IMAGE[..., ::-1] if f else IMAGE, k, (1, 2))).tobytes()
        for k in turns
        for f in flips
    }


@pytest.mark.parametrize("name", SYMMETRIES)
def test_views_are_those_of_numpy_each_once(name: str) -> None:
    views = [view.numpy() for view in Symmetry(name).views(torch.as_tensor(IMAGE))]
    assert np.array_equal(views[0], IMAGE), "the image itself comes first"
    found = [np.ascontiguousarray(view).tobytes() for view in views]
    assert set(found) == by_numpy(name)
    assert len(found) == len(set(found)) == len(Symmetry(name))


@pytest.mark.parametrize("name", SYMMETRIES)
def test_random_views_are_all_drawn_alike(name: str) -> None:
    symmetry, image = Symmetry(name), torch.as_tensor(IMAGE)
    count = len(symmetry)
    drawn = [symmetry.random((i + 0.5) / count, image).numpy().tobytes() for i in range(count)]
    assert set(drawn) == by_numpy(name)


@pytest.mark.parametrize(("name", "corners"), [("none", 1), ("flip", 2), ("flips", 4), ("all", 4)])
def test_training_draws_them(name: str, corners: int) -> None:
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:16, :16] = 255  # the upper left quarter
    square = Preprocessing(size=(32, 32), mean=(0.0,) * 3, std=(1.0,) * 3)
    views = Views([picture], square, symmetry=Symmetry(name), seed=3).random_views(0, 64)[:, 0]
    quarters = views.reshape(64, 2, 16, 2, 16).mean(dim=(2, 4)).flatten(1)
    assert len(set(quarters.argmax(dim=1).tolist())) == corners


@pytest.mark.parametrize("name", ["none", "flip", "flips", "turns", "all"])
def test_a_corner_view_is_the_upper_left_corner_of_the_turned_enlarged_image(name: str) -> None:
    rng = np.random.default_rng(1)
    picture = Image.fromarray(rng.integers(0, 255, (50, 50, 3), dtype=np.uint8))
    square = Preprocessing(size=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)
    symmetry = Symmetry(f"{name}+corners")
    prepared = symmetry.preparation(square)(picture)
    assert prepared.shape == (5, 3, 32, 32)
    large = replace(square, size=(40, 40)).evaluation()(picture)
    expected = [
        *Symmetry(name).views(square.evaluation()(picture)),
        *(view[:, :32, :32] for view in Symmetry(name).views(large)),
    ]
    found = list(symmetry.views(prepared))
    assert len(found) == len(expected) == len(symmetry)
    as_bytes = sorted(view.contiguous().numpy().tobytes() for view in expected)
    assert sorted(view.contiguous().numpy().tobytes() for view in found) == as_bytes
    assert torch.equal(found[0], square.evaluation()(picture)), "the image itself comes first"
    batch = list(symmetry.views(torch.stack([prepared, prepared.flip(0)])))
    assert torch.equal(batch[-1][0], found[-1])


def test_another_name_and_turns_of_a_rectangle_are_refused() -> None:
    with pytest.raises(SettingsError, match="use one of none"):
        Symmetry("mirror")
    Symmetry("flips").check((32, 64))
    for name in ("turns", "all"):
        with pytest.raises(SettingsError, match="square"):
            Symmetry(name).check((32, 64))


@pytest.mark.parametrize("symmetry", ["all", "all+corners"])
@pytest.mark.parametrize("method", ["ridge", "ept"])
def test_a_prediction_does_not_change_when_the_image_is_turned(method: str, symmetry: str) -> None:
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 255, (8, 64, 64, 3), dtype=np.uint8))
    usual = {"method": method, "device": "cpu", "precision": "float32", "calibrate": "none"}
    epochs = {} if method == "ridge" else {"epochs": 2}
    fitted = FewShotClassifier(symmetry=symmetry, **usual, **epochs).fit(images, ["a", "b"] * 4)
    turned = [np.ascontiguousarray(np.rot90(image)) for image in images]
    rounding = 0.02 if "corners" in symmetry else 1e-4  # enlarged pixels are rounded to 8 bits
    np.testing.assert_allclose(fitted.logits(turned), fitted.logits(images), atol=rounding)
    fitted.set_params(tta=1)
    assert abs(fitted.logits(turned) - fitted.logits(images)).max() > 1e-3


def test_logits_are_those_of_the_mean_features_and_survive_saving(tmp_path) -> None:
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 255, (8, 64, 64, 3), dtype=np.uint8))
    usual = {"device": "cpu", "precision": "float32"}
    fitted = FewShotClassifier(symmetry="flips+corners", tta=3, **usual).fit(images, ["a", "b"] * 4)
    features = fitted.embed(images)
    expected = fitted.predict_proba(images)
    np.testing.assert_allclose(fitted.predict_proba_of_features(features), expected, atol=1e-5)
    fitted.save(tmp_path)
    loaded = FewShotClassifier.load(tmp_path, **usual)
    assert (loaded.symmetry, loaded.tta, loaded.readout) == ("flips+corners", 3, "class+std:all")
    np.testing.assert_allclose(loaded.predict_proba(images), expected, atol=1e-5)
