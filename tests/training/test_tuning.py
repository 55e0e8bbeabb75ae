"""The search over settings: inside the support set, over groups, never worse than the defaults."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medept import FewShotClassifier, InputError
from medept.classifier import fitting
from medept.classifier.fitting import held_out_logits
from medept.errors import DataError, EncoderError, ResourceError, SettingsError
from medept.phantoms import make_phantoms
from medept.training.checkpoint import remove_checkpoint
from medept.training.recipes import Recipe
from medept.training.tuning import SearchSpace, tune
from medept.workflows.fit import fit_episode

pytest.importorskip("optuna")
TARGETS = np.arange(24) % 2
GROUPS = np.arange(24) // 2 // 2  # two images of each class in each group


def test_it_finds_the_better_rate_and_keeps_groups_together() -> None:
    seen: list[dict] = []

    def fit_and_score(parameters: dict, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        assert not set(GROUPS[train]) & set(GROUPS[test])
        seen.append(parameters)
        strength = -abs(np.log(parameters["lr"] / 1e-2))  # best at 1e-2
        return np.where(np.eye(2)[TARGETS[test]] > 0, strength, 0.0) + 3

    best = tune(fit_and_score, SearchSpace("lora", "medept", {}, {}), TARGETS, GROUPS, trials=15,
                seed=0, progress=lambda *_: None)  # fmt: skip
    assert seen[0]["lr"] == pytest.approx(3e-3)  # the defaults come first, settings among them
    assert seen[0]["encoder_lr"] == pytest.approx(5e-4)
    assert all(parameters["settings"] == {"rank": 8} for parameters in seen[:3])
    assert len({parameters["settings"]["rank"] for parameters in seen}) > 2
    assert abs(np.log(best["lr"] / 1e-2)) < abs(np.log(3e-3 / 1e-2))
    assert best["settings"]["rank"] in (1, 4, 8, 32, 64)


def test_a_class_with_one_shot_cannot_be_tuned() -> None:
    with pytest.raises(InputError, match="at least two shots"):
        tune(lambda *_: np.zeros((1, 2)), SearchSpace("linear", "medept", {}, {}),
             np.array([0, 0, 1]), np.arange(3), trials=1, seed=0,
             progress=lambda *_: None)  # fmt: skip


@pytest.mark.parametrize(
    ("method", "changes", "settings", "searched"),
    [("linear", {}, {}, {"lr"}), ("mlp-2", {}, {}, {"lr"}), ("probe", {}, {}, set()),
     ("knn", {}, {}, {"k", "temperature"}), ("knn-3", {}, {}, {"temperature"}),
     ("prototype", {}, {}, {"temperature"}), ("lora", {}, {}, {"lr", "encoder_lr", "rank"}),
     ("lora", {"lr": 0.1, "views": 4}, {"rank": 3}, {"encoder_lr"}),
     ("vpt", {}, {}, {"lr", "encoder_lr", "length"})],
)  # fmt: skip
def test_what_is_searched_over(method: str, changes: dict, settings: dict, searched: set) -> None:
    """What the method has, and what is not given."""
    assert SearchSpace(method, "medept", changes, settings).default.keys() == searched


def test_settings_that_do_not_go_together_are_passed_over() -> None:
    seen: list[dict] = []

    def fit_and_score(parameters: dict, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        seen.append(parameters["settings"])
        return np.zeros((len(test), 2))

    space = SearchSpace("ept", "medept", {}, {"way": "multiply_concat"})
    tune(fit_and_score, space, TARGETS, GROUPS, trials=12, seed=0, progress=lambda *_: None)
    assert len(seen) > 3
    assert not any(s["collapsed"] or s["init"] == "identity" for s in seen)


def test_a_trial_that_diverges_is_passed_over_but_not_the_defaults() -> None:
    seen: list[float] = []

    def fit_and_score(parameters: dict, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        seen.append(parameters["lr"])
        if parameters["lr"] > least:
            raise SettingsError("training diverged")
        return np.zeros((len(test), 2))

    space, least = SearchSpace("linear", "medept", {}, {}), 3e-3
    options = {"trials": 12, "seed": 0, "progress": lambda *_: None}
    best = tune(fit_and_score, space, TARGETS, GROUPS, **options)
    assert best["lr"] <= least < max(seen)
    least = 1e-9
    with pytest.raises(InputError, match="diverged"):
        tune(fit_and_score, space, TARGETS, GROUPS, **options)


@pytest.mark.parametrize("fault", [DataError, EncoderError, ResourceError])
def test_a_full_disk_is_no_bad_setting(fault: type[InputError]) -> None:
    calls: list[float] = []

    def fit_and_score(parameters: dict, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        calls.append(parameters["lr"])
        if len(set(calls)) > 1:  # the second trial, when the first one has gone well
            raise fault("the disk is full")
        return np.zeros((len(test), 2))

    space = SearchSpace("linear", "medept", {}, {})
    options = {"trials": 3, "seed": 0, "progress": lambda *_: None}
    with pytest.raises(fault, match="full"):
        tune(fit_and_score, space, TARGETS, GROUPS, **options)


def test_patients_stay_together_inside_the_folds_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe of a fold chooses its C over patients, as that of the whole support set does."""
    from medept.methods import METHODS

    data = make_phantoms("colon", patients=8, images_per_patient=2, size=64, difficulty=0.1)
    assert data.groups is not None
    seen, fit_features = [], METHODS["probe"].fit_features

    def remember(self, features, targets, groups):
        seen.append(groups)
        return fit_features(self, features, targets, groups)

    monkeypatch.setattr(METHODS["probe"], "fit_features", remember)
    classifier = FewShotClassifier(method="probe", device="cpu", precision="float32")
    classifier.fit(data.images, data.labels, groups=data.groups)
    assert seen[0].tolist() == data.groups.tolist()
    folds = [set(groups) for groups in seen[1:]]
    assert len(folds) == 3
    assert all(fold < set(data.groups) for fold in folds)
    with pytest.raises(InputError, match=r"groups of shape \(3,\) for 16 images"):
        classifier.fit(data.images, data.labels, groups=data.groups[:3])


