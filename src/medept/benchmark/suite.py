"""A suite: which data sets, encoders, methods, shots and episodes make up a benchmark's runs.

A suite is a YAML file. Those that ship with medept repeat the paper's tables and figures.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from medept.benchmark.run import DataSpec, EncoderSpec, MethodSpec, Run
from medept.errors import SettingsError, problems

SHIPPED = files(__package__).joinpath("suites")


def _path_alone(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


class Suite(BaseModel):
    """What is run: the product of all that it names.

    Args:
        data: name -> what ``medept fit`` takes as DATA (see :class:`DataSpec`), or null where the
            user has to say where it is.
        methods: label -> method; a label alone stands for the method of that name.
        shots: whole numbers, shares such as ``20%``, or ``all``.
        episodes: how many support sets, or a list of seeds or of official episodes (``exp1``).
        repeats: runs of each episode, with seeds of their own.
        recipe: ``medept`` or ``paper``.
        precision: ``float32``, or ``bfloat16`` or ``float16`` where the machine offers them. Not
            ``auto``, which might differ between the workers.
        tune: trials that each method gets inside each support set.
        table: the table or figure of the paper that it repeats, for ``medept report``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    table: str | None = None
    data: dict[str, Annotated[DataSpec | None, BeforeValidator(_path_alone)]]
    encoders: list[EncoderSpec] = Field(default=[EncoderSpec()], min_length=1)
    methods: dict[str, MethodSpec | None] = Field(min_length=1)
    shots: list[int | str] = Field(default=[1, 5, 10], min_length=1)
    episodes: int | list[int | str] = 5
    repeats: int = Field(default=1, ge=1)
    recipe: str = "medept"
    precision: str = Field(default="float32", pattern="^(float32|bfloat16|float16)$")
    tune: int = Field(default=0, ge=0)

    def part(self, *, methods: list[str] | None = None, episodes: int | None = None) -> Suite:
        """The same with some of its methods, or its first episodes, alone.

        Raises:
            InputError: if it has no such method, or not so many episodes.
        """
        labels = methods or list(self.methods)
        unknown = sorted(set(labels) - set(self.methods))
        if unknown:
            raise SettingsError(
                f"{self.title}: it has no method {', '.join(unknown)}; its methods are "
                + ", ".join(self.methods)
            )
        there = self._episodes()
        count = len(there) if episodes is None else episodes
        if not 1 <= count <= len(there):
            raise SettingsError(
                f"{self.title}: it has {len(there)} episodes; {count} were asked for"
            )
        chosen = {label: self.methods[label] for label in labels}
        return self.model_copy(update={"methods": chosen, "episodes": there[:count]})

    def with_encoders(self, weights: Path | None, image_size: int | None) -> Suite:
        """The same with another file of weights, or input size, of its encoders.

        Args:
            weights: relative to the working folder.

        Raises:
            InputError: if there is no such file, or it would be of several encoders.
        """
        if weights and len(self.encoders) > 1:
            names = ", ".join(encoder.name for encoder in self.encoders)
            raise SettingsError(
                f"{self.title}: weights are of one encoder: say with --encoder of which ({names})"
            )
        changes = {"weights": weights and str(weights), "image_size": image_size}
        given = {name: value for name, value in changes.items() if value}
        encoders = [
            encoder.model_copy(update=given).placed(Path.cwd()) for encoder in self.encoders
        ]
        return self.model_copy(update={"encoders": encoders})

    def _episodes(self) -> list[int | str]:
        return list(range(self.episodes)) if isinstance(self.episodes, int) else self.episodes

    @property
    def drawn(self) -> set[str]:
        """Names of the data sets that are phantoms."""
        return {name for name, spec in self.data.items() if spec and spec.drawn}

    def placed(self, folder: Path) -> Suite:
        """The same with absolute paths, where they are relative to ``folder``."""
        data = {k: spec and spec.placed(k, folder) for k, spec in self.data.items()}
        encoders = [encoder.placed(folder) for encoder in self.encoders]
        return self.model_copy(update={"data": data, "encoders": encoders})

    def runs(self) -> list[Run]:
        """Every run; all methods of one episode stand together.

        Raises:
            InputError: if a data set's place has not been given, there is none, or two encoders
            cannot be told apart.
        """
        from medept.episodes.draw import parse_shots

        missing = [name for name, spec in self.data.items() if spec is None] or (
            [] if self.data else ["NAME"]
        )
        if missing:
            asked = " ".join(f"--data {name}=PATH" for name in missing)
            raise SettingsError(f"{self.title}: say where its data sets are: {asked}")
        titles = [encoder.title for encoder in self.encoders]
        if len(set(titles)) < len(titles):
            raise SettingsError(
                f"{self.title}: two of its encoders would be shown alike ({', '.join(titles)}): "
                "rename a file of weights"
            )
        return [
            Run(
                data=name,
                source=spec,
                encoder=encoder,
                label=label,
                method=method or MethodSpec(method=label),
                recipe=self.recipe,
                precision=self.precision,
                shots=parse_shots(shots),
                episode=episode,
                seed=seed,
                tune=self.tune,
            )
            for encoder in self.encoders
            for name, spec in self.data.items()
            if spec
            for episode in self._episodes()
            for shots in self.shots
            for seed in range(self.repeats)
            for label, method in self.methods.items()
        ]


def shipped_names() -> list[str]:
    """Names of the suites inside the package."""
    return sorted(item.name[:-5] for item in SHIPPED.iterdir() if item.name.endswith(".yaml"))


def read_suite(name: str, /, **changes: Any) -> Suite:
    """A suite by file or by the name of a shipped one, with parts of it replaced.

    Paths in a suite's file are relative to that file; those in ``changes`` to the working folder.

    Args:
        changes: fields of :class:`Suite`; ``data`` is added to the suite's own.

    Raises:
        InputError: if there is none, or what it says makes no sense.
    """
    from medept.methods import read_settings
    from medept.training.recipes import make_recipe

    shipped = SHIPPED.joinpath(f"{name}.yaml")
    source = shipped if shipped.is_file() else Path(name)
    try:
        content = yaml.safe_load(source.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(
            f"no suite {name!r} can be read ({error}): use a YAML file, or "
            + ", ".join(shipped_names())
        ) from error
    if not isinstance(content, dict):
        raise SettingsError(f"{name}: a suite is a mapping with title, data and methods")
    suite = _checked(name, content).placed(Path(name).parent)
    data = suite.data | changes.pop("data", {})
    suite = _checked(name, dict(suite) | changes | {"data": data}).placed(Path.cwd())
    for label, spec in suite.methods.items():
        method = spec or MethodSpec(method=label)
        read_settings(method.method, method.settings)
        recipe, changes = method.recipe_within(suite.recipe)
        make_recipe(recipe, method.method, **changes)
    return suite


def _checked(name: str, content: dict[str, Any]) -> Suite:
    try:
        return Suite.model_validate(content)
    except ValidationError as error:
        raise SettingsError(f"suite {name}: {problems(error)}") from error
