"""Labels as annotation tools and public data sets export them, read as tables.

Each module reads one form, which it knows by its content and not by the name of the file.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from medept.data.exports import chexpert, cvat, label_studio, qupath

EXPORT_SUFFIXES = (".json", ".xml")


def read_export(path: Path) -> pd.DataFrame:
    """Columns ``image`` and ``label`` from an export of Label Studio (JSON) or CVAT (XML).

    Raises:
        DataError: if the file has another form.
    """
    return cvat.read(path) if path.suffix.lower() == ".xml" else label_studio.read(path)


def recognise_table(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """The table with a column ``label`` if it has CheXpert's or QuPath's form, or as it is.

    Raises:
        DataError: if it has one of these forms, and its cells cannot be used.
    """
    for form in (chexpert, qupath):
        if form.is_form(table):
            return form.convert(path, table)
    return table
