"""Methods are compared fairly: the same views, order, budget and trials."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from medept import FewShotClassifier
from medept.methods import METHODS
from medept.phantoms import make_phantoms
from medept.training import loop
from medept.training.recipes import make_recipe


@pytest.mark.parametrize(("recipe", "views"), [("medept", [0, 1, 0]), ("paper", [0, 1, 2])])
def test_every_method_trains_on_the_same_views_in_the_same_order(
    recipe: str, views: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[int, list[int]]] = []
    original = loop._Trainer._read

    def noting(trainer: loop._Trainer, view: int, rows: Any) -> Any:
        steps.append((view, rows.tolist()))
        return original(trainer, view, rows)

    monkeypatch.setattr(loop._Trainer, "_read", noting)
    data = make_phantoms("colon", patients=4, images_per_patient=2, size=64)
    asked = {}
    for method in (name for name, kind in METHODS.items() if kind.rates):
        steps.clear()
        FewShotClassifier(
            method=method, image_size=32, recipe=recipe, epochs=3, batch_size=4, calibrate="none",
            seed=5, recipe_settings={"views": len(set(views))},
        ).fit(data.images, data.labels)  # fmt: skip
        asked[method] = list(steps)
    assert all(steps == asked["linear"] for steps in asked.values())
    assert [view for view, _ in asked["linear"]] == [view for view in views for _ in range(2)]
    assert all(len(rows) == 4 for _, rows in asked["linear"])


def test_a_method_that_is_not_let_learn_is_linear() -> None:
    """Whatever is trained inside the encoder, the head is trained alike."""
    data = make_phantoms("colon", patients=4, images_per_patient=2, size=64)

    def curve(method: str, **settings: Any) -> list[float]:
        classifier = FewShotClassifier(
            method=method, image_size=32, epochs=6, calibrate="none", precision="float32",
            recipe_settings=settings,
        ).fit(data.images, data.labels)  # fmt: skip
        return [row["loss"] for row in classifier.history_]

    still = curve("bias", encoder_lr=1e-12)
    assert still == pytest.approx(curve("linear"), rel=1e-4)
    assert curve("bias") != pytest.approx(still, rel=1e-4)


@pytest.mark.parametrize("recipe", ["medept", "paper"])
def test_every_method_has_the_same_budget(recipe: str) -> None:
    budget = ("epochs", "head_first", "batch_size", "views", "crop_scale", "standardise")
    found = {
        tuple(getattr(make_recipe(recipe, method), name) for name in budget) for method in METHODS
    }
    assert len(found) == 1


@pytest.mark.parametrize("method", ["linear", "ept"])
def test_every_method_has_the_same_number_of_trials(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    trials = []
    data = make_phantoms("colon", patients=6, images_per_patient=1, size=64)
    classifier = FewShotClassifier(
        method=method, tune=3, epochs=1, image_size=32, calibrate="none",
        progress=lambda what, done, total: trials.append((what, done, total)),
    )  # fmt: skip
    monkeypatch.setattr(
        "medept.classifier.fitting.held_out_logits",
        lambda spec, support, found, rows, held_out: np.zeros((len(held_out), 2)),
    )  # fmt: skip
    classifier.fit(data.images, data.labels, groups=data.groups)
    assert [t for t in trials if t[0] == "tuning"] == [("tuning", i, 3) for i in range(4)]
