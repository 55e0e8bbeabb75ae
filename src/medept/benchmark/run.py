"""What one run of a benchmark is: its data set, encoder, method, recipe, episode and seed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from medept.encoders.load import EMBEDDED
from medept.encoders.weights import RANDOM
from medept.errors import SettingsError

if TYPE_CHECKING:
    from medept.data.labelled_images import LabelledImages


class _Strict(BaseModel):
    """Nothing but the fields named, and none that changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSpec(_Strict):
    """Where a data set is, and what its columns are called where they have no usual name.

    Args:
        path: what ``medept fit`` takes as DATA, or ``phantoms:TASK:PATIENTS``, which is drawn:
            two images a patient, of 120 patients where no number is given.
        image_column: as for ``medept fit``, and so are the next three.
    """

    path: str
    image_column: str | None = None
    label_column: str | None = None
    group_column: str | None = None
    image_root: str | None = None

    @property
    def drawn(self) -> bool:
        """Whether these are phantoms."""
        return self.path.startswith("phantoms:")

    def placed(self, name: str, folder: Path) -> DataSpec:
        """The same with absolute paths, so that workers elsewhere find it.

        Args:
            name: of the data set; a folder that is given for one known by name is read as that.
            folder: what its paths are relative to.
        """
        from medept.data.sources import SOURCES

        if self.drawn:
            return self
        known, colon, place = self.path.partition(":")
        if not colon or known not in SOURCES:
            known, place = "", self.path
        path = (folder / place).resolve()
        if not known and name in SOURCES and path.is_dir():
            known = name
        root = self.image_root and str((folder / self.image_root).resolve())
        placed = {"path": f"{known}:{path}" if known else str(path), "image_root": root}
        return self.model_copy(update=placed)

    def read(self) -> LabelledImages:
        """The data set; its images are not decoded yet.

        Raises:
            InputError: if it is missing or cannot be used.
        """
        from medept.data.sources import open_dataset
        from medept.phantoms import make_phantoms

        if not self.drawn:
            return open_dataset(self.path, **self.model_dump(exclude={"path"}))
        task, _, patients = self.path.partition(":")[2].partition(":")
        if patients and not patients.isdecimal():
            raise SettingsError(f"{self.path}: write phantoms:TASK, or phantoms:TASK:PATIENTS")
        return make_phantoms(task, patients=int(patients or 120), images_per_patient=2)


class EncoderSpec(_Strict):
    """An encoder by name, where its weights are (a file, ``random``, or its own), its pixels."""

    name: str = EMBEDDED
    weights: str | None = None
    image_size: int | None = None

    @property
    def title(self) -> str:
        """Under which results are shown."""
        size = f", {self.image_size} pixels" if self.image_size else ""
        if self.weights in (None, RANDOM):
            weights = f", {RANDOM} weights" if self.weights else ""
        else:
            file = Path(str(self.weights)).name
            weights = "" if file.split(".")[0] == self.name else f", {file}"
        return self.name + weights + size

    def placed(self, folder: Path) -> EncoderSpec:
        """The same with an absolute path of its weights, which is relative to ``folder``.

        Raises:
            InputError: if there is no such file, or the encoder takes none.
        """
        if self.weights in (None, RANDOM):
            return self
        if self.name == EMBEDDED:
            raise SettingsError(
                f"{self.weights}: weights of the encoder {EMBEDDED!r}, which has its own; name the "
                "encoder that they are of"
            )
        file = (folder / str(self.weights)).resolve()
        if not file.is_file():
            raise SettingsError(f"{file}: no such file of weights, for the encoder {self.name}")
        return self.model_copy(update={"weights": str(file)})


class MethodSpec(_Strict):
    """A method with its settings and what it changes of the suite's recipe.

    Args:
        recipe: parts of :class:`medept.training.recipes.Recipe`, such as ``{"epochs": 10}``, and
            ``recipe``, the name of another one.
    """

    method: str
    settings: dict[str, Any] = {}
    recipe: dict[str, Any] = {}

    def recipe_within(self, recipe: str) -> tuple[str, dict[str, Any]]:
        """Its recipe's name, and what it changes of it, where the suite's is ``recipe``."""
        changes = dict(self.recipe)
        return changes.pop("recipe", recipe), changes


class Run(_Strict):
    """One fit and its evaluation: all that is needed to do it again.

    ``data`` and ``label`` are the names under which results are shown; ``episode`` draws the
    support set, and ``seed`` the initial values, the views and their order.
    """

    data: str
    source: DataSpec
    encoder: EncoderSpec
    label: str
    method: MethodSpec
    recipe: str
    precision: str
    shots: int | float | None
    episode: int | str
    seed: int
    tune: int

    @property
    def id(self) -> str:
        """A name that depends on what the run is, and on nothing else.

        The defaults of its method and recipe are part of that: once they change, it is another run.
        """
        from medept.methods import read_settings
        from medept.training.recipes import make_recipe

        method = self.method.method
        recipe, changes = self.method.recipe_within(self.recipe)
        whole = self.model_dump() | {
            "settings": read_settings(method, self.method.settings).model_dump(),
            "whole_recipe": make_recipe(recipe, method, **changes).model_dump(),
        }
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]


def content_hash(data: LabelledImages, encoder: EncoderSpec) -> str:
    """SHA-256 of what the paths of a run lead to: a table's rows, and a file of weights.

    Of images it has the names, and not the pixels.
    """
    from medept.data.image_hashes import file_hash

    columns = [data.names, data.classes, data.targets, data.groups, data.splits]
    rows = [None if column is None else np.asarray(column).tolist() for column in columns]
    weights = None if encoder.weights == RANDOM else encoder.weights
    whole = json.dumps([*rows, weights and file_hash(weights)])
    return hashlib.sha256(whole.encode()).hexdigest()
