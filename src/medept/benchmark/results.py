"""The files of a benchmark in its folder: what was asked for, and a row of results for each run.

``suite.json`` is the suite. ``runs/ID.json`` is the row of one run that has ended, well or with a
traceback in ``error``. ``results.parquet`` is a table of all rows; it can be read at any time.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from medept.benchmark.suite import Suite
from medept.errors import DataError
from medept.files import write_table, write_text

SUITE = "suite.json"
RUNS = "runs"
RESULTS = "results.parquet"


def holds_benchmark(folder: Path) -> bool:
    """Whether ``medept bench`` has written to the folder."""
    return (folder / SUITE).exists()


def write_suite(folder: Path, suite: Suite) -> None:
    """Write ``suite.json``."""
    write_text(folder / SUITE, suite.model_dump_json(indent=2) + "\n")


def load_suite(folder: Path) -> Suite:
    """The suite that was last run in the folder.

    Raises:
        InputError: if ``medept bench`` has not written there, or the file is damaged.
    """
    file = folder / SUITE
    try:
        return Suite.model_validate_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(
            f"{folder}: no benchmark here; give a folder that `medept bench --out` wrote"
        ) from error
    except ValueError as error:
        raise DataError(f"{file}: damaged ({error}); run the benchmark again") from error


def write_row(folder: Path, row: dict[str, Any]) -> None:
    """Write the row of a run that has ended to a file of its own."""
    write_text(folder / RUNS / f"{row['id']}.json", json.dumps(row) + "\n")


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of all runs that have ended, ordered by id.

    Raises:
        InputError: if a file is damaged.
    """
    rows = []
    for file in sorted((folder / RUNS).glob("[!.]*.json")):  # .partial-*: left by a kill
        try:
            row = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(row, dict) or "id" not in row:
                raise ValueError("no id in it")
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{file}: damaged ({error}); remove it and run the benchmark again"
            ) from error
        rows.append(row)
    return rows


def write_results(folder: Path) -> pd.DataFrame:
    """Write all rows to ``results.parquet``, and return them."""
    table = pd.DataFrame(read_rows(folder))
    write_table(folder / RESULTS, table)
    return table


def read_benchmark(folder: Path) -> tuple[Suite, pd.DataFrame]:
    """The suite that was last run in a folder, and the rows of all runs there.

    Raises:
        InputError: if ``medept bench`` has not written there, no run has ended, or a file is
            damaged.
    """
    suite, rows = load_suite(folder), read_rows(folder)
    if not rows:
        raise DataError(f"{folder}: no run has ended yet")
    return suite, pd.DataFrame(rows)
