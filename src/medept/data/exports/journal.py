"""The journal of labels that a reader gave one after the other: ``labels.csv`` of a project.

Each row is an answer for one image. A later row of the same reader and image replaces the earlier
one, so nothing is ever overwritten.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pandas as pd

from medept.errors import DataError

logger = logging.getLogger(__name__)

COLUMNS = ("image", "case", "group", "label", "status", "reader", "note", "time")

LABELLED, UNSURE, REMOVED = "labelled", "not sure", "removed"
"""What a row may say: the label is that of the image; nobody can tell; there is none any more."""


def is_form(table: pd.DataFrame) -> bool:
    """Whether a table is a journal."""
    return set(COLUMNS) <= set(table.columns)


def last_rows(table: pd.DataFrame) -> list[dict[str, str]]:
    """The last row of each image and reader that is not removed, in the order of the first ones."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for record in table.to_dict(orient="records"):
        row = {str(name): "" if pd.isna(cell) else str(cell) for name, cell in record.items()}
        row["image"] = row["image"].removeprefix("./")  # how files.py escapes a formula
        found[row["image"], row["reader"]] = row
    return [row for row in found.values() if row["status"] != REMOVED]


def convert(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Columns ``image``, ``label``, and ``case`` and ``group`` if there are any: one row an image.

    Images without a clear answer are left out, and so are those that two readers disagree about.

    Raises:
        DataError: if no image is left.
    """
    rows: dict[str, dict[str, Any]] = {}
    unsure, disputed = set(), set()
    for row in last_rows(table):
        name = row["image"]
        if row["status"] != LABELLED or not row["label"]:
            unsure.add(name)
        elif name in rows and rows[name]["label"] != row["label"]:
            disputed.add(name)
        else:
            rows[name] = {
                key: row[key] for key in ("image", "label", "case", "group") if key in row
            }
    unsure -= rows.keys()
    kept = [row for name, row in rows.items() if name not in disputed]
    for count, why in ((len(unsure), "not sure"), (len(disputed), "readers disagree")):
        if count:
            logger.warning("%s: %d images are left out: %s", path, count, why)
    if not kept:
        raise DataError(f"{path}: no image has a label yet; label some")
    found = pd.DataFrame(kept, dtype=object)
    found = found.drop(columns=[key for key in ("case", "group") if not found[key].any()])
    return found.set_axis(pd.RangeIndex(2, len(found) + 2), axis="index")
