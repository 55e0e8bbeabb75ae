"""A table of images and labels from what an export says about each image."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from medept.errors import DataError


def label_table(path: Path, images: Sequence[tuple[str, Sequence[str]]], what: str) -> pd.DataFrame:
    """Columns ``image`` and ``label``, with one row for each image that has a label.

    Args:
        images: the name and the labels of each.
        what: what labels an image, to be named in the warning.

    Raises:
        DataError: if no image has a label, or a label holds a ``|``.

    Warns:
        UserWarning: if images have no label, and are left out.
    """
    labelled = {name: list(dict.fromkeys(labels)) for name, labels in images if labels}
    for name, labels in labelled.items():
        for label in labels:
            if "|" in label:
                raise DataError(f"{path}: the label {label!r} of {name} holds a |; rename it")
    if not labelled:
        raise DataError(f"{path}: no image has {what}; label some, and export them again")
    if left := len(images) - len(labelled):
        warnings.warn(
            f"{path}: {left} of {len(images)} images are left out, as they have no {what}",
            stacklevel=6,
        )
    cells = join_labels(list(labelled.values()))
    table = pd.DataFrame({"image": list(labelled), "label": cells}, dtype=object)
    return table.set_axis(pd.RangeIndex(1, len(table) + 1), axis="index")


def cell_text(cell: Any) -> str:
    """A cell as text, without spaces at its ends; ``""`` if it is empty."""
    return "" if pd.api.types.is_scalar(cell) and pd.isna(cell) else str(cell).strip()


def join_labels(labels: Sequence[Sequence[str]], *, several: bool = False) -> list[str]:
    """Labels of each image as a cell: one class, or labels joined by ``|`` if any has several.

    Args:
        several: whether an image may have several labels, even if none has.
    """
    if several or any(len(names) > 1 for names in labels):
        return ["|".join(names) + "|" for names in labels]
    return ["".join(names) for names in labels]
