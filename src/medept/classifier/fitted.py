"""What a fit of one encoder comes to: the encoder as adapted, and how its outputs become labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from medept.encoders.symmetry import Symmetry
from medept.evaluation.calibration import Calibration
from medept.evaluation.familiarity import Familiarity
from medept.evaluation.operating_points import OperatingPoint
from medept.evaluation.prediction_sets import PredictionSets
from medept.fits.adapter import (
    LABEL_TYPES,
    AdapterInfo,
    EncoderIdentity,
    FamiliarityLimit,
    current_versions,
)
from medept.methods import AdaptedEncoder, plugin_of
from medept.training.recipes import Recipe, make_recipe

Task = Literal["multiclass", "multilabel"]

FAMILIARITY = ("familiarity.mean", "familiarity.deviation")
"""Names of the tensors that say where the features of the training images lie."""


@dataclass(frozen=True)
class HeldOut:
    """Predictions of the cross-validation inside the support set, each by a fit without its group.

    Attributes:
        probabilities: (n, C), calibrated.
        targets: (n,) class indices, or (n, C) of 0 and 1.
        groups: (n,) ids.
    """

    probabilities: np.ndarray
    targets: np.ndarray
    groups: np.ndarray


@dataclass(frozen=True)
class Fitted:
    """The state of a fitted classifier, however it was come by: fitted, loaded or unpickled.

    Attributes:
        model: the adapted encoder.
        classes: (C,) the classes; for multi-label data the labels' names.
        method: its name.
        recipe: by which it was trained.
        seed: of initial values and of the order of images.
        views_seed: of the random views.
        precision: ``float32``, ``bfloat16`` or ``float16``, in which it was trained.
        symmetry: the flips and turns that it was trained on.
        tta: how many of these views a prediction averages over.
        fit_image: as it was given; what it came to is in the encoder's preprocessing.
        support_images: how many it was trained on.
        support_cases: how many cases they are of; None where each image is its own.
        volumes: how volumes among them were cut (:class:`medept.data.volumes.slicing.Slicing`);
            None where there were none.
        encoder_weights: the local file of the encoder's weights, if there was one.
        calibration: how logits become probabilities.
        shares: (C,) share of the support images that is of each class.
        operating_points: from which probability on a case is positive; none if none was asked for.
        prediction_sets: thresholds of prediction sets; None where nothing was held out.
        familiarity: how far from the training images others lie; None where nothing was held out.
        held_out: predictions of the cross-validation inside the support set; None where there was
            none, and for an adapter that was loaded.
        history: the learning curve, one dict an epoch; empty for an adapter that was loaded.
    """

    model: AdaptedEncoder
    task: Task
    classes: np.ndarray
    method: str
    recipe: Recipe
    seed: int
    views_seed: int
    precision: str
    symmetry: Symmetry
    tta: int
    fit_image: str
    support_images: int
    support_cases: int | None = None
    volumes: str | None = None
    encoder_weights: str | Path | None = None
    calibration: Calibration = field(default_factory=Calibration)
    shares: list[float] = field(default_factory=list)
    operating_points: list[OperatingPoint] = field(default_factory=list)
    prediction_sets: PredictionSets | None = None
    familiarity: Familiarity | None = None
    held_out: HeldOut | None = None
    history: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of_adapter(cls, model: AdaptedEncoder, info: AdapterInfo) -> Fitted:
        """The state that ``adapter.json`` describes, around its model."""
        return cls(
            model=model,
            task=info.task,
            classes=info.labels(),
            method=info.method,
            recipe=make_recipe(**info.recipe),
            seed=info.seed,
            views_seed=info.views_seed,
            precision=info.precision,
            symmetry=Symmetry(info.symmetry),
            tta=info.tta,
            fit_image=info.fit_image,
            support_images=info.support_images,
            support_cases=info.support_cases,
            volumes=info.volumes,
            encoder_weights=info.encoder_weights,
            calibration=info.calibration,
            shares=info.shares,
            operating_points=info.operating_points,
            prediction_sets=info.prediction_sets,
        )

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated probabilities (n, C) of logits (n, C)."""
        return self.calibration.probabilities(logits, self.task)

    def info(self) -> AdapterInfo:
        """What ``adapter.json`` says; its ``encoder_weights`` are the path as it was given."""
        weights = self.encoder_weights
        return AdapterInfo(
            encoder=EncoderIdentity.model_validate(self.model.encoder_identity),
            encoder_weights=None if weights is None else str(weights),
            task=self.task,
            classes=[str(int(x) if isinstance(x, float) else x) for x in self.classes.tolist()],
            label_type=LABEL_TYPES.get(self.classes.dtype.kind, "text"),
            method=self.method,
            plugin=plugin_of(type(self.model)),
            settings=self.model.settings.model_dump(),
            recipe=self.recipe.model_dump() if self.model.rates else {},  # else not trained by it
            seed=self.seed,
            views_seed=self.views_seed,
            precision=self.precision,
            symmetry=self.symmetry.name,
            tta=self.tta,
            fit_image=self.fit_image,
            calibration=self.calibration,
            shares=self.shares,
            operating_points=self.operating_points,
            prediction_sets=self.prediction_sets,
            familiarity=self._familiarity_limit(),
            trainable_parameters=self.model.trainable_count(),
            support_images=self.support_images,
            support_cases=self.support_cases,
            volumes=self.volumes,
            pool=self.model.pool.name,
            versions=current_versions(),
        )

    def tensors(self) -> dict[str, Tensor]:
        """What ``adapter.safetensors`` holds: what was trained, and where the features lie."""
        state, known = self.model.trained_state(), self.familiarity
        if known is None:
            return state
        where = zip(FAMILIARITY, (known.mean, known.deviation), strict=True)
        return state | {name: torch.as_tensor(x, dtype=torch.float32) for name, x in where}

    def _familiarity_limit(self) -> FamiliarityLimit | None:
        known = self.familiarity
        if known is None:
            return None
        return FamiliarityLimit(
            limit=known.limit, false_alarms=known.false_alarms, groups=known.groups
        )


def take_familiarity(state: dict[str, Tensor], info: AdapterInfo) -> Familiarity | None:
    """Take what is known of the training images' features out of an adapter's tensors.

    What is missing has no features, and so fits no encoder.
    """
    mean, deviation = (state.pop(name, torch.zeros(0)).float().numpy() for name in FAMILIARITY)
    if info.familiarity is None:
        return None
    return Familiarity(mean, deviation, **info.familiarity.model_dump())
