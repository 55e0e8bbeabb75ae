"""What to fit: every parameter of a classifier, checked, without its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medept.classifier.several import pair_weights
from medept.encoders.encoder import Encoder
from medept.encoders.load import EMBEDDED, load_encoder
from medept.encoders.preprocessing import FITS, OWN_FIT
from medept.encoders.readout import Readout, default_readout
from medept.encoders.symmetry import Symmetry
from medept.errors import SettingsError
from medept.evaluation.calibration import KINDS, Kind
from medept.evaluation.conformal import groups_needed
from medept.evaluation.operating_points import OperatingAim
from medept.methods import find_method, find_pool, read_settings, trained_of
from medept.methods.features import FeatureMethod
from medept.training.device import make_accelerator, precision_of
from medept.training.extractor import FeatureExtractor
from medept.training.recipes import Recipe, make_recipe

if TYPE_CHECKING:
    from accelerate import Accelerator


MOST_ACCURATE = "ridge"
"""The method that ``auto`` is, for any number of shots and classes: no other was measured to be
more accurate on support sets that had no part in the choice (docs/accuracy.md)."""


@dataclass(frozen=True)
class Specification:
    """One encoder, method, recipe and so on, as :class:`medept.FewShotClassifier` describes them.

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
    method: str = MOST_ACCURATE
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
    operating_aim: OperatingAim | None = None
    coverage: float = 0.9
    false_alarms: float = 0.05
    readout: str = "auto"
    symmetry: str = "auto"
    tta: int | None = None
    pool: str = "mean"
    fit_image: str = OWN_FIT

    def __post_init__(self) -> None:
        if self.calibrate not in KINDS:
            raise SettingsError(f"calibrate={self.calibrate!r}: use one of {', '.join(KINDS)}")
        if not 0 <= self.seed < 2**32:
            raise SettingsError(f"seed={self.seed}: give a whole number from 0 to {2**32 - 1}")
        if self.tta is not None and self.tta < 1:
            raise SettingsError(f"tta={self.tta}: give the number of views, 1 for the image alone")
        groups_needed(self.coverage)  # refuses what is no coverage
        if not 0 < self.false_alarms < 1:
            raise SettingsError(
                f"false_alarms={self.false_alarms}: give a number between 0 and 1, such as 0.05"
            )
        if self.fit_image not in FITS:
            raise SettingsError(f"fit_image={self.fit_image!r}: use one of {', '.join(FITS)}")
        if self.tune < 0:
            raise SettingsError(f"tune={self.tune}: give the number of trials, or 0 for none")
        read_settings(self.method, self.settings)
        find_pool(self.pool, self.method)

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
        return load_encoder(
            self.encoder,
            weights=self.encoder_weights,
            image_size=self.image_size,
            fit_image=self.fit_image,
        )

    @property
    def holds_out(self) -> bool:
        """Whether parts of the support set are held out, to calibrate or to choose a threshold."""
        aim = self.operating_aim
        return self.calibrate != "none" or (aim is not None and aim.threshold is None)

    @property
    def reads_every_block(self) -> bool:
        """Whether the method was measured to be best on all that a frozen encoder knows."""
        return find_method(self.method).reads_every_block

    def chosen_readout(self, encoder: Encoder) -> Readout:
        """The readout that was given; by default every block where the method gains by it."""
        if self.readout != "auto":
            return Readout.parse(self.readout)
        return default_readout(encoder) if self.reads_every_block else Readout()

    def chosen_symmetry(self, encoder: Encoder) -> Symmetry:
        """The symmetry that was given; by default all views where the method gains by them.

        Raises:
            SettingsError: if the encoder's input cannot be turned as that asks for.
        """
        height, width = encoder.preprocessing.size
        usual = "none" if issubclass(find_method(self.method), FeatureMethod) else "flip"
        if self.reads_every_block:
            usual = "all+corners" if height == width else "flips+corners"
        symmetry = Symmetry(usual if self.symmetry == "auto" else self.symmetry)
        symmetry.check(encoder.preprocessing.size)
        return symmetry

    def chosen_tta(self, symmetry: Symmetry) -> int:
        """How many views a prediction averages over: all, where the symmetry was chosen for it."""
        averaged = self.reads_every_block or self.symmetry != "auto"
        usual = len(symmetry) if averaged else 1
        return min(self.tta or usual, len(symmetry))

    def load_frozen_encoder(self) -> Encoder:
        """The encoder in the precision that it computes in, but for what the method may train."""
        encoder = self.load_encoder()
        encoder.read_as(self.chosen_readout(encoder))
        trained = trained_of(encoder, self.method, self.settings)
        search_may_train_others = trained and self.tune
        if precision_of(self.accelerator()) == "bfloat16" and not search_may_train_others:
            encoder.cast_to_bfloat16(except_for=trained)
        return encoder

    def extractor(self) -> FeatureExtractor:
        """The frozen encoder, ready to give the features that the method is fitted to."""
        encoder, accelerator = self.load_frozen_encoder(), self.accelerator()
        symmetry = self.chosen_symmetry(encoder)
        tta = self.chosen_tta(symmetry)
        return FeatureExtractor(encoder.to(accelerator.device), accelerator, symmetry, tta)


def specifications(parameters: Mapping[str, Any]) -> list[Specification]:
    """The parameters of a :class:`medept.FewShotClassifier`, checked: one for each encoder.

    Of several encoders ``embedded`` keeps its own input size.

    Raises:
        SettingsError: if a value is out of range, or one that the method does not have.

    >>> from medept import FewShotClassifier
    >>> classifier = FewShotClassifier(["embedded", "vit_tiny_patch16_224"], image_size=112)
    >>> [spec.image_size for spec in specifications(classifier.get_params())]
    [None, 112]
    """
    method = chosen_method(parameters["method"], parameters["recipe"])
    pairs = pair_weights(parameters["encoder"], parameters["encoder_weights"])
    same = {f.name: parameters[f.name] for f in fields(Specification) if f.name in parameters}
    same |= {
        "method": method,
        "settings": parameters["settings"] or {},
        "recipe_changes": (parameters["recipe_settings"] or {}) | given_changes(method, parameters),
        "seed": index(parameters["seed"]),
    }
    size = parameters["image_size"]
    return [
        Specification(
            **same
            | {
                "encoder": encoder,
                "encoder_weights": weights,
                "image_size": None if len(pairs) > 1 and encoder == EMBEDDED else size,
            }
        )
        for encoder, weights in pairs
    ]


def chosen_method(method: str, recipe: str) -> str:
    """The method that was asked for; ``auto`` is the most accurate, or the recipe's own.

    >>> chosen_method("auto", "medept"), chosen_method("auto", "paper"), chosen_method("lora", "")
    ('ridge', 'ept', 'lora')
    """
    if method != "auto":
        return method
    return "ept" if recipe == "paper" else MOST_ACCURATE


def given_changes(method: str, parameters: Mapping[str, Any]) -> dict[str, float]:
    """Those of a classifier's parameters that were given in place of the recipe's values.

    Raises:
        SettingsError: if the method does not learn by one of them.

    >>> given_changes("linear", {"lr": 0.1, "seed": 0})
    {'lr': 0.1}
    """
    values = {name: parameters.get(name) for name in ("epochs", "batch_size", "lr", "encoder_lr")}
    given = {name: value for name, value in values.items() if value is not None}
    rates = find_method(method).rates
    for name in ("lr", "encoder_lr"):
        if name in given and name not in rates:
            raise SettingsError(
                f"{method} has no {name}=: it learns by "
                + (", ".join(f"{rate}=" for rate in rates) or "no rate at all")
            )
    return given
