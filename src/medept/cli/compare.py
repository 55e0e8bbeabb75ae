"""Verbs that compare methods and look inside them."""

from __future__ import annotations

import json
import re
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from medept.cli.app import COMPARE, app
from medept.cli.console import (
    notes,
    print_json,
    progress_bars,
    results,
    resumable,
    with_options,
)
from medept.cli.options import (
    Columns,
    ImageSize,
    Json,
    Weights,
    read_pairs,
    read_settings,
    with_columns,
    with_plugins,
)
from medept.encoders.catalogue import Entry, Modality, suited_to
from medept.errors import SettingsError

if TYPE_CHECKING:
    from medept.methods import AdaptedEncoder


@app.command(rich_help_panel=COMPARE)
@with_plugins
@with_columns
def bench(
    suite: Annotated[
        str,
        typer.Argument(
            metavar="SUITE", help="YAML file of a suite, or the name of one: --list shows them."
        ),
    ] = "quick",
    out: Annotated[
        Path, typer.Option(help="Folder of runs and results; resumed if it exists.")
    ] = Path("medept-bench"),
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=DATA",
            help="A data set: where one of the suite's is, or one more; repeatable.",
        ),
    ] = None,
    *,
    columns: Columns,
    encoder: Annotated[
        str | None, typer.Option(help="Encoder to use instead of the suite's.")
    ] = None,
    encoder_weights: Weights = None,
    image_size: ImageSize = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method", metavar="NAME", help="Run only this method of the suite; repeatable."
        ),
    ] = None,
    episodes: Annotated[
        int | None,
        typer.Option(min=1, help="Run only the first N support sets of the suite.", metavar="N"),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Replace a field of the suite, as in shots=[1,5]; repeatable.",
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time. Default: as many as fit.")
    ] = None,
    cores: Annotated[int, typer.Option(min=1, help="CPU cores per run.")] = 1,
    gpus: Annotated[
        float | None,
        typer.Option(
            min=0, help="GPUs per run; 0.25 puts four on one. Default: 1 if there is any."
        ),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Address of a Ray cluster. Default: this machine.")
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Run failed runs again.")] = False,
    show: Annotated[
        bool, typer.Option("--list", help="List the suites that ship with medept.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run a benchmark over data sets, methods, shots and episodes, on one machine or many.

    If it is stopped, the same command resumes. The exit code is 1 if a run failed.
    """
    from medept.benchmark.run import DataSpec
    from medept.benchmark.suite import read_suite, shipped_names

    if show:
        suites = {name: read_suite(name).title for name in shipped_names()}
        if as_json:
            print_json(suites)
        else:
            results.print(
                "\n".join(f"{name:14} {title}" for name, title in suites.items()), soft_wrap=True
            )
        return
    from medept.benchmark.runner import run_suite

    given = {name: value and str(value) for name, value in columns.items()}
    of_tables = DataSpec.model_validate({"path": "", **given})
    named = read_pairs("--data", data or [])
    changes = read_settings("--set", setting or [])
    if "data" in changes:
        raise SettingsError("--set data=...: name a data set with --data NAME=DATA")
    if not named and any(columns.values()):
        raise SettingsError(
            "columns and --image-root describe data given with --data NAME=DATA: give that too"
        )
    changes["data"] = {n: of_tables.model_copy(update={"path": p}) for n, p in named.items()}
    if encoder:
        changes["encoders"] = [{"name": encoder}]
    chosen = (
        read_suite(suite, **changes)
        .part(methods=method, episodes=episodes)
        .with_encoders(encoder_weights, image_size)
    )
    with resumable(), progress_bars() as report:
        rows = run_suite(
            chosen,
            out,
            workers=workers,
            cores=cores,
            gpus=gpus,
            address=address,
            retry=retry,
            progress=report,
        )
    failed = rows[rows["error"] != ""]
    if as_json:
        print_json({"out": str(out), "runs": len(rows), "failed": len(failed)})
    else:
        notes.print(
            f"{len(rows)} runs. Written to {out}/results.parquet\nNext: medept report {out}"
        )
    if len(failed):
        first = failed.iloc[0]
        reason = with_options(first["error"].splitlines()[-1])
        notes.print(
            f"{len(failed)} of {len(rows)} runs failed, the first of them {first['label']} on "
            f"{first['data']}: {reason}\nTracebacks are in the column `error` of "
            f"{out}/results.parquet. --retry runs them again.",
            markup=False,
        )
        raise typer.Exit(1)


@app.command(rich_help_panel=COMPARE)
@with_columns
def report(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder that `fit` or `bench` wrote.")
    ],
    data: Annotated[
        Path | None,
        typer.Argument(metavar="DATA", help="The data of a fit, to show some of its images."),
    ] = None,
    *,
    columns: Columns,
    as_json: Json = False,
) -> None:
    """Write DIR/report.html: the page of a fit, again, or the tables and figures of a benchmark."""
    from medept.benchmark.page import write_benchmark
    from medept.benchmark.results import holds_benchmark
    from medept.data.sources import open_dataset
    from medept.report.fit_page import write_fit_page

    images = None
    if data is not None:
        table = open_dataset(data, **columns)
        images = table.pictures()
    benchmark = holds_benchmark(folder)
    written = write_benchmark(folder) if benchmark else write_fit_page(folder, images)
    if as_json:
        print_json({"out": str(written)})
    else:
        notes.print(f"Written to {written}")
        if data is None and not benchmark:
            notes.print("Without DATA it shows none of the images.")


@app.command(rich_help_panel=COMPARE)
@with_plugins
@with_columns
def analyse(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL... DATA",
            help="Folders of adapters or names of encoders; then the data, as for `fit`.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="New folder for tables and figures.")],
    of_class: Annotated[
        str | None,
        typer.Option("--class", help="Class in figure 2 (a) and (b). Default: the largest."),
    ] = None,
    embedding: Annotated[
        Literal["tsne", "pca"], typer.Option(help="Projection of figure 2 (b) and (c).")
    ] = "tsne",
    separate: Annotated[
        bool, typer.Option("--separate", help="Project each panel separately, as in the paper.")
    ] = False,
    images: Annotated[
        int, typer.Option(min=10, help="Use at most N images, drawn at random.", metavar="N")
    ] = 1000,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Seed of the draw and the projection.")
    ] = 0,
    *,
    columns: Columns,
    as_json: Json = False,
) -> None:
    """Compare features before and after adapting, and show which patches prompts turn down.

    Adapters of the same method count as its episodes. Images that an adapter was fitted to, and
    others of their groups, are left out.
    """
    from medept.analysis import analyse as analyse_models
    from medept.analysis import summary_table
    from medept.data.sources import open_dataset
    from medept.fits.adapter import holds_adapter, read_info

    *given, source = models
    if not given:
        raise SettingsError(f"{source}: give one model at least, and the data after it")
    adapters = [read_info(Path(name)) for name in given if holds_adapter(name)]
    table = open_dataset(
        source,
        **columns,
        classes=adapters[0].classes if adapters else None,
        task=adapters[0].task if adapters else None,
    )
    with progress_bars() as report:
        found = analyse_models(
            given,
            table,
            out,
            limit=images,
            chosen=of_class,
            embedding=embedding,
            joint=not separate,
            seed=seed,
            progress=report,
        )
    if as_json:
        print_json({"out": str(out), "models": json.loads(found.to_json(orient="records"))})
        return
    means = summary_table(found)
    title = f"{found.n[0]} images; mean ± standard deviation over episodes"
    shown = Table("", *means.columns, title=title)
    for name, values in means.iterrows():
        shown.add_row(str(name).replace("_", " "), *values)
    results.print(shown)
    written = ", ".join(sorted(file.name for file in out.iterdir()))
    notes.print(f"Written to {out}: {written}")


@app.command(rich_help_panel=COMPARE)
@with_plugins
def methods(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Explain the settings of this method.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List methods, with their settings, learning rates and what --tune searches over."""
    from medept.methods import METHODS, find_method
    from medept.training.recipes import make_recipe

    if name is None:
        _find_packaged()
    chosen = sorted(METHODS) if name is None else [find_method(name).name]
    known = {each: METHODS[each] for each in chosen}
    if as_json:
        print_json(
            {
                name: {
                    "summary": method.summary,
                    "settings": method.Settings().model_dump(),
                    "recipe": make_recipe("medept", name).model_dump(),
                    "search": {**dict.fromkeys(method.rates), **method.search},
                }
                for name, method in known.items()
            }
        )
        return
    if name is not None:
        _show_method(find_method(name))
        return
    table = Table(
        "method",
        "what is trained",
        "settings (--set NAME=VALUE)",
        "optimiser; learning rates: head, encoder",
    )
    for name, method in known.items():
        settings = ", ".join(f"{k}={v}" for k, v in method.Settings().model_dump().items())
        optimiser, *rates = _learning(method).values() or [""]
        table.add_row(name, method.summary, settings, f"{optimiser} {', '.join(rates)}")
    results.print(table)
    notes.print("medept methods NAME explains the settings of one.")


def _find_packaged() -> None:
    """Register what installed packages offer, with a warning for each method that fails."""
    from medept.methods import find_method, packaged

    for name in sorted(packaged()):
        try:
            find_method(name)
        except SettingsError as error:
            notes.print(f"warning: {error}")


def _show_method(method: type[AdaptedEncoder]) -> None:
    from medept.methods import shown_settings

    learning = ", ".join(f"{k.replace('_', '-')} {v}" for k, v in _learning(method).items())
    learning = learning and f" ({learning})"
    results.print(f"{method.name}: {method.summary}{learning}\n", markup=False)
    results.print(_plain(method.__doc__), markup=False)
    table = Table("--set", "default", "--tune tries", "what it means")
    for name, field in shown_settings(method).items():
        tried = ", ".join(map(str, method.search.get(name, ())))
        table.add_row(name, str(field.default), tried, _plain(field.description))
    if table.rows:
        results.print("", table)


def _learning(method: type[AdaptedEncoder]) -> dict[str, str]:
    """The default optimiser and learning rates; nothing for a method that has none."""
    from medept.training.recipes import make_recipe

    recipe = make_recipe("medept", method.name)
    rates = {rate: f"{getattr(recipe, rate):g}" for rate in method.rates}
    return {"optimizer": recipe.optimizer} | rates if rates else {}


def _plain(docstring: str | None) -> str:
    """A docstring without its markup, each paragraph on one line."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"\1", cleandoc(docstring or "")).replace("``", "")
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


@app.command(rich_help_panel=COMPARE)
def encoders(
    pattern: Annotated[
        str,
        typer.Argument(
            metavar="PATTERN", help="Show timm names that contain this; `*` stands for any text."
        ),
    ] = "vit_*",
    modality: Annotated[
        Modality | None,
        typer.Option(help="Show the catalogue's encoders for such images instead."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List encoders: the embedded one and those of timm, or those for a kind of images.

    --encoder takes the names, and hf-hub:OWNER/NAME (timm), transformers:NAME,
    open_clip:NAME, open_clip:hf-hub:OWNER/NAME and folders that hold a model of the three.
    """
    import timm

    if modality is not None:
        _print_catalogue(suited_to(modality), as_json)
        return

    names = ["embedded", *timm.list_models(pattern if "*" in pattern else f"*{pattern}*")]
    if as_json:
        print_json({"encoders": names})
        return
    results.print("embedded        ships inside medept, needs no network")
    results.print(
        "\n".join(names[1:]) or f"no timm model has {pattern!r} in its name", soft_wrap=True
    )


def _print_catalogue(entries: list[Entry], as_json: bool) -> None:
    """A table of encoders, or all that is known of them."""
    if as_json:
        print_json({"encoders": [entry.model_dump() for entry in entries]})
        return
    table = Table("encoder", "licence", "gated", "millions", "pixels", "trained on")
    for entry in entries:
        table.add_row(
            entry.name,
            entry.licence or "?",
            {True: "yes", False: "no", None: "?"}[entry.gated],
            f"{entry.parameters:,.0f}",
            str(entry.input_size),
            entry.training_data or "?",
        )
    results.print(table)
    results.print(
        "millions: parameters. ?: not found out. No weights were downloaded to check this."
    )
