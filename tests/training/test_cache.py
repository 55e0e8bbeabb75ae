"""What is computed once is shared: between epochs, folds, trials and seeds of one fit."""

from __future__ import annotations

import shutil
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small_encoders import IMAGES, PREPROCESSING, TARGETS, make_encoder
from small_fits import ALL, train_once, without

from medept import FewShotClassifier, InputError
from medept.encoders.encoder import Encoder
from medept.methods import adapt
from medept.phantoms import make_phantoms
from medept.training.cache import TensorCache
from medept.training.device import make_accelerator
from medept.training.loop import train
from medept.training.recipes import make_recipe
from medept.training.views import Views


@pytest.mark.parametrize(("method", "settings"), [("linear", {}), ("partial", {}), ("ept", {})])
def test_a_file_on_the_disk_serves_as_memory_does(
    method: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = train_once("timm", method, settings)
    monkeypatch.setattr("medept.training.cache.IN_MEMORY", 0)
    for name, tensor in train_once("timm", method, settings).items():
        assert torch.equal(tensor, in_memory[name])
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10))
    with pytest.raises(InputError, match="TMPDIR"):
        train_once("timm", method, settings)


@pytest.mark.parametrize(("method", "settings"), [*ALL, ("probe", {})])
def test_subsets_are_trained_on_their_own_images(method: str, settings: dict[str, Any]) -> None:
    """Two that share a cache of the whole set, against each by itself with nothing cached."""
    recipe = make_recipe("medept", method, epochs=4, views=2, batch_size=4, lr=0.01)
    accelerator = make_accelerator("cpu", "float32")
    whole = Views(IMAGES, PREPROCESSING, crop_scale=0.5, seed=1)

    def state(rows: list[int], cache: TensorCache) -> dict[str, torch.Tensor]:
        model = adapt(make_encoder("timm"), method, 3, settings)
        train(model, whole.subset(np.array(rows)), TARGETS[rows], recipe, accelerator, cache=cache)
        return model.trained_state()

    with TensorCache() as shared:
        for rows in ([5, 1, 3, 0], [2, 4, 0]):
            ours = state(rows, shared)
            with without("prefix"), TensorCache() as own:
                if method == "probe":
                    alone = Views([IMAGES[i] for i in rows], PREPROCESSING)
                    model = adapt(make_encoder("timm"), method, 3, settings)
                    train(model, alone, TARGETS[rows], recipe, accelerator)
                    expected = model.trained_state()
                else:
                    expected = state(rows, own)
            for name, tensor in expected.items():
                torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-4)


def test_folds_share_what_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The calibration's folds encode no random view again, only the images they hold out."""
    seen: list[int] = []
    forward = Encoder.forward
    monkeypatch.setattr(Encoder, "forward", lambda self, x: seen.append(len(x)) or forward(self, x))
    monkeypatch.setattr("medept.classifier.fitting.estimate_cost", lambda *_: "")
    counts = {}
    for calibrate in ("none", "temperature"):
        seen.clear()
        FewShotClassifier(
            "vit_tiny_patch16_224", "linear", encoder_weights="random", image_size=32, epochs=10,
            calibrate=calibrate, device="cpu", precision="float32",
        ).fit(IMAGES, TARGETS)  # fmt: skip
        counts[calibrate] = sum(n for n in seen if n > 1)  # without the black example images
    assert counts["none"] == 8 * len(IMAGES)
    assert counts["temperature"] == counts["none"] + len(IMAGES)


def test_frozen_prompts_of_each_trial_are_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is cached with one trial's prompts is not fed to the head of another's."""
    cached: dict = {}
    original = TensorCache.get

    def noting(self, key, rows, batches):
        found = original(self, key, rows, batches)
        cached[key] = found[0].clone()
        return found

    monkeypatch.setattr(TensorCache, "get", noting)
    data = make_phantoms("colon", patients=6, images_per_patient=1, size=64)
    FewShotClassifier(method="vpt", settings={"frozen": True}, epochs=1, tune=4, calibrate="none",
                      device="cpu").fit(data.images, data.labels, groups=data.groups)  # fmt: skip
    assert len(cached) > 1, "of as many lengths"
    first, *others = cached.values()
    assert all((first != other).any() for other in others)
