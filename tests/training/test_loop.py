"""The training loop: what it keeps, reads and trains, in whole batches and in parts of them."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from small_encoders import IMAGES, PREPROCESSING, make_encoder
from small_fits import train_once, without
from torch import Tensor, nn

from medept import FewShotClassifier
from medept.encoders.encoder import Encoder
from medept.methods import adapt
from medept.training.device import make_accelerator
from medept.training.inference import encode_images
from medept.training.loop import train
from medept.training.recipes import make_recipe
from medept.training.views import Views

SEVEN = [np.random.default_rng(i).integers(0, 255, (40, 40, 3), np.uint8) for i in range(7)]
SEVEN_TARGETS = {
    "classes": np.arange(7) % 3,
    "labels": np.random.default_rng(0).integers(0, 2, (7, 3), np.uint8),
}


def trained_in_parts(
    vit: nn.Module, method: str, task: str, micro_batch: int | None, views: int
) -> tuple[dict[str, Tensor], list[float], set[int]]:
    """What was learnt, the loss of each epoch, and how many images were computed at once.

    Batches are of 4, and the last of 3.
    """
    encoder = Encoder(vit, "tiny", PREPROCESSING)
    torch.manual_seed(0)
    model = adapt(encoder, method, 3)
    recipe = make_recipe(
        "medept", method, optimizer="sgd", lr=0.01, encoder_lr=0.01, epochs=3, views=views,
        head_first=0.4, batch_size=4, micro_batch=micro_batch,
    )  # fmt: skip
    sizes: set[int] = set()
    model.head.register_forward_hook(
        lambda _, arguments, __: sizes.add(len(arguments[0])) if torch.is_grad_enabled() else None
    )
    history = train(model, Views(SEVEN, encoder.preprocessing, crop_scale=0.5), SEVEN_TARGETS[task],
                    recipe, make_accelerator("cpu", "float32"))  # fmt: skip
    state = {name: tensor.clone() for name, tensor in model.trained_state().items()}
    model.remove()
    return state, [row["loss"] for row in history], sizes


@pytest.mark.parametrize("task", SEVEN_TARGETS)
@pytest.mark.parametrize(
    ("method", "views"), [("linear", 2), ("ept", 2), ("ept", 3), ("vpt", 2), ("partial", 2)]
)
def test_micro_batches_train_as_the_whole_batch_does(
    tiny_vit: nn.Module, method: str, views: int, task: str
) -> None:
    whole, losses, sizes = trained_in_parts(tiny_vit, method, task, None, views)
    assert sizes == {4, 3}
    for micro_batch, parts in ((3, {3, 1}), (2, {2, 1}), (1, {1}), (9, {4, 3})):
        state, found, sizes = trained_in_parts(tiny_vit, method, task, micro_batch, views)
        assert sizes == parts
        assert found == pytest.approx(losses, rel=1e-5)
        for name, tensor in whole.items():
            torch.testing.assert_close(state[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("method", "settings"), [("partial", {}), ("ept", {"layers": "3"})])
def test_nothing_is_saved_for_gradients_that_nobody_asks_for(
    method: str, settings: dict[str, Any]
) -> None:
    """No autograd below the lowest trained layer, and none of a frozen layer's inputs."""
    model = adapt(make_encoder("timm"), method, 3, settings)
    blocks, inputs_seen, saved = model.encoder.model.blocks, {}, []
    for name, module in (("block", blocks[2]), ("fc1", blocks[2].mlp.fc1)):
        module.register_forward_pre_hook(lambda m, given, name=name: inputs_seen.update(
            {name: given[0]}))  # fmt: skip
    keep = lambda tensor: saved.append(tensor.data_ptr()) or tensor  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(torch.randn(2, 3, 32, 32)).sum()
    assert loss.requires_grad
    assert not inputs_seen["block"].requires_grad
    frozen = method == "ept"
    assert inputs_seen["fc1"].requires_grad
    assert (inputs_seen["fc1"].data_ptr() in saved) != frozen


