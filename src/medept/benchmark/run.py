"""One run of a benchmark: its data set, encoder, method, recipe, episode and seed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from medept.encoders.load import EMBEDDED
from medept.encoders.preprocessing import OWN_FIT
from medept.encoders.weights import RANDOM
from medept.errors import SettingsError
from medept.methods.plugins import Plugin

if TYPE_CHECKING:
    from medept.data.labelled_images import LabelledImages


class _Frozen(BaseModel):
    """A model that cannot be changed, and takes no other fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSpec(_Frozen):
    """Where a data set is, and the names of its columns if they are not the usual ones.

    Args:
        path: what ``medept fit`` takes as DATA, or ``phantoms:TASK:PATIENTS`` for phantoms with
            two images per patient, of 120 patients by default.
        image_column: as for ``medept fit``, like all that follow.
        label_column: likewise.
        group_column: likewise.
        image_root: likewise.
        case_column: likewise.
        case: likewise.
        case_label: likewise.
        plane: likewise.
        slices: likewise.
        window: likewise.
        channels: likewise.

    >>> data = DataSpec(path="phantoms:colon:4").read()
    >>> len(data), data.classes
    (8, ('normal', 'tumour'))
    """

    path: str
    image_column: str | None = None
    label_column: str | None = None
    group_column: str | None = None
    image_root: str | None = None
    case_column: str | None = None
    case: Literal["folder"] | None = None
    case_label: Literal["any", "majority", "max"] | None = None
    plane: str | None = None
    slices: str | None = None
    window: str | None = None
    channels: str | None = None

    @property
    def synthetic(self) -> bool:
        """Whether it consists of phantoms."""
        return self.path.startswith("phantoms:")

    def with_absolute_paths(self, name: str, folder: Path) -> DataSpec:
        """The same with absolute paths, so that workers in other folders find it.

        Args:
            name: of the data set. If it is a known one, and the path is a folder, the folder is
                read as that data set.
            folder: that its paths are relative to.
        """
        from medept.data.sources import SOURCES

        if self.synthetic:
            return self
        known, colon, place = self.path.partition(":")
        if not colon or known not in SOURCES:
            known, place = "", self.path
        try:
            path = (folder / place).resolve()
            if not known and name in SOURCES and path.is_dir():
                known = name
            root = self.image_root and str((folder / self.image_root).resolve())
        except (OSError, ValueError) as error:  # too long, or with a null character
            raise SettingsError(
                f"the data set {name[:60]!r}: {self.path[:60]!r} is not a usable path ({error}); "
                "write where it is"
            ) from error
        absolute = {"path": f"{known}:{path}" if known else str(path), "image_root": root}
        return self.model_copy(update=absolute)

    def read(self) -> LabelledImages:
        """The data set, without decoding its images.

        Raises:
            InputError: if it is missing or cannot be used.
        """
        from medept.data.sources import open_dataset
        from medept.phantoms import make_phantoms

        if not self.synthetic:
            return open_dataset(self.path, **self.model_dump(exclude={"path"}))
        task, _, patients = self.path.partition(":")[2].partition(":")
        if patients and not patients.isdecimal():
            raise SettingsError(f"{self.path}: write phantoms:TASK, or phantoms:TASK:PATIENTS")
        return make_phantoms(task, patients=int(patients or 120), images_per_patient=2)


