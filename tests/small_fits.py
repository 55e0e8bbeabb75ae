"""Small fits on the small encoders, with shortcuts and without."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from small_encoders import IMAGES, TARGETS, make_encoder

from medept.encoders.encoder import Encoder
from medept.methods import AdaptedEncoder, adapt, trained_of
from medept.training import plan
from medept.training.device import make_accelerator
from medept.training.loop import train
from medept.training.recipes import make_recipe
from medept.training.views import Views

ALL: list[tuple[str, dict[str, Any]]] = [
    ("linear", {}),
    ("mlp", {}),
    ("partial", {}),
    ("ept", {"layers": "2"}),
    ("ept", {}),
    ("vpt", {"layers": "2", "length": 3}),
]
"""Methods with every kind of entry into the model."""


def train_once(library: str, method: str, settings: dict[str, Any]) -> dict[str, torch.Tensor]:
    """What a fit on a library's encoder trained."""
    return fitted(make_encoder(library), method, settings)[0]


def fitted(
    encoder: Encoder, method: str, settings: dict[str, Any], precision: str = "float32"
) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """What was trained, and the loss of each epoch."""
    if precision == "bfloat16":
        encoder.cast_to_bfloat16(except_for=trained_of(encoder, method, settings))
    model = adapt(encoder, method, 3, settings)
    recipe = make_recipe("medept", method, epochs=4, views=2, batch_size=4, lr=0.01)
    history = train(model, Views(IMAGES, encoder.preprocessing, crop_scale=0.5), TARGETS, recipe,
                    make_accelerator("cpu", precision))  # fmt: skip
    return model.trained_state(), np.array([row["loss"] for row in history])


def nothing_cached(model: AdaptedEncoder, *_: Any) -> plan.Plan:
    """Every view is drawn and run whole in every step."""
    return plan.Plan(plan.FromPixels(model), cached=False)


@contextmanager
def without(shortcut: str) -> Iterator[None]:
    """Within it, fits do without one shortcut."""
    name, instead = {
        "prefix": ("medept.training.inputs.make_plan", nothing_cached),
        "class token": ("medept.encoders.encoder.class_token_only", lambda *_: nullcontext()),
        "bfloat16": ("medept.encoders.encoder.Encoder.cast_to_bfloat16", lambda *_, **__: None),
        "read ahead": (
            "medept.training.loop.prefetch",
            lambda function, items, **_: map(function, items),
        ),
    }[shortcut]
    with patch(name, instead):
        yield
