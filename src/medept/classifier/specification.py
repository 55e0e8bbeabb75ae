"""What to fit: every parameter of a classifier, checked, without its data."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medept.encoders.encoder import Encoder
from medept.encoders.load import EMBEDDED, load_encoder
from medept.errors import SettingsError
from medept.evaluation.calibration import KINDS, Kind
from medept.methods import find_method, read_settings, trained_of
from medept.training.device import make_accelerator, precision_of
from medept.training.recipes import Recipe, make_recipe

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Specification:
    """Encoder, method, recipe and the like, as :class:`medept.FewShotClassifier` describes them.

    Attributes:
        recipe_changes: values given in place of the recipe's.

    Raises:
        SettingsError: if a value is out of range, or one that the method does not have.

    >>> spec = Specification(method="partial-2", recipe_changes={"epochs": 3})
    >>> spec.make_recipe().epochs
    3
    >>> spec.with_parameters({"lr": 0.5, "settings": {}}).make_recipe().lr
    0.5
    """

    encoder: str = EMBEDDED
    method: str = "ept"
    encoder_weights: str | Path | None = None
    image_size: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    recipe: str = "medept"
    recipe_changes: dict[str, Any] = field(default_factory=dict)
    tune: int = 0
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    calibrate: Kind = "temperature"

    def __post_init__(self) -> None:
        if self.calibrate not in KINDS:
            raise SettingsError(f"calibrate={self.calibrate!r}: use one of {', '.join(KINDS)}")
        if not 0 <= self.seed < 2**32:
            raise SettingsError(f"seed={self.seed}: give a whole number from 0 to {2**32 - 1}")
        if self.tune < 0:
            raise SettingsError(f"tune={self.tune}: give the number of trials, or 0 for none")
        read_settings(self.method, self.settings)

    def with_parameters(self, found: dict[str, Any]) -> Specification:
        """This specification with the rates and settings that a search found."""
        rates = {name: value for name, value in found.items() if name != "settings"}
        return replace(
            self,
            recipe_changes=self.recipe_changes | rates,
            settings=self.settings | found.get("settings", {}),
            tune=0,
        )

    def make_recipe(self) -> Recipe:
        """The recipe, with what was given in place of its values."""
        return make_recipe(self.recipe, self.method, **self.recipe_changes)

    def accelerator(self) -> Accelerator:
        """Where, and in what precision, to compute."""
        return make_accelerator(self.device, self.precision)

    def load_encoder(self) -> Encoder:
        """The encoder as it came, in float32."""
        return load_encoder(self.encoder, weights=self.encoder_weights, image_size=self.image_size)

    def load_frozen_encoder(self) -> Encoder:
        """The encoder in the precision that it computes in, but for what the method may train."""
        encoder = self.load_encoder()
        trained = trained_of(encoder, self.method, self.settings)
        search_may_train_others = trained and self.tune
        if precision_of(self.accelerator()) == "bfloat16" and not search_may_train_others:
            encoder.cast_to_bfloat16(except_for=trained)
        return encoder


def given_rates(method: str, lr: float | None, encoder_lr: float | None) -> dict[str, float]:
    """The learning rates that were given, by name.

    Raises:
        SettingsError: if the method does not learn by one of them.

    >>> given_rates("linear", 0.1, None)
    {'lr': 0.1}
    """
    rates = find_method(method).rates
    given = {"lr": lr, "encoder_lr": encoder_lr}
    for name, value in given.items():
        if value is not None and name not in rates:
            raise SettingsError(
                f"{method} has no {name}=: it learns by "
                + (", ".join(f"{rate}=" for rate in rates) or "no rate at all")
            )
    return {name: value for name, value in given.items() if value is not None}
