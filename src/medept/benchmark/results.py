"""What a benchmark leaves in its folder: a file a run, written whole, and one table of them all.

``DIR/runs/ID.json`` is the row of a run that ended, well or with a traceback in ``error``;
``DIR/results.parquet`` gathers them and can be read at any time; ``DIR/suite.json`` says what was
asked for.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from medept.benchmark.suite import Suite
from medept.errors import DataError
from medept.files import write_table, write_text


def write_suite(folder: Path, suite: Suite) -> None:
    """Say what is being run in a folder, for :func:`read_suite_of`."""
    write_text(folder / "suite.json", suite.model_dump_json(indent=2) + "\n")


def read_suite_of(folder: Path) -> Suite:
    """The suite last run in a folder.

    Raises:
        InputError: if ``medept bench`` has not written there, or its file is damaged.
    """
    file = folder / "suite.json"
    try:
        return Suite.model_validate_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(
            f"{folder}: no benchmark here; give what `medept bench --out` wrote"
        ) from error
    except ValueError as error:
        raise DataError(f"{file}: damaged ({error}); run the benchmark again") from error


def write_row(folder: Path, row: dict[str, Any]) -> None:
    """Keep a run that has ended."""
    write_text(folder / "runs" / f"{row['id']}.json", json.dumps(row) + "\n")


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of all runs that have ended, in the order of their ids.

    Raises:
        InputError: if a file is damaged.
    """
    rows = []
    for file in sorted((folder / "runs").glob("[!.]*.json")):  # a kill may leave .partial-* behind
        try:
            row = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(row, dict) or "id" not in row:
                raise ValueError("no id in it")
        except ValueError as error:
            raise DataError(
                f"{file}: damaged ({error}); remove it and run the benchmark again"
            ) from error
        rows.append(row)
    return rows


def write_results(folder: Path) -> pd.DataFrame:
    """Gather all rows into ``results.parquet``, and return them."""
    table = pd.DataFrame(read_rows(folder))
    write_table(folder / "results.parquet", table)
    return table
