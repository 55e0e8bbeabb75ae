"""The classifier: scikit-learn's manners, repeatable to the bit, and the same after loading."""

from __future__ import annotations

import copy
import json
import pickle
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import BaggingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils import estimator_checks as checks

from medept import FewShotClassifier, InputError
from medept.classifier import restore
from medept.classifier.support import SupportSet
from medept.encoders.encoder import Encoder
from medept.encoders.load import load_encoder
from medept.methods import METHODS
from medept.phantoms import make_phantoms
from medept.training.cache import TensorCache
from medept.training.device import fast_bfloat16
from medept.training.views import Views


@pytest.fixture(scope="module")
def tiles() -> tuple[list[np.ndarray], np.ndarray]:
    data = make_phantoms("colon", patients=8, images_per_patient=1, size=64, difficulty=0.1)
    return [np.asarray(image) for image in data.images], data.labels


def quick(**changes: object) -> FewShotClassifier:
    """Few epochs, in float32 on every CPU: some are faster in bfloat16, which `auto` would take."""
    usual = {"method": "ept", "epochs": 2, "device": "cpu", "precision": "float32"}
    return FewShotClassifier(**(usual | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["linear", "ept"])
def test_a_seed_repeats_bit_for_bit_and_leaves_the_global_one_alone(tiles, method: str) -> None:
    images, labels = tiles
    torch.manual_seed(1)
    options = {"method": method, "calibrate": "none"}
    first = quick(**options, seed=3).fit(images, labels).decision_function(images)
    drawn = torch.rand(1)
    torch.manual_seed(2)
    second = quick(**options, seed=3).fit(images, labels).decision_function(images)
    other = quick(**options, seed=4).fit(images, labels).decision_function(images)
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1))


@pytest.mark.parametrize(
    ("method", "settings"), [("linear", None), ("ept", None), ("ept", {"way": "multiply_concat"})]
)
def test_saved_and_loaded_it_says_the_same(tiles, tmp_path: Path, method, settings) -> None:
    images, labels = tiles
    fitted = quick(method=method, settings=settings).fit(images, labels)
    fitted.save(tmp_path / "adapter")
    loaded = FewShotClassifier.load(tmp_path / "adapter", device="cpu", precision="float32")
    assert loaded.classes_.tolist() == ["normal", "tumour"]
    np.testing.assert_allclose(
        loaded.predict_proba(images), fitted.predict_proba(images), rtol=1e-4, atol=1e-6
    )
    assert loaded.predict(images).tolist() == fitted.predict(images).tolist()
    if settings is None:  # prompts merged: one number per token and layer
        assert (tmp_path / "adapter" / "adapter.safetensors").stat().st_size < 16_000


@pytest.mark.parametrize("asked", ["auto", "float32", "bfloat16"])
def test_the_adapter_says_what_it_was_computed_in(tiles, tmp_path: Path, asked: str) -> None:
    fitted = quick(method="prototype", precision=asked).fit(*tiles)
    found = "bfloat16" if fast_bfloat16("cpu") else "float32"
    assert fitted.info().precision == (found if asked == "auto" else asked)
    fitted.save(tmp_path)
    assert FewShotClassifier.load(tmp_path).info() == fitted.info()


@pytest.mark.parametrize("recipe", ["medept", "paper"])
@pytest.mark.parametrize("method", ["linear", "ept"])
def test_a_killed_fit_goes_on_to_the_same_weights(
    tiles, tmp_path: Path, method: str, recipe: str
) -> None:
    images, labels = tiles
    options = {"method": method, "recipe": recipe, "epochs": 6, "calibrate": "none"}
    whole = quick(**options).fit(images, labels).model_.trained_state()

    def killed(what: str, done: int, total: int) -> None:
        if what.startswith("training") and done == 5:
            raise KeyboardInterrupt

    file = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        quick(**options, progress=killed).fit(images, labels, checkpoint=file)
    assert file.exists()
    other = quick(**options, seed=9).fit(images, labels, checkpoint=tmp_path / "other")
    epochs: list[int] = []
    resumed = quick(
        **options, progress=lambda what, done, _: epochs.append(done) if "loss" in what else None
    ).fit(images, labels, checkpoint=file)
    assert epochs == [5, 6]  # the fifth epoch was not yet kept when it was killed
    assert [row["epoch"] for row in resumed.history_] == [1, 2, 3, 4, 5, 6]
    state = resumed.model_.trained_state()
    assert all(torch.equal(t, whole[name]) for name, t in state.items())
    assert not torch.equal(other.model_.trained_state()["head.weight"], whole["head.weight"])
    assert file.exists(), "to be removed when the adapter is saved"


