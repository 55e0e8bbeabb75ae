"""The search over settings: inside the support set, over groups, never worse than the defaults."""

from __future__ import annotations

import numpy as np
import pytest

from medept import FewShotClassifier, InputError
from medept.data.phantoms import make_phantoms
from medept.training.tuning import tune

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

    best = tune(fit_and_score, "lora", "medept", TARGETS, GROUPS, trials=15, seed=0,
                progress=lambda *_: None)  # fmt: skip
    assert seen[0]["lr"] == pytest.approx(3e-3)  # the default comes first
    assert abs(np.log(best["lr"] / 1e-2)) < abs(np.log(3e-3 / 1e-2))
    assert best["settings"]["rank"] in (1, 4, 8, 32, 64)


def test_a_class_with_one_shot_cannot_be_tuned() -> None:
    with pytest.raises(InputError, match="at least two shots"):
        tune(lambda *_: np.zeros((1, 2)), "linear", "medept", np.array([0, 0, 1]), np.arange(3),
             trials=1, seed=0, progress=lambda *_: None)  # fmt: skip


def test_through_the_classifier_what_is_given_stays() -> None:
    data = make_phantoms("colon", patients=6, images_per_patient=1, size=64, difficulty=0.1)
    classifier = FewShotClassifier(method="linear", epochs=1, lr=0.02, tune=2, device="cpu")
    classifier.fit(data.images, data.labels, groups=data.groups)
    assert classifier.recipe_.lr == 0.02
    assert classifier.recipe_.encoder_lr != 0