def test_the_test_set_changes_nothing() -> None:
    """Other images and labels to be tested on: the same settings chosen, the same weights."""
    data = make_phantoms("colon", patients=8, images_per_patient=1, size=64, difficulty=0.1)
    splits = np.array(["train"] * 6 + ["test"] * 2)
    data = replace(data, splits=splits)
    images = [*data.images[:6], *(np.zeros((64, 64, 3), np.uint8),) * 2]
    targets = np.concatenate([data.targets[:6], 1 - data.targets[6:]])
    states, recipes = [], []
    for version in (data, replace(data, images=images, targets=targets)):
        classifier = FewShotClassifier(
            "test_vit", "linear", encoder_weights="random", image_size=32, epochs=1, tune=3,
            calibrate="none", device="cpu",
        )  # fmt: skip
        support, test = fit_episode(version, classifier, None)
        assert (len(support), len(test)) == (6, 2)
        states.append(classifier.model_.trained_state())
        recipes.append(classifier.recipe_)
    assert recipes[0] == recipes[1]
    assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0])


def test_through_the_classifier_what_is_given_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_phantoms("colon", patients=6, images_per_patient=1, size=64, difficulty=0.1)
    tried: list[tuple[float, float]] = []
    train = fitting.train

    def noting(
        model: Any, views: Any, targets: Any, recipe: Recipe, *rest: Any, **given: Any
    ) -> Any:
        tried.append((recipe.lr, recipe.encoder_lr))
        return train(model, views, targets, recipe, *rest, **given)

    monkeypatch.setattr(fitting, "train", noting)
    fitted = FewShotClassifier(method="bias", epochs=1, lr=0.02, tune=3, device="cpu",
                               precision="float32", calibrate="none")  # fmt: skip
    fitted.fit(data.images, data.labels, groups=data.groups)
    assert {lr for lr, _ in tried} == {fitted.recipe_.lr} == {0.02}
    searched = {encoder_lr for _, encoder_lr in tried[:-1]}
    assert len(searched) == 3, "one for each trial, the same in its folds"
    assert fitted.recipe_.encoder_lr == tried[-1][1] in searched


def test_a_killed_search_goes_on_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_phantoms("colon", patients=6, images_per_patient=1, size=64, difficulty=0.1)
    file, trials = tmp_path / "state.safetensors", tmp_path / "state.trials.json"

    def fit(stop_at: int | None, checkpoint: Path | None) -> tuple[FewShotClassifier, list[int]]:
        folds: list[int] = []

        def watched(*arguments: Any) -> np.ndarray:
            if len(folds) == stop_at:
                raise KeyboardInterrupt
            folds.append(1)
            return held_out_logits(*arguments)

        monkeypatch.setattr(fitting, "held_out_logits", watched)
        classifier = FewShotClassifier(
            "test_vit", "lora", encoder_weights="random", image_size=32, epochs=1, tune=4,
            calibrate="none", device="cpu",
        )  # fmt: skip
        with suppress(KeyboardInterrupt):
            classifier.fit(data.images, data.labels, checkpoint=checkpoint)
        return classifier, folds

    whole, folds = fit(None, None)
    assert len(folds) == 4 * 3
    fit(7, file)  # in the third trial
    assert len(json.loads(trials.read_text())["losses"]) == 2
    resumed, folds = fit(None, file)
    assert len(folds) == 2 * 3
    assert resumed.recipe_ == whole.recipe_
    state = resumed.model_.trained_state()
    assert all(torch.equal(state[k], t) for k, t in whole.model_.trained_state().items())
    remove_checkpoint(file)
    assert list(tmp_path.iterdir()) == []