@pytest.mark.parametrize("method", ["linear", "ept"])
def test_it_learns(method: str) -> None:
    """Reddish and greenish noise: learnt from twelve images, told apart on twelve new ones."""
    random = np.random.default_rng(0)
    labels = np.array(["red", "green"] * 12)
    images = [random.integers(0, 120, (64, 64, 3)).astype(np.uint8) for _ in labels]
    for image, label in zip(images, labels, strict=True):
        image[..., 0 if label == "red" else 1] += 100
    classifier = quick(method=method, epochs=15, calibrate="none").fit(images[:12], labels[:12])
    assert classifier.score(images[12:], labels[12:]) >= 0.9


def test_scikit_learn_takes_it(tiles) -> None:
    images, labels = tiles
    array = np.empty(len(images), dtype=object)
    array[:] = images
    classifier = quick(method="linear")
    assert clone(classifier).get_params() == classifier.get_params()
    scores = cross_val_score(classifier, array, labels, cv=2)
    assert scores.shape == (2,)
    assert np.isfinite(scores).all()


CONVENTIONS = [
    checks.check_no_attributes_set_in_init,
    checks.check_parameters_default_constructible,
    checks.check_get_params_invariance,
    checks.check_set_params,
    checks.check_estimator_cloneable,
    checks.check_estimator_repr,
    checks.check_estimator_tags_renamed,
    checks.check_valid_tag_types,
    checks.check_estimators_unfitted,
]
"""The checks of scikit-learn that feed no tables of numbers."""


@pytest.mark.parametrize("check", CONVENTIONS, ids=lambda check: check.__name__)
def test_conventions_of_scikit_learn(check) -> None:
    check("FewShotClassifier", FewShotClassifier())


def test_a_grid_search_over_methods(tiles) -> None:
    """Paths or images may come as a pandas column, whose slices keep their labels."""
    images, labels = tiles
    column = pd.Series(list(images), index=range(100, 100 + len(images)))
    search = GridSearchCV(quick(calibrate="none"), {"method": ["linear", "prototype"]}, cv=2)
    search.fit(column, pd.Series(labels))
    assert search.best_params_["method"] in ("linear", "prototype")
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.predict_proba(column).shape == (len(images), 2)


def test_every_part_of_a_recipe_can_be_set_and_is_kept(tiles, tmp_path: Path) -> None:
    images, labels = tiles
    parts = {"optimizer": "sgd", "weight_decay": 0.5, "crop_scale": 0.9, "views": 1,
             "standardise": False}  # fmt: skip
    fitted = quick(method="linear", lr=0.5, recipe_settings=parts).fit(images, labels)
    recipe = fitted.recipe_.model_dump()
    assert recipe | parts | {"lr": 0.5, "epochs": 2} == recipe
    fitted.save(tmp_path)
    loaded = FewShotClassifier.load(tmp_path, device="cpu", precision="float32")
    again = clone(loaded).fit(images, labels)
    assert again.recipe_ == fitted.recipe_
    np.testing.assert_array_equal(again.decision_function(images), fitted.decision_function(images))


