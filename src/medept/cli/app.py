"""The application that verbs register with, and the groups its help shows them in."""

from __future__ import annotations

from typing import Annotated

import typer

from medept import __version__

ADAPT, DATA, COMPARE = "Adapt and use", "Data", "Compare and explain"

app = typer.Typer(
    name="medept",
    help="Adapt frozen vision foundation models to medical images from a few labelled examples.",
    epilog="Begin with `medept check DATA` and `medept fit DATA --out my-fit --shots 5`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"medept {__version__}")
        raise typer.Exit


@app.callback(help=app.info.help)
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass
