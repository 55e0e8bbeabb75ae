"""Recipes: each method's own rates by default, one and the same for all under the paper's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medept import FewShotClassifier
from medept.errors import InputError
from medept.methods import METHODS
from medept.training.recipes import make_recipe


def test_each_method_is_trained_at_its_own_papers_rate() -> None:
    published = {
        "lora": 5e-4, "dora": 2e-4, "ia3": 3e-3, "bias": 1e-3, "partial-2": 5e-4,
    }  # fmt: skip
    for method, rate in published.items():
        recipe = make_recipe("medept", method)
        assert (recipe.optimizer, recipe.encoder_lr) == ("adamw", rate)
        assert recipe.warmup == (0.06 if method == "lora" else 0)


def test_what_has_no_paper_of_its_own_here_learns_by_the_recipe() -> None:
    """Heads as they are; what is tried without a validation set; and prompts that really move."""
    own = {"norm": 1e-3, "full": 1e-5, "ept": 3e-2, "vpt-ept": 3e-2}
    for method in ("linear", "mlp-3", *own):
        recipe, base = make_recipe("medept", method), make_recipe("medept", "linear")
        assert recipe == base.model_copy(update={"encoder_lr": own.get(method, base.encoder_lr)})


def test_adaptformers_rate_is_stated_for_256_images_a_step() -> None:
    recipe = make_recipe("medept", "adapter")
    assert (recipe.optimizer, recipe.weight_decay, recipe.warmup) == ("sgd", 0, 0.2)
    assert recipe.lr == recipe.encoder_lr == 0.05 * recipe.batch_size / 256


@pytest.mark.parametrize("method", ["vpt", "vp"])
def test_prompts_learn_at_the_lowest_rate_of_vpts_search_after_a_warm_up(method: str) -> None:
    recipe = make_recipe("medept", method)
    assert (recipe.optimizer, recipe.weight_decay, recipe.warmup) == ("sgd", 1e-4, 0.1)
    assert recipe.encoder_lr == 0.05 * recipe.batch_size / 256


@pytest.mark.parametrize("warmup", [0, 0.1, 0.25])
def test_rates_climb_and_fall_as_transformers_schedule_has_them(warmup: float) -> None:
    optimization = pytest.importorskip("transformers.optimization")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    steps = 120
    scheduler = optimization.get_cosine_schedule_with_warmup(optimizer, warmup * steps, steps)
    recipe = make_recipe("medept", "ept", warmup=warmup)
    for step in range(steps):
        rate = 0.01 * recipe.schedule(step / steps)
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        scheduler.step()


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


@pytest.mark.parametrize("method", METHODS)
def test_the_papers_comparison_trains_all_alike(method: str) -> None:
    recipe = make_recipe("paper", method)
    assert (recipe.optimizer, recipe.lr, recipe.encoder_lr) == ("sgd", 6e-4, 6e-4)
    assert (recipe.batch_size, recipe.epochs) == (4, 20)


def test_what_is_given_comes_before_what_the_method_says() -> None:
    assert make_recipe("medept", "lora", encoder_lr=0.1, epochs=None).encoder_lr == 0.1


@pytest.mark.parametrize("part", ["name", "method", "speed"])
def test_a_part_that_no_recipe_has_is_refused(part: str) -> None:
    with pytest.raises(InputError, match=f"{part}: not known"):
        make_recipe("medept", "linear", **{part: 1})


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(InputError, match="no method is named"):
        make_recipe("medept", "magic")


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
