"""Recipes: each method's own rates by default, one and the same for all under the paper's."""

from __future__ import annotations

import pytest
import torch

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
