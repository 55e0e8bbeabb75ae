"""Options that several verbs share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from medept.errors import InputError

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
EncoderName = Annotated[
    str, typer.Option("--encoder", help="Encoder by name: `medept encoders` lists them.")
]
Weights = Annotated[
    Path | None,
    typer.Option("--encoder-weights", help="Local .safetensors file with the encoder's weights."),
]
ImageSize = Annotated[
    int | None, typer.Option("--image-size", help="Pixels a side; default: the encoder's own.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Precision = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
ImageColumn = Annotated[
    str | None, typer.Option(help="Column of image paths; found by its name if not given.")
]
LabelColumn = Annotated[
    str | None,
    typer.Option(help="Column of labels, or several 0/1 columns joined by commas (multi-label)."),
]
GroupColumn = Annotated[
    str | None,
    typer.Option(help="Column of patients, studies or lesions; never on both sides of a split."),
]
SubmissionFormat = Annotated[
    Literal["medfmc"] | None,
    typer.Option(
        "--format", help="medfmc: the challenge's submission files, of medfmc-TASK:FOLDER."
    ),
]
AdapterFolder = Annotated[
    Path, typer.Argument(metavar="DIR", help="What `medept fit --out` wrote.")
]


def read_pairs(option: str, pairs: list[str]) -> dict[str, str]:
    """NAME=VALUE pairs of an option that may be given several times."""
    for pair in pairs:
        if "=" not in pair:
            raise InputError(f"{option} {pair}: write NAME=VALUE")
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}


def read_settings(pairs: list[str]) -> dict[str, Any]:
    """Of --set: values as JSON where they read as that, else as text."""
    settings: dict[str, Any] = {}
    for name, value in read_pairs("--set", pairs).items():
        try:
            settings[name] = json.loads(value)
        except json.JSONDecodeError:
            settings[name] = value
    return settings
