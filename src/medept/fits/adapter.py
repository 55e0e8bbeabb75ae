"""The adapter that a fit leaves: ``adapter.safetensors`` and ``adapter.json``.

The tensors are what was trained, and nothing more. The JSON names the encoder (with the hash of
its weights), the classes, the method, its settings and the recipe: all that is needed to predict
elsewhere, or to repeat the fit.
"""

from __future__ import annotations

import json
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from torch import Tensor

from medept.encoders.preprocessing import OWN_FIT, Preprocessing
from medept.encoders.tensors import is_finite
from medept.errors import EncoderError, problems
from medept.evaluation.calibration import Calibration
from medept.evaluation.operating_points import OperatingPoint
from medept.evaluation.prediction_sets import PredictionSets
from medept.files import refuse_unreadable, write_tensors, write_text
from medept.fits import layout
from medept.methods.plugins import Plugin

LABEL_TYPES: dict[str, Literal["int", "float", "bool"]] = {
    "i": "int", "u": "int", "f": "float", "b": "bool",
}  # fmt: skip
"""NumPy's kind of a label -> its name in ``adapter.json``; any other kind is text."""


MOST_PIXELS = 4096
"""Along a side of an encoder's input, by an adapter that may come from a stranger."""

MOST_CLASSES = 10_000
"""Of such an adapter: with each of them grows what is allocated before its weights are read."""


class EncoderIdentity(BaseModel):
    """Which encoder it is, as :meth:`medept.encoders.encoder.Encoder.identity` gives it."""

    name: str
    sha256: str
    parameters: int
    preprocessing: Preprocessing
    readout: str = "pooled"

    @field_validator("preprocessing", mode="before")
    @classmethod
    def _as_first_written(cls, given: Any) -> Any:
        """The first adapters say which part of the resized image the centre crop keeps."""
        if not isinstance(given, dict) or "crop_pct" not in given or "resized" in given:
            return given
        kept, size = given["crop_pct"], given.get("size")
        if not isinstance(kept, int | float) or not 0.1 <= kept <= 1:
            raise ValueError("crop_pct must be a number from 0.1 to 1")
        if not isinstance(size, list) or not all(isinstance(side, int) for side in size):
            raise ValueError("size must be two whole numbers")
        resized = None if kept == 1 else [int(side / kept) for side in size]
        return {name: x for name, x in given.items() if name != "crop_pct"} | {"resized": resized}

    @model_validator(mode="after")
    def _input_is_bounded(self) -> EncoderIdentity:
        sides = (*self.preprocessing.size, *(self.preprocessing.resized or ()))
        if not all(1 <= side <= MOST_PIXELS for side in sides):
            raise ValueError(f"the input's sides must be from 1 to {MOST_PIXELS} pixels")
        return self


class FamiliarityLimit(BaseModel):
    """What :class:`medept.evaluation.familiarity.Familiarity` has beside its tensors."""

    model_config = ConfigDict(extra="forbid")

    limit: float = Field(gt=0, allow_inf_nan=False)
    false_alarms: float = Field(gt=0, lt=1)
    groups: int


class AdapterInfo(BaseModel):
    """The content of ``adapter.json``."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    encoder: EncoderIdentity
    encoder_weights: str | None = None
    task: Literal["multiclass", "multilabel"]
    classes: list[str] = Field(max_length=MOST_CLASSES)
    label_type: Literal["text", "int", "float", "bool"] = "text"
    method: str
    plugin: Plugin | None = None
    settings: dict[str, Any]
    recipe: dict[str, Any]
    seed: int
    views_seed: int
    precision: str
    symmetry: str = "flip"
    tta: int = 1
    fit_image: str = OWN_FIT
    calibration: Calibration = Calibration()
    shares: list[float] = []
    prevalence: dict[str, float] | Literal["estimate"] | None = None
    operating_points: list[OperatingPoint] = []
    prediction_sets: PredictionSets | None = None
    familiarity: FamiliarityLimit | None = None
    trainable_parameters: int
    support_images: int
    support_cases: int | None = None
    pool: str = "mean"
    volumes: str | None = None
    versions: dict[str, str]
    others: list[AdapterInfo] = []

    def labels(self) -> np.ndarray:
        """The classes (C,), in the type that they had in the training data."""
        names = np.asarray(self.classes)
        if self.label_type == "text":
            return names
        return names == "True" if self.label_type == "bool" else names.astype(self.label_type)

    @model_validator(mode="after")
    def _parts_fit(self) -> AdapterInfo:
        if not self.calibration.fits(len(self.classes)):
            raise ValueError("the calibration is for another number of classes")
        if len(self.shares) not in (0, len(self.classes)):
            raise ValueError("the shares are for another number of classes")
        if not {c for point in self.operating_points for c in point.positive} <= set(self.classes):
            raise ValueError("an operating point is for another class")
        if self.prediction_sets is not None and not self.prediction_sets.fits(
            len(self.classes), self.task
        ):
            raise ValueError("the prediction sets are for other classes")
        return self


def current_versions() -> dict[str, str]:
    """Versions of Python, medept and the libraries it computes with, as far as installed."""
    versions = {"python": platform.python_version()}
    for name in ("medept", "torch", "timm", "torchvision", "numpy", "scikit-learn", "accelerate",
                 "peft", "transformers", "open-clip-torch", "optuna"):  # fmt: skip
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def save_adapter(folder: Path, state: dict[str, Tensor], info: AdapterInfo) -> None:
    """Write both files into ``folder``, each whole or not at all."""
    write_tensors(folder / layout.ADAPTER_TENSORS, state)
    write_text(folder / layout.ADAPTER_INFO, info.model_dump_json(indent=2) + "\n")


def holds_adapter(folder: str | Path) -> bool:
    """Whether the folder has an ``adapter.json``."""
    return (Path(folder) / layout.ADAPTER_INFO).exists()


def load_adapter(folder: Path) -> tuple[dict[str, Tensor], AdapterInfo]:
    """Read both files.

    Raises:
        InputError: if one is missing or damaged, or was written by a newer medept.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    info = read_info(folder)
    file = folder / layout.ADAPTER_TENSORS
    try:
        refuse_unreadable(file, times=2)  # safetensors checks that no tensor is larger than it
        state = load_file(file)
    except FileNotFoundError as error:
        raise EncoderError(
            f"{file}: no such file; give a folder that `medept fit --out` wrote, copied whole "
            "(a folder that `medept evaluate --out` wrote has no adapter)"
        ) from error
    except (SafetensorError, OSError) as error:
        raise EncoderError(f"{file}: damaged ({error}); fit again or copy it again") from error
    if not is_finite(state):
        raise EncoderError(f"{file}: damaged (it holds NaN); fit again or copy it again")
    return state, info


def read_info(folder: Path) -> AdapterInfo:
    """Read ``adapter.json`` alone.

    Raises:
        InputError: if it is missing or cannot be understood.
    """
    file = folder / layout.ADAPTER_INFO
    refuse_unreadable(file)
    try:
        return AdapterInfo.model_validate(json.loads(file.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise EncoderError(
            f"{folder}: no adapter here ({layout.ADAPTER_INFO} is missing); give the folder that "
            "`medept fit --out` wrote"
        ) from error
    except (ValueError, RecursionError) as error:  # no JSON, or not of this form
        why = problems(error) if isinstance(error, ValidationError) else error
        raise EncoderError(
            f"{file}: not an adapter that this version can read ({why}); copy it again, or fit "
            "with this version"
        ) from error