def test_two_classes_have_one_decision_value(tiles) -> None:
    """scikit-learn's convention, which its scorers and its calibration count on."""
    images, labels = tiles
    fitted = quick(method="linear").fit(images, labels)
    logits, values = fitted.logits(images), fitted.decision_function(images)
    assert (logits.shape, values.shape) == ((len(images), 2), (len(images),))
    np.testing.assert_array_equal(values, logits[:, 1] - logits[:, 0])
    assert (fitted.classes_[(values > 0).astype(int)] == fitted.predict(images)).all()
    column = np.empty(len(images), dtype=object)
    column[:] = images
    scores = cross_val_score(quick(method="linear"), column, labels, cv=2, scoring="roc_auc")
    assert np.isfinite(scores).all()
    assert scores.mean() > 0.6
    calibrated = CalibratedClassifierCV(quick(method="linear"), cv=2).fit(column, labels)
    np.testing.assert_allclose(calibrated.predict_proba(column).sum(axis=1), 1)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_pickled_or_copied_it_says_the_same(tiles, method: str) -> None:
    images, labels = tiles
    fitted = quick(method=method, epochs=1, symmetry="flip").fit(images[:8], labels[:8])
    expected = fitted.predict_proba(images[:3])
    content = pickle.dumps(fitted)
    kept = sum(tensor.nbytes for tensor in fitted.fitted_[0].tensors().values())
    assert len(content) < 1.05 * kept + 20_000  # and nothing of what is frozen
    for other in (pickle.loads(content), copy.deepcopy(fitted)):
        np.testing.assert_allclose(other.predict_proba(images[:3]), expected, rtol=1e-4, atol=1e-6)
        assert other.classes_.tolist() == fitted.classes_.tolist()
    again = fitted.predict_proba(images[:3])
    np.testing.assert_array_equal(again, expected)


@pytest.mark.parametrize(
    "classes", [[0, 1], [-1, 7], [0.0, 1.0], [False, True], ["no", "yes"], ["0", "1"]]
)
@pytest.mark.parametrize("held", ["as they are", "as objects"])
def test_labels_keep_their_type(tiles, tmp_path: Path, classes: list, held: str) -> None:
    images, labels = tiles
    targets = np.asarray(classes)[(labels == labels[0]).astype(int)]
    given = targets.astype(object) if held == "as objects" else targets
    fitted = quick(method="prototype").fit(images, given)
    fitted.save(tmp_path)
    loaded = FewShotClassifier.load(tmp_path, device="cpu", precision="float32")
    assert loaded.classes_.dtype == fitted.classes_.dtype == targets.dtype
    assert loaded.classes_.tolist() == fitted.classes_.tolist() == classes
    assert not any(name.endswith(".0") for name in loaded.info().classes), "as tables have them"
    assert loaded.predict(images).tolist() == fitted.predict(images).tolist()
    assert loaded.score(images, targets) == fitted.score(images, targets) > 0.5


def test_a_fit_that_fails_leaves_nothing_fitted(tiles) -> None:
    """And one that is refused, or made for others, leaves all as it was."""
    images, labels = tiles
    fitted = quick(method="linear").fit(images, labels)
    before = fitted.predict_proba(images)
    with pytest.raises(InputError, match="labels were given"):
        fitted.fit(images[:-1], [f"other {name}" for name in labels])
    clone(fitted).fit(images, [f"other {name}" for name in labels])
    np.testing.assert_array_equal(fitted.predict_proba(images), before)
    assert set(fitted.predict(images)) <= set(labels)
    with pytest.raises(InputError, match="diverged"):
        fitted.set_params(lr=1e6, recipe="paper", epochs=30).fit(images, labels)
    with pytest.raises(NotFittedError):
        fitted.predict(images)


def test_images_are_prepared_as_they_were_when_it_was_fitted(
    tiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the library, or a model's folder, has come to say since."""
    images, labels = tiles
    fitted = quick(method="linear").fit(images, labels)
    fitted.save(tmp_path)
    load = restore.load_encoder

    def changed(*given: Any, **options: Any) -> Encoder:
        encoder = load(*given, **options)
        encoder.preprocessing = replace(
            encoder.preprocessing, mean=(0.0, 0.1, 0.2), resized=(300, 300)
        )
        return encoder

    monkeypatch.setattr(restore, "load_encoder", changed)
    loaded = FewShotClassifier.load(tmp_path, device="cpu", precision="float32")
    expected = fitted.predict_proba(images)
    np.testing.assert_allclose(loaded.predict_proba(images), expected, rtol=1e-4, atol=1e-6)
    assert loaded.info() == fitted.info()


def test_progress_may_be_of_an_object_that_cannot_be_copied(tiles) -> None:
    class Bar:
        def __init__(self) -> None:
            self.lock, self.seen = threading.Lock(), set()

        def report(self, what: str, done: int, total: int) -> None:
            with self.lock:
                self.seen.add(what.split(" (")[0])

    bar = Bar()
    quick(method="linear", progress=bar.report).fit(*tiles)
    assert {"training", "calibrating"} <= bar.seen


def test_threads_may_predict_at_once(tiles) -> None:
    """Modules are changed while they compute; each thread's numbers are still its own."""
    images, labels = tiles
    fitted = quick(method="ept").fit(images, labels)
    expected = fitted.logits(images)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: fitted.logits(images), range(8)):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(fitted.logits(images), expected)