class EncoderSpec(_Frozen):
    """An encoder.

    Args:
        name: as for ``medept fit``.
        weights: a file, ``random``, or None for the encoder's own.
        image_size: pixels a side; None for the encoder's own.
        readout: as for ``medept fit``, and so are ``symmetry``, ``tta`` and ``fit_image``.

    >>> EncoderSpec(name="vit_tiny_patch16_224", weights="weights/mine.safetensors").title
    'vit_tiny_patch16_224, mine.safetensors'
    """

    name: str = EMBEDDED
    weights: str | None = None
    image_size: int | None = None
    readout: str = "auto"
    symmetry: str = "auto"
    tta: int | None = None
    fit_image: str = OWN_FIT

    @property
    def title(self) -> str:
        """The name under which results are shown."""
        size = f", {self.image_size} pixels" if self.image_size else ""
        if self.weights in (None, RANDOM):
            weights = f", {RANDOM} weights" if self.weights else ""
        else:
            file = Path(str(self.weights)).name
            weights = "" if file.split(".")[0] == self.name else f", {file}"
        views = "" if self.tta is None else f", {self.tta} views"
        given = [f", {name}" for name in (self.readout, self.symmetry) if name != "auto"]
        given += [f", {self.fit_image}"] if self.fit_image != OWN_FIT else []
        return self.name + weights + size + "".join(given) + views

    def with_absolute_paths(self, folder: Path) -> EncoderSpec:
        """The same with an absolute path of its weights.

        Args:
            folder: that the path is relative to.

        Raises:
            InputError: if there is no such file, or the encoder takes no weights.
        """
        if self.weights in (None, RANDOM):
            return self
        if self.name == EMBEDDED:
            raise SettingsError(
                f"{self.weights}: weights of the encoder {EMBEDDED!r}, which has its own; name the "
                "encoder that they belong to"
            )
        try:
            file = (folder / str(self.weights)).resolve()
            there = file.is_file()
        except (OSError, ValueError):  # too long, or with a null character
            file, there = folder / str(self.weights), False
        if not there:
            raise SettingsError(f"{file}: no such file of weights, for the encoder {self.name}")
        return self.model_copy(update={"weights": str(file)})


class MethodSpec(_Frozen):
    """A method, its settings, its pooling, and its changes to the recipe of the suite.

    Args:
        method: its name.
        settings: of the method.
        pool: how cases of several images are pooled, as for ``medept fit``.
        recipe: values of :class:`medept.training.recipes.Recipe`, such as ``{"epochs": 10}``, and
            under ``recipe`` the name of another recipe.

    >>> MethodSpec(method="ept", recipe={"recipe": "paper", "epochs": 5}).recipe_within("medept")
    ('paper', {'epochs': 5})
    """

    method: str
    settings: dict[str, Any] = {}
    pool: str = "mean"
    recipe: dict[str, Any] = {}

    def recipe_within(self, recipe: str) -> tuple[str, dict[str, Any]]:
        """The name of its recipe, by default that of the suite, and its changes to that recipe."""
        changes = dict(self.recipe)
        return changes.pop("recipe", recipe), changes


class Run(_Frozen):
    """One fit and its evaluation, with all that is needed to repeat them.

    Args:
        data: name under which results are shown.
        source: the data set.
        encoder: the encoder.
        label: of the method, under which results are shown.
        method: the method.
        recipe: name of the suite's recipe.
        precision: as for ``medept fit``.
        shots: per class; a share of them; None for all.
        episode: seed of the draw of the support set, or name of an official one.
        seed: of initial values, views and their order.
        tune: number of trials inside the support set.
        plugins: file or module -> what it has to be, for a method from outside (workers load it).
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
    plugins: dict[str, Plugin] = {}

    @property
    def id(self) -> str:
        """A hash of all that defines the run.

        That includes the defaults of its method and recipe, so if they change it is another run.
        """
        from medept.methods import read_settings
        from medept.training.recipes import make_recipe

        method = self.method.method
        recipe, changes = self.method.recipe_within(self.recipe)
        whole = self.model_dump(exclude=None if self.plugins else {"plugins"}) | {
            "settings": read_settings(method, self.method.settings).model_dump(),
            "whole_recipe": make_recipe(recipe, method, **changes).model_dump(),
        }
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]


def content_hash(data: LabelledImages, encoder: EncoderSpec) -> str:
    """SHA-256 of the files that a run depends on: its table and its encoder's weights.

    Images are part of it by name, and not by their pixels.
    """
    from medept.data.image_hashes import file_hash

    columns = [data.names, data.classes, data.targets, data.groups, data.splits]
    rows = [None if column is None else np.asarray(column).tolist() for column in columns]
    weights = None if encoder.weights == RANDOM else encoder.weights
    whole = json.dumps([*rows, weights and file_hash(weights)])
    return hashlib.sha256(whole.encode()).hexdigest()
