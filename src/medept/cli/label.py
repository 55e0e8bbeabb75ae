"""Verbs that help to label: which images next, and the page in the browser."""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from medept.cli.app import DATA, app
from medept.cli.console import notes, print_json, progress_bars
from medept.cli.options import (
    CaseColumn,
    CaseOption,
    Device,
    EncoderName,
    ImageColumn,
    ImageRoot,
    ImageSize,
    Json,
    Weights,
)


@app.command(rich_help_panel=DATA)
def suggest(
    pool: Annotated[Path, typer.Argument(metavar="POOL", help="Folder or table of images.")],
    out: Annotated[Path, typer.Option(help="New .csv with the images to label, the best first.")],
    labelled: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What is labelled: labels.csv, or data as for `fit`."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Images or cases to suggest.")] = 20,
    strategy: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="random, typical, centres, cover or herding; margin or badge once two classes "
            "have labels; or auto, the best measured.",
        ),
    ] = "auto",
    features: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder to keep features in, so that they are computed once."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed suggests the same images.")] = 0,
    image_column: ImageColumn = None,
    image_root: ImageRoot = None,
    case_column: CaseColumn = None,
    case: CaseOption = None,
    encoder: EncoderName = "embedded",
    encoder_weights: Weights = None,
    image_size: ImageSize = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Say which images to label next, so that few labels teach much.

    Without labels these are typical images that differ from each other. Fill in the column `label`
    of the table, and give it to `fit`; or label in the browser with `medept app`.
    """
    from medept.labelling.pool import open_pool
    from medept.training.extractor import FeatureExtractor
    from medept.workflows.label import (
        pool_features,
        read_answers,
        suggest_from,
        write_suggestions,
    )
    from medept.workflows.predict import refuse_output

    refuse_output(out, "suggestions", ".csv")
    found = open_pool(
        pool,
        image_column=image_column,
        image_root=image_root,
        case_column=case_column,
        case=case,
    )
    answers = {} if labelled is None else read_answers(found, labelled)
    with progress_bars() as report, ExitStack() as stack:
        place = features or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        extractor = FeatureExtractor.load(
            encoder,
            weights=encoder_weights,
            image_size=image_size,
            readout="auto",
            device=device,
            precision="float32",
        )
        cache = pool_features(found, place, extractor)
        cache.whole(report)
        rows = suggest_from(found, cache, answers, count, strategy=strategy, seed=seed)
    table = write_suggestions(found, rows, out)
    if as_json:
        print_json({"out": str(out), "suggestions": table.to_dict(orient="records")})
        return
    what = "cases" if found.has_cases else "images"
    left = len(found) - len(answers)
    notes.print(f"{len(rows)} of {left} {what} without a label. Written to {out}")


@app.command("app", rich_help_panel=DATA)
def app_(
    images: Annotated[
        Path, typer.Argument(metavar="FOLDER_OR_TABLE", help="Images, with or without labels.")
    ],
    port: Annotated[int, typer.Option(help="Where to listen; 0 takes any that is free.")] = 0,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Only print the address; open it yourself.")
    ] = False,
    project: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where labels and fits are kept. Default: beside the images, in NAME-medept.",
        ),
    ] = None,
    image_column: ImageColumn = None,
    image_root: ImageRoot = None,
    case_column: CaseColumn = None,
    case: CaseOption = None,
    encoder: Annotated[
        str | None,
        typer.Option("--encoder", metavar="NAME", help="What is fitted, as for `fit`."),
    ] = None,
    symmetry: Annotated[
        str | None,
        typer.Option("--symmetry", metavar="NAME", help="Views that mean the same, as for `fit`."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Label, fit, see and predict in the browser, on this computer alone.

    The address that is printed works once. Everything is kept in plain files as it is done.
    """
    from medept.app.server import run_page
    from medept.labelling.pool import open_pool

    found = open_pool(
        images,
        image_column=image_column,
        image_root=image_root,
        case_column=case_column,
        case=case,
    )

    def started(address: str) -> None:
        if as_json:
            print_json({"address": address})
            sys.stdout.flush()
        else:
            notes.print(f"Open {address} in a browser on this computer; stop with Ctrl-C")

    run_page(
        found,
        folder=project,
        port=port,
        browser=not no_browser,
        encoder=encoder,
        symmetry=symmetry,
        started=started,
    )
