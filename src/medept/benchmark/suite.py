"""A suite: the data sets, encoders, methods, shots and episodes of a benchmark.

Suites are YAML files. Those that ship with medept repeat the tables and figures of the paper.
"""

from __future__ import annotations

import math
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from medept.benchmark.run import DataSpec, EncoderSpec, MethodSpec, Run
from medept.errors import SettingsError, problems
from medept.methods import find_method, find_pool, load_plugin, read_settings
from medept.methods.plugins import names_file, to_load

SHIPPED = files(__package__).joinpath("suites")

MOST_RUNS = 100_000
"""Of one suite; more are taken for a slip of the pen."""


def _as_mapping(value: Any) -> Any:
    """A path alone stands for a data set at that path."""
    return {"path": value} if isinstance(value, str) else value


class Suite(BaseModel):
    """A benchmark. Its runs are all combinations of what it names.

    Args:
        title: of its report.
        table: the table or figure of the paper that it repeats, such as ``table1``; None if none.
        data: name -> data set, as a :class:`~medept.benchmark.run.DataSpec` or its path; None if
            the user has to say where it is.
        encoders: by default the embedded one.
        methods: label -> method; None for the method that the label names.
        shots: whole numbers, shares such as ``20%``, or ``all``.
        episodes: number of support sets, or a list of seeds or of official ones (``exp1``).
        repeats: runs per episode, each with another seed.
        recipe: ``medept`` or ``paper``.
        precision: ``float32``, ``bfloat16`` or ``float16``; not ``auto``, which could differ
            between workers.
        tune: trials of each method inside each support set.
        plugins: files or modules with methods from outside, as for :func:`medept.load_plugin`.

    >>> suite = Suite(title="Mine", data={"mine": "phantoms:colon"}, methods={"ept": None})
    >>> len(suite.runs())  # 3 shots times 5 episodes
    15
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    table: str | None = None
    data: dict[str, Annotated[DataSpec | None, BeforeValidator(_as_mapping)]]
    encoders: list[EncoderSpec] = Field(default=[EncoderSpec()], min_length=1)
    methods: dict[str, MethodSpec | None] = Field(min_length=1)
    shots: list[int | str] = Field(default=[1, 5, 10], min_length=1)
    episodes: int | list[int | str] = 5
    repeats: int = Field(default=1, ge=1)
    recipe: str = "medept"
    precision: str = Field(default="float32", pattern="^(float32|bfloat16|float16)$")
    tune: int = Field(default=0, ge=0)
    plugins: list[str] = []

    def part(self, *, methods: list[str] | None = None, episodes: int | None = None) -> Suite:
        """The same with fewer methods, or only the first episodes.

        Raises:
            InputError: if it has no such method, or fewer episodes.
        """
        labels = methods or list(self.methods)
        unknown = sorted(set(labels) - set(self.methods))
        if unknown:
            raise SettingsError(
                f"{self.title}: it has no method {', '.join(unknown)}; its methods are "
                + ", ".join(self.methods)
            )
        self._check_count()
        there = self._episodes()
        count = len(there) if episodes is None else episodes
        if not 1 <= count <= len(there):
            raise SettingsError(
                f"{self.title}: it has {len(there)} episodes; {count} were asked for"
            )
        chosen = {label: self.methods[label] for label in labels}
        return self.model_copy(update={"methods": chosen, "episodes": there[:count]})

    def with_encoders(self, weights: Path | None, image_size: int | None) -> Suite:
        """The same with other weights, or another input size, for its encoders.

        Args:
            weights: a file, relative to the working folder; None to change nothing.
            image_size: pixels a side; None to change nothing.

        Raises:
            InputError: if there is no such file, or the suite has several encoders.
        """
        if weights and len(self.encoders) > 1:
            names = ", ".join(encoder.name for encoder in self.encoders)
            raise SettingsError(
                f"{self.title}: weights belong to one encoder: say which with encoder= ({names})"
            )
        changes = {"weights": weights and str(weights), "image_size": image_size}
        given = {name: value for name, value in changes.items() if value}
        encoders = [
            encoder.model_copy(update=given).with_absolute_paths(Path.cwd())
            for encoder in self.encoders
        ]
        return self.model_copy(update={"encoders": encoders})

    def _check_count(self) -> None:
        episodes = self.episodes if isinstance(self.episodes, int) else len(self.episodes)
        lists = (self.encoders, self.data, self.shots, self.methods)
        count = math.prod(map(len, lists)) * max(episodes, 0) * self.repeats
        if count > MOST_RUNS:
            raise SettingsError(
                f"{self.title}: it asks for {count:,} runs; at most {MOST_RUNS:,} are done, so "
                "give fewer episodes or repeats"
            )

    def _episodes(self) -> list[int | str]:
        return list(range(self.episodes)) if isinstance(self.episodes, int) else self.episodes

    @property
    def synthetic(self) -> set[str]:
        """Names of the data sets that consist of phantoms."""
        return {name for name, spec in self.data.items() if spec and spec.synthetic}

    def with_absolute_paths(self, folder: Path) -> Suite:
        """The same with absolute paths; relative ones are taken relative to ``folder``."""
        data = {k: spec and spec.with_absolute_paths(k, folder) for k, spec in self.data.items()}
        encoders = [encoder.with_absolute_paths(folder) for encoder in self.encoders]
        plugins = [str((folder / p).resolve()) if names_file(p) else p for p in self.plugins]
        changes = {"data": data, "encoders": encoders, "plugins": plugins}
        return self.model_copy(update=changes)

    def runs(self) -> list[Run]:
        """All runs; the methods of one episode come one after another.

        Raises:
            InputError: if there is no data set, it is not known where one is, or two encoders
                have the same title.
        """
        from medept.episodes.draw import parse_shots

        missing = [name for name, spec in self.data.items() if spec is None] or (
            [] if self.data else ["NAME"]
        )
        if missing:
            asked = " ".join(f"data={name}=PATH" for name in missing)
            raise SettingsError(f"{self.title}: say where its data sets are: {asked}")
        titles = [encoder.title for encoder in self.encoders]
        if len(set(titles)) < len(titles):
            raise SettingsError(
                f"{self.title}: two of its encoders have the same title ({', '.join(titles)}): "
                "rename a file of weights"
            )
        self._check_count()
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
                plugins=to_load(find_method(method.method if method else label)),
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
    """Names of the suites that ship with medept.

    >>> shipped_names()[:2]
    ['local', 'paper-a5']
    """
    return sorted(item.name[:-5] for item in SHIPPED.iterdir() if item.name.endswith(".yaml"))


def read_suite(name: str, /, **changes: Any) -> Suite:
    """A suite from a file, or one that ships with medept, with some fields changed.

    Paths in a file are relative to that file, and paths in ``changes`` to the working folder.

    Args:
        name: a YAML file, or the name of a shipped suite.
        changes: fields of :class:`Suite`. Data sets are added to those of the suite.

    Raises:
        InputError: if there is no such suite, or a field, method, setting or recipe is wrong.

    >>> suite = read_suite("quick", shots=[1], episodes=1)
    >>> [run.label for run in suite.runs()][:2]
    ['linear', 'ept']
    """
    from medept.training.recipes import make_recipe

    shipped = SHIPPED.joinpath(f"{name}.yaml")
    source = shipped if shipped.is_file() else Path(name)
    try:
        content = yaml.safe_load(source.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise SettingsError(
            f"no suite {name[:200]!r} can be read ({error}): use a YAML file, or "
            + ", ".join(shipped_names())
        ) from error
    if not isinstance(content, dict):
        raise SettingsError(f"{name}: a suite is a mapping with title, data and methods")
    suite = _validated(name, content).with_absolute_paths(Path(name).parent)
    data = suite.data | changes.pop("data", {})
    suite = _validated(name, dict(suite) | changes | {"data": data})
    suite = suite.with_absolute_paths(Path.cwd())
    for plugin in suite.plugins:
        load_plugin(plugin)
    for label, spec in suite.methods.items():
        method = spec or MethodSpec(method=label)
        read_settings(method.method, method.settings)
        find_pool(method.pool, method.method)
        recipe, changes = method.recipe_within(suite.recipe)
        make_recipe(recipe, method.method, **changes)
    return suite


def _validated(name: str, content: dict[str, Any]) -> Suite:
    try:
        return Suite.model_validate(content)
    except ValidationError as error:
        raise SettingsError(f"suite {name}: {problems(error)}") from error