def test_randomness_of_others_is_left_alone(tiles) -> None:
    images, labels = tiles
    quick(method="linear").fit(images[:4], labels[:4])  # what is imported on the way draws too
    torch.manual_seed(5)
    before = torch.default_generator.get_state()
    quick(method="ept", epochs=1).fit(images, labels)
    assert torch.equal(torch.default_generator.get_state(), before)


@pytest.mark.parametrize("method", ["probe", "knn", "prototype", "linear"])
def test_folds_and_trials_share_the_features_of_images_as_they_are(
    tiles, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    images, labels = tiles
    seen, evaluation_view = [], Views.evaluation_view

    def noting(self: Views, index: int) -> torch.Tensor:
        seen.append(int(self.indices[index]))
        return evaluation_view(self, index)

    monkeypatch.setattr(Views, "evaluation_view", noting)
    classifier = quick(method=method, tune=3).fit(images, labels)
    assert sorted(seen) == list(range(len(images))), "each is encoded once, whatever the folds"
    assert classifier.calibration_.kind == "temperature"


def test_random_weights_are_no_file_that_is_missed(tiles, tmp_path: Path) -> None:
    images, labels = tiles
    fitted = FewShotClassifier(
        "vit_tiny_patch16_224", "prototype", encoder_weights="random", image_size=32,
        calibrate="none", device="cpu", precision="float32",
    ).fit(images, labels)  # fmt: skip
    fitted.save(tmp_path)
    loaded = FewShotClassifier.load(tmp_path, device="cpu", precision="float32")
    np.testing.assert_array_equal(loaded.logits(images), fitted.logits(images))
    info = json.loads((tmp_path / "adapter.json").read_text()) | {"encoder_weights": "gone.st"}
    (tmp_path / "adapter.json").write_text(json.dumps(info))
    with pytest.raises(InputError, match="gone.st, are not there; say where they are"):
        FewShotClassifier.load(tmp_path)


def test_a_column_of_labels_is_classes(tiles) -> None:
    images, labels = tiles
    column = pd.DataFrame({"y": (labels == labels[0]).astype(int)})
    fitted = quick(method="prototype").fit(images, column)
    assert (fitted.task_, fitted.classes_.tolist()) == ("multiclass", [0, 1])


def test_what_was_pickled_does_not_go_onto_other_weights(tiles, monkeypatch) -> None:
    images, labels = tiles
    content = pickle.dumps(quick(method="linear").fit(images, labels))
    other = load_encoder("vit_tiny_patch16_224", weights="random", image_size=64)
    monkeypatch.setattr("medept.classifier.restore.load_encoder", lambda *_, **__: other)
    with pytest.raises(InputError, match="trained on other weights"):
        pickle.loads(content)


def test_a_table_of_images_is_one_column(tiles) -> None:
    images, labels = tiles
    column = pd.Series(images, name="image")
    fitted = quick(method="linear").fit(column.to_frame(), labels)
    np.testing.assert_array_equal(
        fitted.predict_proba(column.to_frame()), fitted.predict_proba(images)
    )
    with pytest.raises(InputError, match="its column of images alone"):
        fitted.predict(pd.DataFrame({"image": images, "label": labels}))


def test_paths_images_and_arrays_are_the_same(tiles, tmp_path: Path) -> None:
    images, labels = tiles
    paths = []
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
        paths.append(tmp_path / f"{i}.png")
    classifier = quick(method="linear").fit(paths, labels)
    expected = classifier.decision_function(images)
    assert np.array_equal(classifier.decision_function(paths), expected)
    pictures = [Image.fromarray(image) for image in images]
    assert np.array_equal(classifier.decision_function(pictures), expected)


def test_multi_label(tiles) -> None:
    images, _ = tiles
    targets = np.random.default_rng(0).integers(0, 2, (len(images), 3))
    classifier = quick().fit(images, targets, classes=["a", "b", "c"])
    probabilities = classifier.predict_proba(images)
    assert probabilities.shape == (len(images), 3)
    assert set(np.unique(classifier.predict(images))) <= {0, 1}
    assert (classifier.task_, classifier.classes_.tolist()) == ("multilabel", ["a", "b", "c"])


def test_embed_is_frozen_before_and_adapted_after(tiles) -> None:
    images, labels = tiles
    classifier = quick(encoder_lr=0.1)
    before = classifier.embed(images[:3])
    assert before.shape == (3, 192)
    after = classifier.fit(images, labels).embed(images[:3])
    assert np.abs(after - before).max() > 1e-3


def test_linear_on_cached_views_is_linear_on_views(tiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoding each view once changes nothing: the head sees the same numbers."""
    from medept.methods.base import AdaptedEncoder

    images, labels = tiles
    cached = quick(method="linear").fit(images, labels).decision_function(images)
    monkeypatch.setattr(AdaptedEncoder, "trains_encoder", True)
    uncached = quick(method="linear").fit(images, labels).decision_function(images)
    np.testing.assert_allclose(cached, uncached, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"epochs": 0}, "epochs"), ({"recipe": "secret"}, "medept, paper"), ({"lr": -1.0}, "lr"),
     ({"device": "tpu"}, "not available"), ({"precision": "int3"}, "float32"),
     ({"lr": 0.0}, "lr"), ({"seed": -1}, "seed"), ({"tune": -1}, "tune"),
     ({"calibrate": "magic"}, "temperature"), ({"recipe_settings": {"magic": 1}}, "not known"),
     ({"method": "magic"}, "linear"), ({"encoder": "vit_huge_secret"}, "medept encoders"),
     ({"encoder_weights": "x.safetensors"}, "leave encoder_weights= out")],
)  # fmt: skip
def test_clear_errors(tiles, changes: dict, message: str) -> None:
    images, labels = tiles
    with pytest.raises(InputError, match=message):
        quick(**changes).fit(images, labels)


def test_labels_that_leave_nothing_to_learn(tiles) -> None:
    images, labels = tiles
    with pytest.raises(InputError, match="at least two classes"):
        quick().fit(images, ["x"] * len(images))
    with pytest.raises(InputError, match="at least two classes"):
        quick().fit(images, ["x"] * len(images), classes=["x", "y"])
    with pytest.raises(InputError, match=r"label 1 .* is missing"):
        quick().fit(images, ["x", None, *["y"] * (len(images) - 2)])
    with pytest.raises(InputError, match="8 images but 3 labels"):
        quick().fit(images, labels[:3])
    with pytest.raises(InputError, match="0 or 1"):
        quick().fit(images, np.full((len(images), 2), 7))
    with pytest.raises(InputError, match="not among the classes"):
        quick().fit(images, labels, classes=["normal", "other"])
    with pytest.raises(InputError, match="2 columns of labels, but 3 classes"):
        quick().fit(images, np.eye(2)[[0, 1] * 4], classes=["a", "b", "c"])


def test_images_that_are_no_list_of_images(tiles) -> None:
    images, labels = tiles
    with pytest.raises(InputError, match=r"give a list of images, \[image\]"):
        quick().fit("tiles/a.png", labels)
    classifier = quick(method="linear").fit(images, labels)
    with pytest.raises(InputError, match="no images were given"):
        classifier.predict([])
    with pytest.raises(InputError, match="give a list of images"):
        classifier.predict(Image.fromarray(images[0]))
    assert len(classifier.predict(iter(images[:3]))) == 3


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", "b", np.nan, "a"], r"label 2 \(from 0\) is missing"),
        (["a", "b", None, "a"], r"label 2 \(from 0\) is missing"),
        ([0.0, 1.0, float("nan"), 0.0], r"label 2 \(from 0\) is missing"),
        ([0.0, 1.0, float("inf"), 0.0], "labels such as inf are measurements"),
        (np.array(["a", 1, "a", "b"], dtype=object), "some labels are text and some are not"),
        (pd.array(["a", "b", pd.NA, "a"]), r"label 2 \(from 0\) is missing"),
        ([0.5, 1.0, 2.0, 0.5], "labels such as 0.5 are measurements"),
        ([[1, 0], [1], [0, 1], [1, 1]], "labels of different lengths"),
    ],
)
def test_labels_that_cannot_be_used(tiles, labels, message: str) -> None:
    with pytest.raises(InputError, match=message):
        quick(method="linear").fit(tiles[0][:4], labels)


def test_an_image_given_twice_is_on_one_side_of_a_fold(tiles, monkeypatch, tmp_path) -> None:
    """As official lists do; by path or by pixels."""
    images, _ = tiles
    file = tmp_path / "image.png"
    Image.fromarray(images[0]).save(file)
    given = [file, file, *images[:6], *images[:6]]
    seen = []
    monkeypatch.setattr(
        "medept.classifier.fitting.make_folds",
        lambda targets, groups, *_: seen.append(groups) or [],
    )
    quick(method="prototype").fit(given, np.array(["a", "a", *["a", "b"] * 6]))
    assert seen[0].tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6]


def test_what_a_search_chose_is_what_is_fitted(tiles, monkeypatch) -> None:
    chosen = {"lr": 0.0123, "settings": {"rank": 4}}
    monkeypatch.setattr("medept.classifier.fitting.tune", lambda *_, **__: chosen)
    fitted = quick(method="lora", tune=3, epochs=1, calibrate="none").fit(*tiles)
    assert (fitted.recipe_.lr, fitted.model_.settings.rank) == (0.0123, 4)
    assert (fitted.info().recipe["lr"], fitted.info().settings["rank"]) == (0.0123, 4)


def test_a_fit_says_what_it_will_cost_and_what_it_took(tiles, caplog) -> None:
    caplog.set_level("INFO", "medept")
    quick(method="linear", tune=2, epochs=1, progress=lambda *_: None).fit(*tiles)
    said = [record.getMessage() for record in caplog.records]
    assert "2 trials of 3 folds first, and again for 3 folds; about" in said[0]
    assert re.fullmatch(
        r"fitted in \d+ s, with \d\.\d GB of memory at most.*, and 0\.0 GB of encoded views",
        said[-1],
    )


def test_an_image_that_was_replaced_is_not_gone_on_from(tiles, tmp_path: Path) -> None:
    images, labels = tiles
    file, state = tmp_path / "image.png", tmp_path / "state.safetensors"
    epochs: list[int] = []

    def fit() -> list[int]:
        epochs.clear()
        seen = lambda what, done, _: epochs.append(done) if "loss" in what else None  # noqa: E731
        given = [str(file), *images[1:]]
        quick(method="linear", calibrate="none", progress=seen).fit(given, labels, checkpoint=state)
        return list(epochs)

    Image.fromarray(images[0]).save(file)
    assert fit() == [2]
    assert fit() == []
    Image.fromarray(255 - images[0]).save(file)
    assert fit() == [2]
    file.unlink()
    with pytest.raises(InputError, match="image.png"):
        fit()


def test_spellings_of_a_group_are_one(tiles) -> None:
    images, labels = tiles
    groups = np.array(["L\u00e4 1", " La\u0308 1"] * 4, dtype=object)
    support = SupportSet.read(images, labels, groups, None, TensorCache())
    assert set(support.groups.tolist()) == {"L\u00e4 1"}


def test_labels_in_a_table_of_several_columns_keep_their_names(tiles) -> None:
    images, labels = tiles
    flags = pd.DataFrame({"tumour": labels == "tumour", "any ": 1}).astype(int)
    fitted = quick(method="prototype", calibrate="none", symmetry="none").fit(images, flags)
    assert fitted.classes_.tolist() == ["tumour", "any"]


def test_an_ensemble_of_scikit_learn_hands_images_on(tiles, tmp_path: Path) -> None:
    """It makes a table of objects (n, 1) of what it samples from."""
    images, labels = tiles
    paths = np.array([[str(tmp_path / f"{i}.png")] for i in range(len(images))], dtype=object)
    for image, (path,) in zip(images, paths, strict=True):
        Image.fromarray(image).save(path)
    one = quick(method="prototype", calibrate="none", symmetry="none")
    bagged = BaggingClassifier(one, n_estimators=2, random_state=0).fit(paths, labels)
    assert bagged.predict_proba(paths).shape == (8, 2)
    assert (one.fit(paths, labels).predict(paths) == one.predict([p for (p,) in paths])).all()
