"""The verbs that hand an adapter on: export, serve."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from medept.cli.app import ADAPT, app
from medept.cli.console import notes, print_json, results
from medept.cli.options import (
    AdapterFolder,
    Columns,
    Device,
    Json,
    Precision,
    TestViews,
    Weights,
    with_columns,
    with_plugins,
)
from medept.errors import SettingsError


@app.command(rich_help_panel=ADAPT)
@with_plugins
@with_columns
def export(
    adapter: AdapterFolder,
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DATA]",
            help="Labelled data, as for `fit`, to verify the file with; without them, noise.",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="New file, .onnx or .pt2; a .json beside it describes it.")
    ] = Path("model.onnx"),
    number_format: Annotated[
        str,
        typer.Option(help="float32; for .onnx also float16 (half the size) or int8 (a third)."),
    ] = "float32",
    *,
    columns: Columns,
    tta: TestViews = None,
    encoder_weights: Weights = None,
    as_json: Json = False,
) -> None:
    """Write an adapter as one file that runs without medept: ONNX, or a PyTorch program.

    The file holds encoder, adapter, head, calibration and the views that a prediction averages
    over; it takes prepared images and gives probabilities. It is run on images before it appears,
    and is refused if it differs from medept.
    """
    from medept.data.sources import open_dataset
    from medept.fits.adapter import read_info
    from medept.serving.export import export as export_file

    info = read_info(adapter)
    table = None
    if data is not None:
        table = open_dataset(data, **columns, classes=info.classes, task=info.task)
    about = export_file(
        adapter,
        out,
        data=table,
        number_format=number_format,
        tta=tta,
        encoder_weights=encoder_weights,
    )
    if as_json:
        print_json(about)
        return
    _show(about, out)


@app.command(rich_help_panel=ADAPT)
@with_plugins
def serve(
    adapters: Annotated[
        list[Path],
        typer.Argument(metavar="DIR...", help="Folders that `medept fit --out` wrote."),
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but this machine's own needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Where to listen; 0 takes any that is free.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the secret that requests have to bring; only you may read it."
        ),
    ] = None,
    max_megabytes: Annotated[float, typer.Option(help="Of one request.")] = 64,
    max_files: Annotated[int, typer.Option(help="In one request.")] = 32,
    max_megapixels: Annotated[float, typer.Option(help="Of one image.")] = 50,
    timeout: Annotated[
        float, typer.Option(help="Seconds for a request to arrive, and again for its answer.")
    ] = 60,
    queue: Annotated[
        int, typer.Option(help="Requests at the same time; others are told to come again.")
    ] = 64,
    tta: TestViews = None,
    encoder_weights: Weights = None,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: Json = False,
) -> None:
    """Serve adapters over HTTP: images in, probabilities out.

    POST /v1/predict takes files (multipart, field `files`); GET /openapi.json describes the rest.
    Nothing is stored, and of an image only its hash is logged. TLS is left to a proxy.
    """
    from medept.serving.limits import Limits
    from medept.serving.server import serve as run

    if encoder_weights is not None and len(adapters) > 1:
        raise SettingsError("encoder_weights= is for one adapter: serve each by itself")
    run(
        adapters,
        host=host,
        port=port,
        token_file=token_file,
        limits=Limits(max_megabytes, max_files, max_megapixels, timeout, queue),
        encoder_weights=encoder_weights,
        tta=tta,
        device=device,
        precision=precision,
        started=partial(_say_where, as_json),
    )


def _say_where(as_json: bool, address: str, names: list[str]) -> None:
    if as_json:
        print_json({"address": address, "models": names})
        sys.stdout.flush()
    else:
        notes.print(f"Serving {', '.join(names)} at {address}/v1/predict; stop with Ctrl-C")


def _show(about: dict[str, Any], out: Path) -> None:
    verified = about["verified"]
    table = Table("metric", "medept", out.name)
    for name, values in verified.get("metrics", {}).items():
        table.add_row(name, *("–" if value is None else f"{value:.3f}" for value in values))
    if table.row_count:
        results.print(table)
    notes.print(
        f"Verified with {verified['images']} images ({verified['of']}): probabilities differ by at "
        f"most {verified['largest_difference']:.1g}, decisions on "
        f"{verified['changed_decisions']} images. Written to {out} and {out.with_suffix('.json')}"
    )
