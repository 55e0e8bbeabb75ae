"""Recipes: each method's own rates by default, one and the same for all under the paper's."""

from __future__ import annotations

import pytest

from medept.errors import InputError
from medept.methods import METHODS
from medept.training.recipes import make_recipe


def test_each_method_is_trained_at_its_own_papers_rate() -> None:
    published = {
        "lora": 5e-4, "dora": 2e-4, "ia3": 3e-3, "bias": 1e-3, "partial-2": 5e-4,
    }  # fmt: skip
    for method, rate in published.items():
        assert make_recipe(method=method).encoder_lr == rate


@pytest.mark.parametrize("method", METHODS)
def test_the_papers_comparison_trains_all_alike(method: str) -> None:
    recipe = make_recipe("paper", method)
    assert (recipe.optimizer, recipe.lr, recipe.encoder_lr) == ("sgd", 6e-4, 6e-4)
    assert (recipe.batch_size, recipe.epochs) == (4, 20)


def test_what_is_given_comes_before_what_the_method_says() -> None:
    assert make_recipe(method="lora", encoder_lr=0.1, epochs=None).encoder_lr == 0.1


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(InputError, match="no method is named"):
        make_recipe(method="magic")
