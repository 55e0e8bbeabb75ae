"""What is kept of a fit: ``adapter.safetensors`` and ``adapter.json``.

The tensors are what was trained and nothing more; the JSON names the encoder (with the hash of
its weights), the classes, the method, its settings and the recipe: all that is needed to predict
with it elsewhere, or to repeat it.
"""

from __future__ import annotations

import json
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from torch import Tensor

from medept.encoders.preprocessing import Preprocessing
from medept.encoders.tensors import is_finite
from medept.errors import EncoderError, problems
from medept.evaluation.calibration import Calibration
from medept.files import write_tensors, write_text

TENSORS = "adapter.safetensors"
DESCRIPTION = "adapter.json"


LABEL_TYPES: dict[str, Literal["int", "float", "bool"]] = {
    "i": "int", "u": "int", "f": "float", "b": "bool",
}  # fmt: skip
"""What NumPy's kinds of labels are called in an adapter; any other is text."""


class EncoderIdentity(BaseModel):
    """What :meth:`medept.encoders.encoder.Encoder.identity` says."""

    name: str
    sha256: str
    parameters: int
    preprocessing: Preprocessing


class AdapterInfo(BaseModel):
    """The content of ``adapter.json``."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    encoder: EncoderIdentity
    encoder_weights: str | None = None
    task: Literal["multiclass", "multilabel"]
    classes: list[str]
    label_type: Literal["text", "int", "float", "bool"] = "text"
    method: str
    settings: dict[str, Any]
    recipe: dict[str, Any]
    seed: int
    views_seed: int
    precision: str
    calibration: Calibration = Calibration()
    trainable_parameters: int
    support_images: int
    versions: dict[str, str]

    def labels(self) -> np.ndarray:
        """The classes (C,) as they were given to be learnt."""
        names = np.asarray(self.classes)
        if self.label_type == "text":
            return names
        return names == "True" if self.label_type == "bool" else names.astype(self.label_type)

    @model_validator(mode="after")
    def _calibration_fits(self) -> AdapterInfo:
        if not self.calibration.fits(len(self.classes)):
            raise ValueError("the calibration is one for another number of classes")
        return self


def current_versions() -> dict[str, str]:
    """Versions of Python, medept and what computes, as far as it is installed."""
    versions = {"python": platform.python_version()}
    for name in ("medept", "torch", "timm", "torchvision", "numpy", "scikit-learn", "accelerate",
                 "peft", "transformers", "open-clip-torch", "optuna"):  # fmt: skip
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def save_adapter(folder: Path, state: dict[str, Tensor], info: AdapterInfo) -> None:
    """Write both files into ``folder``, each under a temporary name first."""
    write_tensors(folder / TENSORS, state)
    write_text(folder / DESCRIPTION, info.model_dump_json(indent=2) + "\n")


def load_adapter(folder: Path) -> tuple[dict[str, Tensor], AdapterInfo]:
    """Read both files.

    Raises:
        InputError: if one is missing or damaged, or was written by a newer medept.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    info = read_info(folder)
    file = folder / TENSORS
    try:
        state = load_file(file)
    except FileNotFoundError as error:
        raise EncoderError(
            f"{file}: no such file; give a folder that `medept fit --out` wrote, copied whole (of "
            "`medept evaluate --out` there is no adapter)"
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
    file = folder / DESCRIPTION
    try:
        return AdapterInfo.model_validate(json.loads(file.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise EncoderError(
            f"{folder}: no adapter here ({DESCRIPTION} is missing); give the folder that "
            "`medept fit --out` wrote"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError, ValidationError) as error:
        why = problems(error) if isinstance(error, ValidationError) else error
        raise EncoderError(
            f"{file}: not an adapter that this version can read ({why}); copy it again, or fit "
            "with this version"
        ) from error
