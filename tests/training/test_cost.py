"""The cost of a fit is estimated from what it does: its passes, what it stores, its memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import profile

from medept.encoders.load import load_encoder
from medept.encoders.weights import RANDOM
from medept.methods import AdaptedEncoder, adapt
from medept.training import cost
from medept.training.device import make_accelerator
from medept.training.recipes import make_recipe
from medept.training.views import Views

RECIPE = make_recipe("medept").model_copy(update={"epochs": 80, "views": 8})
SECONDS = {"forward": 1.0, "encode": 1e3, "step": 1e6}
"""For one image; told apart by their digits."""


def make(
    method: str, settings: dict, size: int = 32, cast: bool = False
) -> tuple[AdaptedEncoder, Views]:
    """A method on a small encoder, and ten images of 50 x 40 pixels."""
    encoder = load_encoder("vit_tiny_patch16_224", weights=RANDOM, image_size=size)
    if cast:
        encoder.cast_to_bfloat16()
    images = [np.zeros((50, 40, 3), np.uint8)] * 10
    return adapt(encoder, method, 2, settings), Views(images, encoder.preprocessing)


def seconds(monkeypatch: pytest.MonkeyPatch, method: str, settings: dict, *folds: int) -> float:
    """The estimate for ten images, with given times."""
    left = list(SECONDS.values())

    def timed(run: Callable[[], Any]) -> tuple[Any, float]:
        return run(), cost.TRIED * left.pop(0)

    model, views = make(method, settings)
    monkeypatch.setattr(cost, "_timed", timed)
    accelerator = make_accelerator("cpu", "float32")
    found = cost.estimate_cost(model, views, RECIPE, accelerator, folds)
    assert found.evaluation == SECONDS["forward"]
    return found.seconds


def test_passes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert seconds(monkeypatch, "probe", {}) == 10
    assert seconds(monkeypatch, "linear", {}) == 10 * (8e3 + 80e6)
    assert seconds(monkeypatch, "ept", {"layers": "9-12"}) == 10 * (8e3 + 8 + 40e6)
    assert seconds(monkeypatch, "ept", {}, 2) == 10 * (1 + 8e3 + 2 * (8 + 40e6))
    assert seconds(monkeypatch, "ept", {}, 3, 3, 2) == 10 * (3 + 8e3 + 6 * (8 + 40e6))
    assert seconds(monkeypatch, "linear", {}, 3, 3) == 10 * (1 + 8e3 + 5 * 80e6)
    assert seconds(monkeypatch, "probe", {}, 3) == 10  # features of all are computed once


@pytest.mark.parametrize(
    ("method", "settings", "numbers"),
    [
        ("probe", {}, 0),
        ("linear", {}, 192),
        ("lora", {}, 3 * 32 * 32),
        ("ept", {"layers": "9-12"}, 5 * 192 + 5 * 192 + 5 * 3),
        ("vpt", {"layers": "9-12"}, 5 * 192),
    ],
)
def test_what_is_stored_is_counted(method: str, settings: dict, numbers: int) -> None:
    """Eight views of ten images, of 4 + 1 tokens, 192 wide, in 3 heads."""
    found = cost.estimate_cost(*make(method, settings), RECIPE, make_accelerator("cpu", "float32"))
    assert found.stored == 4 * 8 * 10 * numbers


@pytest.mark.parametrize(
    ("method", "micro_batch", "precision"),
    [("ept", None, "float32"), ("ept", 2, "float32"), ("lora", None, "float32"),
     ("ept", None, "bfloat16")],
)  # fmt: skip
def test_memory_is_what_a_step_takes(method: str, micro_batch: int | None, precision: str) -> None:
    """Within a third of what PyTorch's own profiler sees allocated for the features of an
    evaluation batch and a step."""
    size = 224 if precision == "float32" else 112  # which is slow in bfloat16 on many CPUs
    model, views = make(method, {}, size=size, cast=precision == "bfloat16")
    recipe = RECIPE.model_copy(update={"batch_size": 8, "micro_batch": micro_batch})
    accelerator = make_accelerator("cpu", precision)
    found = cost.estimate_cost(model, views, recipe, accelerator)
    pixels = torch.randn(32, 3, size, size)
    with profile(profile_memory=True) as seen:
        with accelerator.autocast():
            with torch.no_grad():
                model.encoder(pixels)
            logits = model(pixels[: micro_batch or 8])
        logits.float().sum().backward()
    allocated = np.cumsum([e.nbytes() for e in seen.profiler.kineto_results.events()
                      if e.name() == "[memory]"])  # fmt: skip
    assert found.memory - cost.LIBRARIES == pytest.approx(allocated.max(), rel=1 / 3)


def test_large_caches_are_said_to_be_in_a_file() -> None:
    found = cost.Cost(seconds=100, evaluation=0.05, in_use=10**9, memory=10**9, stored=3 * 10**9)
    assert str(found) == (
        "2 min, and 50 s for each 1,000 images to predict; 2.0 GB of memory, and "
        "3.0 GB in a temporary file for encoded views"
    )