def test_images_are_read_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    """In training, in encoding and in evaluation, which runs in large batches without autograd."""
    readers, batches, read = set(), [], Views._read

    def noting(self: Views, *args: Any, **kwargs: Any) -> Any:
        readers.add(threading.current_thread().name.rpartition("_")[0])
        return read(self, *args, **kwargs)

    monkeypatch.setattr(Views, "_read", noting)
    for shortcut in (nullcontext(), without("prefix")):
        with shortcut:
            train_once("timm", "ept", {})
    encoder = make_encoder("timm")
    encoder.register_forward_pre_hook(
        lambda _, given: batches.append((len(given[0]), torch.is_inference_mode_enabled()))
    )
    many = Views([IMAGES[i % 6] for i in range(40)], encoder.preprocessing)
    encode_images(encoder, many, make_accelerator("cpu", "float32"))
    assert readers == {"prefetch"}
    assert batches == [(32, True), (8, True)]


@pytest.mark.parametrize("method", ["ept", "vpt", "lora", "bias", "partial"])
def test_the_head_is_trained_before_the_encoder_follows_it(method: str) -> None:
    """The first loss of the encoder's training is what the head alone came to, and is kept."""
    rng = np.random.default_rng(0)
    images = [(rng.normal(50 + 100 * (i % 2), 30, (32, 32, 3)).clip(0, 255)).astype(np.uint8)
              for i in range(16)]  # fmt: skip

    def curve(method: str, epochs: int, head_first: float) -> list[tuple[str, float]]:
        classifier = FewShotClassifier(
            "vit_tiny_patch16_224", method, encoder_weights="random", image_size=32, epochs=epochs,
            recipe_settings={"head_first": head_first, "views": 1}, lr=1e-2,
            encoder_lr=None if method == "linear" else 1e-12,
            calibrate="none", device="cpu", precision="float32",
        ).fit(images, [i % 2 for i in range(16)])  # fmt: skip
        return [(row["trained"], row["loss"]) for row in classifier.history_]

    (_, without), *_ = curve(method, 1, 0)
    assert without > 0.6  # about log 2: the head knows nothing
    _, alone = curve("linear", 30, 0)[-1]
    *head, (trained, first) = curve(method, 31, 30.5 / 31)
    assert [part for part, _ in head] == 30 * ["head"]
    assert trained == "all"
    assert max(head[-1][1], first) <= 1.1 * alone + 0.01


def test_a_warm_up_slows_the_first_steps() -> None:
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 255, (8, 32, 32, 3), dtype=np.uint8))

    def rates(**changes: float) -> list[float]:
        classifier = FewShotClassifier(
            "vit_tiny_patch16_224", "vp", encoder_weights="random", image_size=32, epochs=8,
            recipe_settings={"encoder_lr": 0.01, **changes}, calibrate="none",
        ).fit(images, np.arange(8) % 2)  # fmt: skip
        return [row["encoder_lr"] for row in classifier.history_ if row["trained"] == "all"]

    cosine = [0.01 * (1 + np.cos(np.pi * epoch / 4)) / 2 for epoch in range(4)]
    assert rates(warmup=0) == pytest.approx(cosine)
    warmed = [0, 0.005, 0.01, 0.005]
    assert rates(warmup=0.5) == pytest.approx(warmed)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_weight_decay_inside_the_encoder_pulls_prompts_to_zero_alone(optimizer: str) -> None:
    """One step with it and one without differ by rate * decay * what the prompts started as."""
    images = [np.full((32, 32, 3), 100 + i, dtype=np.uint8) for i in range(4)]

    def prompts(decay: float) -> torch.Tensor:
        classifier = FewShotClassifier(
            "vit_tiny_patch16_224", "ept", encoder_weights="random", image_size=32, epochs=1,
            batch_size=4, lr=1e-9, encoder_lr=1e-3, settings={"length": 100},
            recipe_settings={"optimizer": optimizer, "encoder_weight_decay": decay,
                             "standardise": False},
            calibrate="none", device="cpu", precision="float32",
        ).fit(images, [0, 1, 0, 1])  # fmt: skip
        return classifier.model_.parameter_groups()["encoder"][0].detach()

    free, held = prompts(0), prompts(100)
    start = (free - held) / 0.1
    assert start.std() == pytest.approx(0.02, rel=0.1)  # of the initial values
