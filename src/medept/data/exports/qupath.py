"""QuPath's table of measurements: one row for each annotation or detection in an image."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pandas as pd

from medept.data.exports.label_cells import cell_text, label_table
from medept.errors import DataError

_CLASSES = ("Classification", "Class")
_OTHERS = {"Object ID", "Object type", "ROI", "Parent"}


def is_form(table: pd.DataFrame) -> bool:
    """Whether a table has QuPath's columns of objects."""
    columns = set(table.columns)
    return "Image" in columns and not columns.isdisjoint(_CLASSES) and len(columns & _OTHERS) > 1


def is_geojson(content: Any) -> bool:
    """Whether JSON is a collection of outlines, or a list of them, as QuPath exports objects."""
    features = content.get("features", []) if isinstance(content, dict) else content
    if isinstance(content, dict) and content.get("type") in ("FeatureCollection", "Feature"):
        return True
    return isinstance(features, list) and any(
        isinstance(one, dict) and one.get("type") == "Feature" for one in features
    )


def convert(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """A row for each image, with the classes of its annotations as labels.

    Raises:
        DataError: if the table holds detections (cells, tiles) and no annotation.

    Warns:
        UserWarning: that classes of objects are taken as labels of images, and how many are left
            out.
    """
    if "Object type" in table.columns:
        annotations = table[table["Object type"].astype(str).str.strip() == "Annotation"]
        if annotations.empty:
            raise DataError(
                f"{path}: QuPath's table holds no annotation, but other objects; export "
                "annotations, or save the objects as images and give a table of these"
            )
        table = annotations
    column = next(name for name in _CLASSES if name in table.columns)
    labels: dict[str, list[str]] = {}
    for image, name in zip(table["Image"], table[column], strict=True):
        names = labels.setdefault(cell_text(image), [])
        if text := cell_text(name):
            names.append(text)
    warnings.warn(
        f"{path}: the classes of QuPath's annotations are taken as labels of the whole image",
        stacklevel=5,
    )
    return label_table(path, list(labels.items()), "annotation with a class")
