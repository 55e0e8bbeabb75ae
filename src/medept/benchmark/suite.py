"""A suite: which data sets, encoders, methods, shots and episodes make up a benchmark's runs.

A suite is a YAML file. Those that ship with medept repeat the paper's tables and figures.
"""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medept.data.episodes import read_shots
from medept.errors import InputError, problems

SHIPPED = files(__package__).joinpath("suites")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EncoderSpec(_Strict):
    """An encoder by name, where its weights are (a file, ``random``, or its own), its pixels."""

    name: str = "embedded"
    weights: str | None = None
    image_size: int | None = None


class MethodSpec(_Strict):
    """A method with its settings and what it changes of the recipe."""

    method: str
    settings: dict[str, Any] = {}
    recipe: dict[str, Any] = {}


class Run(_Strict):
    """One fit and its evaluation: all that is needed to do it again.

    ``data`` and ``label`` are the names under which results are shown; ``episode`` draws the
    support set, and ``seed`` the initial values, the views and their order.
    """

    data: str
    source: str
    encoder: EncoderSpec
    label: str
    method: MethodSpec
    recipe: str
    shots: int | float | None
    episode: int | str
    seed: int
    tune: int

    @property
    def id(self) -> str:
        """A name that depends on what the run is, and on nothing else."""
        text = json.dumps(self.model_dump(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Suite(_Strict):
    """What is run: the product of all that it names.

    Args:
        data: name -> what ``medept fit`` takes as DATA (``phantoms:TASK`` is drawn), or null where
            the user has to say where it is.
        methods: label -> method; a label alone stands for the method of that name.
        shots: whole numbers, shares such as ``20%``, or ``all``.
        episodes: how many support sets, or a list of seeds or of official episodes (``exp1``).
        repeats: runs of each episode, with seeds of their own.
        recipe: ``medept`` or ``paper``.
        tune: trials that each method gets inside each support set.
        table: the table or figure of the paper that it repeats, for ``medept report``.
    """

    title: str
    table: str | None = None
    data: dict[str, str | None]
    encoders: list[EncoderSpec] = [EncoderSpec()]
    methods: dict[str, MethodSpec | None]
    shots: list[int | str] = [1, 5, 10]
    episodes: int | list[int | str] = 5
    repeats: int = Field(default=1, ge=1)
    recipe: str = "medept"
    tune: int = Field(default=0, ge=0)

    def only(self, labels: list[str]) -> Suite:
        """The same with these of its methods alone.

        Raises:
            InputError: if it has no such method.
        """
        unknown = sorted(set(labels) - set(self.methods))
        if unknown:
            raise InputError(f"{self.title}: no method {unknown}, but {sorted(self.methods)}")
        return self.model_copy(update={"methods": {k: self.methods[k] for k in labels}})

    def runs(self) -> list[Run]:
        """Every run; all methods of one episode stand together.

        Raises:
            InputError: if a data set's place has not been given.
        """
        missing = [name for name, source in self.data.items() if source is None]
        if missing:
            asked = " ".join(f"--data {name}=PATH" for name in missing)
            raise InputError(f"{self.title}: say where its data sets are: {asked}")
        episodes = range(self.episodes) if isinstance(self.episodes, int) else self.episodes
        return [
            Run(
                data=name,
                source=str(source),
                encoder=encoder,
                label=label,
                method=method or MethodSpec(method=label),
                recipe=self.recipe,
                shots=read_shots(shots),
                episode=episode,
                seed=seed,
                tune=self.tune,
            )
            for encoder in self.encoders
            for name, source in self.data.items()
            for episode in episodes
            for shots in self.shots
            for seed in range(self.repeats)
            for label, method in self.methods.items()
        ]


def shipped_suites() -> dict[str, Suite]:
    """The suites inside the package, by name."""
    found = sorted(item.name for item in SHIPPED.iterdir() if item.name.endswith(".yaml"))
    return {name.removesuffix(".yaml"): read_suite(name.removesuffix(".yaml")) for name in found}


def read_suite(name: str, **changes: Any) -> Suite:
    """A suite by file or by the name of a shipped one, with parts of it replaced.

    Args:
        changes: fields of :class:`Suite`; ``data`` is added to the suite's own.

    Raises:
        InputError: if there is none, or what it says makes no sense.
    """
    from medept.methods import read_settings

    shipped = SHIPPED.joinpath(f"{name}.yaml")
    source = shipped if shipped.is_file() else Path(name)
    try:
        content = yaml.safe_load(source.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        known = ", ".join(
            sorted(i.name[:-5] for i in SHIPPED.iterdir() if i.name.endswith(".yaml"))
        )
        raise InputError(
            f"no suite {name!r} can be read ({error}): use a YAML file, or {known}"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{name}: a suite is a mapping with title, data and methods")
    data = {**(content.get("data") or {}), **changes.pop("data", {})}
    given = {key: value for key, value in changes.items() if value is not None}
    try:
        suite = Suite(**(content | {"data": data} | given))
    except ValidationError as error:
        raise InputError(f"suite {name}: {problems(error)}") from error
    for label, method in suite.methods.items():
        read_settings(method.method if method else label, method.settings if method else {})
    return suite
