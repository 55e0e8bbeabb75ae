"""How training is done: optimiser, learning rates, epochs, views. Two recipes, all settable.

``paper`` trains every method alike, as Zu et al. compared them. ``medept`` takes the optimiser and
the rates of each method's own paper, which the method states.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medept.errors import SettingsError, problems
from medept.methods import find_method


class Recipe(BaseModel):
    """One way to train.

    Args:
        optimizer: ``sgd`` (momentum 0.9) or ``adamw``.
        lr: peak learning rate of the head, from which it falls to 0 along a cosine: once during
            ``head_first``, and once after it.
        encoder_lr: learning rate of what is trained inside the encoder (prompts), likewise.
        warmup: part of the steps of each in which the rates climb, in a line from 0, to their
            highest.
        weight_decay: of the head.
        encoder_weight_decay: of what is trained inside the encoder; for prompts, a pull to 0.
        epochs: passes over the support set.
        head_first: part of them, the first, in which the head is trained alone: on features as
            they are, which are computed once. What is trained inside the encoder afterwards does
            not follow a head that knows nothing (Kumar et al., ICLR 2022). Where a method trains
            nothing there, the rates still rise again and the images come in the same order again:
            methods differ in what they put into the encoder, and in nothing else.
        batch_size: images a step.
        micro_batch: how many of them are computed at once, where all do not fit into memory (None:
            all); the gradient is that of the whole batch.
        crop_scale: smallest part of an image's area in a random resized crop; 1 keeps whole
            images (they are still flipped).
        views: distinct random views per image; epoch e sees view e modulo ``views``.
        standardise: whether the head sees features standardised by the support set's mean and
            deviation, so that ``lr`` means the same for every encoder.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    optimizer: Literal["sgd", "adamw"]
    lr: float = Field(gt=0, le=1e6)
    encoder_lr: float = Field(gt=0, le=1e6)
    warmup: float = Field(default=0, ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    encoder_weight_decay: float = Field(ge=0)
    epochs: int = Field(ge=1)
    head_first: float = Field(ge=0, lt=1)
    batch_size: int = Field(ge=1)
    micro_batch: int | None = Field(default=None, ge=1)
    crop_scale: float = Field(gt=0, le=1)
    views: int = Field(ge=1)
    standardise: bool

    @property
    def head_epochs(self) -> int:
        """The number of ``epochs`` in which the head is trained alone."""
        return int(self.head_first * self.epochs)

    def schedule(self, done: float) -> float:
        """A learning rate, by its highest, when ``done`` (from 0 to 1) of all steps are made."""
        if done < self.warmup:
            return done / self.warmup
        return (1 + math.cos(math.pi * (done - self.warmup) / (1 - self.warmup))) / 2


PAPER = Recipe(
    optimizer="sgd",
    lr=6e-4,
    encoder_lr=6e-4,
    weight_decay=1e-4,
    encoder_weight_decay=1e-4,
    epochs=20,
    head_first=0,
    batch_size=4,
    crop_scale=0.08,
    views=20,
    standardise=False,
)
"""Zu et al. 2024, section 4: SGD 0.9, cosine to 0, batch 4, 20 epochs, a fresh view each epoch."""

MEDEPT = Recipe(
    optimizer="adamw",
    lr=3e-3,
    encoder_lr=1e-3,
    weight_decay=1e-2,
    encoder_weight_decay=0.0,
    epochs=80,
    head_first=0.5,
    batch_size=16,
    crop_scale=0.5,
    views=8,
    standardise=True,
)
"""The default: a head that really learns, then what is inside, at its method's own rate."""

RECIPES = {"medept": MEDEPT, "paper": PAPER}


def make_recipe(name: str = "medept", method: str = "ept", /, **changes: Any) -> Recipe:
    """A recipe by name for a method, with what ``changes`` names (and is not None) put in place.

    Raises:
        InputError: if the recipe, the method or a value is unknown or out of range.
    """
    if name not in RECIPES:
        raise SettingsError(f"no recipe is named {name!r}: use one of {', '.join(RECIPES)}")
    given = {key: value for key, value in changes.items() if value is not None}
    if "epochs" in given and "views" not in given and name == "paper":
        given["views"] = given["epochs"]
    own = find_method(method).recipe if name == "medept" else {}
    try:
        return Recipe(**(RECIPES[name].model_dump() | own | given))
    except ValidationError as error:
        parts = ", ".join(Recipe.model_fields)
        raise SettingsError(f"recipe: {problems(error)} (its parts are: {parts})") from error
