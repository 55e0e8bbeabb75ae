"""Labels as annotation tools and public data sets export them, read as tables.

Each module reads one form, which it knows by its content and not by the name of the file.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from medept.data.exports import chexpert, coco, cvat, journal, label_studio, qupath
from medept.errors import DataError

EXPORT_SUFFIXES = (".json", ".geojson", ".xml")


def read_export(path: Path) -> pd.DataFrame:
    """Columns ``image`` and ``label`` from an export of Label Studio or COCO (JSON) or CVAT (XML).

    Raises:
        DataError: if the file has another form.
    """
    if path.suffix.lower() == ".xml":
        return cvat.read(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: damaged JSON ({error}); export it again") from error
    if coco.is_form(content):
        return coco.convert(path, content)
    if qupath.is_geojson(content):
        raise DataError(
            f"{path}: GeoJSON of QuPath, which names no image; export the measurements of "
            "annotations (.tsv) in its place"
        )
    return label_studio.convert_tasks(path, content)


def recognise_table(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """The table with a column ``label`` if it has the form of CheXpert, QuPath or a journal of
    labels, or as it is.

    Images that Label Studio serves get the names of their files.

    Raises:
        DataError: if it has one of these forms, and its cells cannot be used.
    """
    if label_studio.is_form(table):
        table = label_studio.convert(path, table)
    for form in (chexpert, journal, qupath):
        if form.is_form(table):
            return form.convert(path, table)
    return table
