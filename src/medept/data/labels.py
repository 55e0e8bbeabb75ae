"""Labels: their spelling, the classes they name, and the targets they become."""

from __future__ import annotations

import math
import re
import unicodedata
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medept.data.spelling import clean, find_alike
from medept.errors import DataError

MISSING_LABELS = frozenset({"nan", "na", "n/a", "#n/a", "<na>", "null"})
"""What programs write into a cell without a value, in lower case."""

_BIN_FIRST = "a class needs a name; divide them into classes first, or give other labels"


def normalise_label(text: str) -> str:
    """A label in one spelling: 1.0 becomes 1, and :data:`MISSING_LABELS` become empty.

    >>> [normalise_label(text) for text in ("1.0", "benign", "N/A")]
    ['1', 'benign', '']
    """
    if text.lower() in MISSING_LABELS:
        return ""
    return re.sub(r"^([+-]?[0-9]+)\.0+$", r"\1", text)


def read_flag(text: str) -> bool | None:
    """Whether a cell is 1 or 0, or True or False in any case; None for any other cell.

    >>> read_flag("1.0"), read_flag("FALSE"), read_flag("maybe")
    (True, False, None)
    """
    return {"1": True, "true": True, "0": False, "false": False}.get(normalise_label(text).lower())


def natural_key(text: str) -> tuple[int, float, str]:
    """A key to sort by: numbers by value, then texts alphabetically.

    >>> sorted(["10", "9", "b", "a"], key=natural_key)
    ['9', '10', 'a', 'b']
    """
    return (0, float(text), text) if _is_number(text) else (1, 0.0, text)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def class_names(
    source: Path, found: Sequence[str], classes: Sequence[str] | None
) -> tuple[str, ...]:
    """The classes that are given, or else those found, if these can be used.

    Args:
        source: the table or folder, to be named in messages.

    Raises:
        DataError: if fewer than two are found, one is found twice or cannot be written to a table,
            or they are measurements.

    Warns:
        UserWarning: if some differ only in case, leading zeros, spaces or dashes.
    """
    if classes is not None:
        return tuple(map(clean, classes))
    if len(set(found)) < len(found):
        raise DataError(f"{source}: a label is named twice in {', '.join(found)}; name it once")
    for name in found:
        if any(unicodedata.category(c).startswith("C") for c in name):
            raise DataError(f"{source}: the label {name!r} holds a control character; rename it")
        if "|" in name:
            raise DataError(
                f"{source}: the label {name!r} holds a |, which separates labels; rename it"
            )
        if name[0] in "=+-@" and not _is_number(name):
            raise DataError(
                f"{source}: the label {name!r} would be a formula in a spreadsheet; rename it"
            )
    if len(found) < 2:
        raise DataError(
            f"{source}: the only label is {', '.join(found) or 'none'}; at least two are needed"
        )
    if all(map(_is_number, found)) and (parts := [name for name in found if float(name) % 1]):
        raise DataError(f"{source}: labels such as {parts[0]} are measurements: {_BIN_FIRST}")
    _warn_of_similar(source, found)
    return tuple(found)


def _warn_of_similar(source: Path, names: Sequence[str]) -> None:
    for alike in find_alike(names):
        warnings.warn(
            f"{source}: {' and '.join(map(repr, alike))} are different classes; if they are "
            "meant to be one, write them alike",
            stacklevel=2,
        )


def encode_labels(y: Any, classes: Sequence[str] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Targets, (n,) class indices or (n, C) of 0 and 1, and the classes (C,).

    Args:
        y: (n,) labels of one type, or (n, C) of 0 and 1 for multi-label data.
        classes: names of the labels, in the order of the targets; default: the sorted labels, or
            for multi-label data the names of a table's columns, or the numbers from 0.

    Raises:
        DataError: if a label is missing, unknown, or the only one there is.

    >>> targets, classes = encode_labels(["malignant", "benign", "benign"])
    >>> targets.tolist(), classes.tolist()
    ([1, 0, 0], ['benign', 'malignant'])
    """
    if classes is None and isinstance(y, pd.DataFrame) and y.shape[1] > 1:
        classes = [clean(str(name)) for name in y.columns]
    try:
        labels = np.asarray(y)
    except ValueError as error:
        raise DataError(
            "labels of different lengths: give (n,) labels, or (n, C) of 0 and 1"
        ) from error
    if labels.ndim == 2 and labels.shape[1] == 1 and (classes is None or len(classes) > 1):
        labels = labels[:, 0]  # a column of a table
    if labels.ndim == 2:
        return _encode_indicators(labels, classes)
    if labels.ndim != 1 or not len(labels):
        raise DataError(f"labels of shape {labels.shape}: give (n,) labels or (n, C) of 0 and 1")
    missing = np.flatnonzero(pd.isna(np.asarray(y, dtype=object)))  # not yet the text "nan"
    if len(missing):
        raise DataError(f"label {missing[0]} (from 0) is missing: give one, or drop the image")
    found, targets = np.unique(_of_one_type(labels), return_inverse=True)
    _refuse_second_spellings(found)
    if len(found) < 2:
        raise DataError(f"all labels are {str(found[0])!r}: at least two classes are needed")
    if classes is None:
        return targets.astype(np.int64), found
    index = {name: i for i, name in enumerate(classes)}
    unknown = [name for name in found.tolist() if name not in index]
    if unknown:
        raise DataError(f"labels {unknown} are not among the classes given, {list(classes)}")
    codes = np.array([index[name] for name in found.tolist()], dtype=np.int64)
    return codes[targets], np.asarray(classes)


def _refuse_second_spellings(found: np.ndarray) -> None:
    seen: dict[str, str] = {}
    for name in found.tolist() if found.dtype.kind == "U" else []:
        other = seen.setdefault(clean(name), name)
        if other != name:
            raise DataError(
                f"labels {other!r} and {name!r} differ only in spaces at their ends or in Unicode "
                "form; write them alike"
            )


def _encode_indicators(
    labels: np.ndarray, classes: Sequence[str] | None
) -> tuple[np.ndarray, np.ndarray]:
    if not np.isin(labels, (0, 1)).all():
        raise DataError("multi-label targets must be 0 or 1")
    names = [str(i) for i in range(labels.shape[1])] if classes is None else list(classes)
    if len(names) != labels.shape[1]:
        raise DataError(f"{labels.shape[1]} columns of labels, but {len(names)} classes given")
    return labels.astype(np.uint8), np.asarray(names)


def _of_one_type(labels: np.ndarray) -> np.ndarray:
    """The labels, all of which are text or all of which are whole numbers."""
    if labels.dtype.kind == "O":
        if len({isinstance(label, str) for label in labels}) > 1:
            raise DataError("some labels are text and some are not: give labels of one type")
        labels = np.array(labels.tolist())
    if labels.dtype.kind == "f":
        whole = np.isfinite(labels) & (np.floor(labels) == labels)
        if not whole.all():
            raise DataError(f"labels such as {labels[~whole][0]} are measurements: {_BIN_FIRST}")
    return labels
