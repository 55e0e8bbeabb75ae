"""The verb that hands an adapter on: export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from medept.cli.app import ADAPT, app
from medept.cli.console import notes, print_json, results
from medept.cli.options import AdapterFolder, Columns, Json, TestViews, Weights, with_columns


@app.command(rich_help_panel=ADAPT)
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
