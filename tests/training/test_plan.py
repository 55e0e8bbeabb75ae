"""Where training enters a model: as late as the method allows, and cached if it is read again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_encoders import make_encoder

from medept.methods import adapt
from medept.training import plan
from medept.training.device import make_accelerator
from medept.training.recipes import make_recipe


@pytest.mark.parametrize(("fits", "cached"), [(1, False), (3, True)])
def test_views_that_are_seen_once_are_cached_for_other_fits(fits: int, cached: bool) -> None:
    model = adapt(make_encoder("timm"), "ept", 3, {"layers": "3"})
    recipe, accelerator = make_recipe("paper", "ept"), make_accelerator("cpu", "float32")
    assert plan.make_plan(model, recipe, accelerator, fits).cached == cached


@pytest.mark.parametrize(
    ("method", "settings", "recipe", "content", "cached"),
    [
        ("linear", {}, "medept", "features", True),
        ("linear", {}, "paper", "features", True),
        ("ept", {"frozen": True}, "medept", "features", True),
        ("partial", {}, "medept", "prefix", True),
        ("ept", {}, "medept", "prefix", True),
        ("ept", {}, "paper", "pixels", False),
        ("lora", {}, "medept", "pixels", True),
        ("lora", {}, "paper", "pixels", False),
    ],
)
def test_training_enters_as_late_as_the_method_allows(
    method: str, settings: dict[str, Any], recipe: str, content: str, cached: bool
) -> None:
    """And what enters there gives the features of the whole model."""
    model = adapt(make_encoder("timm"), method, 3, settings)
    accelerator = make_accelerator("cpu", "float32")
    found = plan.make_plan(model, make_recipe(recipe, method), accelerator)
    assert (found.entry.content, found.cached) == (content, cached)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected, activations = model.features(pixels), found.entry.encode(pixels)
        with found.entry.resumed():
            features = found.entry.features(activations)
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)


def test_what_a_method_makes_of_features_is_told_apart() -> None:
    """By how it alters them, and by what it put in; methods that leave them alone share them."""
    entries = [
        plan.FromFeatures(adapt(make_encoder("timm"), method, 3, settings)).details
        for method, settings in (
            ("linear", {}),
            ("mlp", {}),
            ("vpt", {"frozen": True, "length": 2}),
            ("vpt", {"frozen": True, "length": 3}),
            ("ept", {"frozen": True}),
        )
    ]
    assert entries[0] == entries[1]
    assert len(set(entries)) == 4
