"""How a method is trained: optimiser, learning rates, epochs, views. Two recipes, all settable.

``paper`` trains every method alike, as Zu et al. compared them. ``medept`` trains each method with
the optimiser and the rates of its own paper; the method states them.
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
        lr: peak learning rate of the head; it falls to 0 along a cosine, once during
            ``head_first`` and once after it.
        encoder_lr: peak learning rate of what is trained inside the encoder (prompts, say).
        warmup: the part of these steps in which the rates first climb from 0 to their peak.
        weight_decay: of the head.
        encoder_weight_decay: of what is trained inside the encoder; it pulls prompts to 0.
        epochs: passes over the support set.
        head_first: the part of the epochs, at the start, in which the head is trained alone, on
            features that are computed once. What is trained inside the encoder afterwards does not
            follow a head that knows nothing (Kumar et al., ICLR 2022). A method that trains
            nothing there goes through the rates and the order of images a second time all the
            same: methods differ in what they put into the encoder, and in nothing else.
        batch_size: images per step.
        micro_batch: images that are computed at once, if a whole batch does not fit into memory
            (None: all); the gradient is that of the whole batch.
        crop_scale: smallest part of an image's area in a random resized crop; 1 keeps whole
            images. All are flipped at random.
        views: distinct random views per image; epoch e sees view e modulo ``views``.
        images_per_case: images of a case that a step computes, at most; drawn anew for each view.
        standardise: whether the head sees features standardised by the support set's mean and
            standard deviation, so that ``lr`` means the same for every encoder.

    :func:`make_recipe` makes one by name:

    >>> make_recipe("medept", "ept", epochs=20).head_epochs
    10
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
    images_per_case: int = Field(default=8, ge=1)
    standardise: bool

    @property
    def head_epochs(self) -> int:
        """The number of ``epochs`` in which the head is trained alone."""
        return int(self.head_first * self.epochs)

    def schedule(self, done: float) -> float:
        """The learning rate over its peak when ``done`` (0 to 1) of all steps have been taken.

        >>> [PAPER.schedule(done) for done in (0, 0.5, 1)]
        [1.0, 0.5, 0.0]
        """
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
"""The default: the head learns first, then what is inside, at the rate of its method's paper."""

RECIPES = {"medept": MEDEPT, "paper": PAPER}


def make_recipe(name: str = "medept", method: str = "ept", /, **changes: Any) -> Recipe:
    """A recipe by name, for a method.

    Args:
        name: ``medept`` or ``paper``. In ``paper``, ``views`` follow ``epochs`` unless given.
        method: the method it is for.
        changes: values in place of the recipe's; those that are None are ignored.

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
