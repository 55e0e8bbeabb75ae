"""The numbers that the paper (Zu et al. 2024) gives in its tables and figures."""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd


def paper_values(table: str | None, synthetic: Collection[str] = ()) -> pd.DataFrame:
    """Scores of a table or figure, from 0 to 1: methods down, (data set, shots) across.

    Args:
        table: such as ``table1`` or ``fig5``. If it is unknown the result is empty.
        synthetic: data sets left out, as they are phantoms under the names of the paper's.

    >>> float(paper_values("table1").loc["ept", ("medfmc-colon", "5")])
    0.8334
    """
    values = _paper()["tables"].get(table, {})
    rows = {
        label: {_task(name): value / 100 for name, value in row.items()}
        for label, row in values.items()
    }
    found = pd.DataFrame.from_dict(rows, orient="index")
    return found[[task for task in found.columns if task[0] not in synthetic]]


def paper_seconds(table: str | None) -> dict[str, float]:
    """Seconds of fine-tuning by method; empty for a table that has none."""
    return _paper()["seconds"].get(table, {})


@cache
def _paper() -> dict[str, Any]:
    return json.loads(files(__package__).joinpath("paper.json").read_text(encoding="utf-8"))


def _task(name: str) -> tuple[str, str]:
    """Data set and shots of a column such as ``colon-5``."""
    data, shots = name.rsplit("-", 1)
    return data if data == "isic2018" else f"medfmc-{data}", shots
