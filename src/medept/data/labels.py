"""Labels as they are written, and what they come to: names of classes, and targets."""

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

from medept.data.spreadsheet import Table
from medept.errors import DataError

NO_LABEL = frozenset({"nan", "na", "n/a", "#n/a", "<na>", "null"})

_CUT = "a class needs a name; cut them into classes first, or give other labels"


def read_targets(
    table: Table, columns: list[str], classes: Sequence[str] | None, task: str | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Targets (n,) or (n, C), and the names of the classes.

    Args:
        columns: one of classes or of labels joined by ``|``, or several of 0 and 1.
        classes: the only ones allowed, in this order; default: those found.
        task: what they mean; default: ``multilabel`` if there are several columns, or a ``|``
            stands anywhere in the one.

    Raises:
        InputError: for a label that is missing, unknown, or cannot be used.
    """
    if len(columns) > 1:
        flags, names = _targets_of_flags(table, columns, classes)
        if task == "multiclass":
            return _one_hot(table, flags), names
        if task is None and (flags.sum(axis=1) == 1).all():
            warnings.warn(
                f"{table.path}: each image has just one of {', '.join(names)}; they are taken as "
                "labels, of which it may have several. If they are classes, write their names "
                "into one column",
                stacklevel=4,
            )
        return flags, names
    path, texts = table.path, {row: label(text) for row, text in table.texts(columns[0]).items()}
    if task == "multilabel" or (task is None and any("|" in text for text in texts.values())):
        return _targets_of_lists(path, texts, classes)
    for row, text in texts.items():
        if not text:
            written = table.texts(columns[0])[row]
            means = f" ({written!r} stands for none)" if written else ""
            raise DataError(
                f"{path}, row {row}: no label in column {columns[0]!r}{means}; fill it in or "
                "remove the row"
            )
    names = class_names(path, sorted(set(texts.values()), key=natural), classes)
    place = {name: i for i, name in enumerate(names)}
    for row, text in texts.items():
        if text not in place:
            raise _unknown_label(path, row, text, names)
    return np.array([place[text] for text in texts.values()], dtype=np.int64), names


def encode_labels(y: Any, classes: Sequence[str] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Targets, (n,) class indices or (n, C) of 0 and 1, and the classes (C,).

    Args:
        y: (n,) labels of one type, or (n, C) of 0 and 1 for multi-label data.
        classes: names of the labels, in the order of the targets (default: the sorted labels; the
            numbers from 0 for multi-label data).

    Raises:
        InputError: if a label is missing, unknown, or the only one there is.
    """
    try:
        labels = np.asarray(y)
    except ValueError as error:
        raise DataError(
            "labels of different lengths: give (n,) labels, or (n, C) of 0 and 1"
        ) from error
    if labels.ndim == 2 and labels.shape[1] == 1 and (classes is None or len(classes) > 1):
        labels = labels[:, 0]  # a column of a table
    if labels.ndim == 2:
        if not np.isin(labels, (0, 1)).all():
            raise DataError("multi-label targets must be 0 or 1")
        names = [str(i) for i in range(labels.shape[1])] if classes is None else list(classes)
        if len(names) != labels.shape[1]:
            raise DataError(f"{labels.shape[1]} columns of labels, but {len(names)} classes given")
        return labels.astype(np.uint8), np.asarray(names)
    if labels.ndim != 1 or not len(labels):
        raise DataError(f"labels of shape {labels.shape}: give (n,) labels or (n, C) of 0 and 1")
    missing = np.flatnonzero(pd.isna(np.asarray(y, dtype=object)))  # not yet the text "nan"
    if len(missing):
        raise DataError(f"label {missing[0]} (from 0) is missing: give one, or drop the image")
    if labels.dtype.kind == "O":
        text = {isinstance(one, str) for one in labels}
        if len(text) > 1:
            raise DataError("some labels are text and some are not: give labels of one type")
        labels = np.array(labels.tolist())
    if labels.dtype.kind == "f":
        whole = np.isfinite(labels) & (np.floor(labels) == labels)
        if not whole.all():
            raise DataError(f"labels such as {labels[~whole][0]} are measurements: {_CUT}")
    found, targets = np.unique(labels, return_inverse=True)
    if len(found) < 2:
        raise DataError(f"all labels are {str(found[0])!r}: at least two classes are needed")
    if classes is None:
        return targets.astype(np.int64), found
    place = {name: i for i, name in enumerate(classes)}
    unknown = [name for name in found.tolist() if name not in place]
    if unknown:
        raise DataError(f"labels {unknown} are not among the classes given, {list(classes)}")
    return np.array([place[name] for name in labels.tolist()], dtype=np.int64), np.asarray(classes)


def _targets_of_lists(
    path: Path, texts: dict[int, str], classes: Sequence[str] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    labels = {
        row: [name for part in text.split("|") if (name := label(part.strip()))]
        for row, text in texts.items()
    }
    found = sorted({name for names in labels.values() for name in names}, key=natural)
    names = class_names(path, found, classes)
    place = {name: i for i, name in enumerate(names)}
    targets = np.zeros((len(labels), len(names)), dtype=np.uint8)
    for i, (row, given) in enumerate(labels.items()):
        for name in given:
            if name not in place:
                raise _unknown_label(path, row, name, names)
            targets[i, place[name]] = 1
    return targets, names


def _targets_of_flags(
    table: Table, columns: list[str], classes: Sequence[str] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    path = table.path
    names = class_names(path, columns, classes)
    missing = [name for name in names if name not in table.columns]
    if missing:
        raise DataError(f"{path}: no column {missing[0]!r} for this label; add it, of 0 and 1")
    targets = np.zeros((len(table.frame), len(names)), dtype=np.uint8)
    for c, name in enumerate(names):
        for i, (row, text) in enumerate(table.texts(name).items()):
            if label(text) not in ("0", "1"):
                raise DataError(
                    f"{path}, row {row}: {text!r} in column {name!r}; labels in several columns "
                    "are 0 or 1"
                )
            targets[i, c] = label(text) == "1"
    return targets, names


def _one_hot(table: Table, flags: np.ndarray) -> np.ndarray:
    """Class indices (n,), from columns of which one is 1 in each row."""
    for row, count in zip(table.frame.index.tolist(), flags.sum(axis=1), strict=True):
        if count != 1:
            raise DataError(
                f"{table.path}, row {row}: {count} of its labels are 1; of classes it is one"
            )
    return flags.argmax(axis=1)


def _unknown_label(path: Path, row: int, label: str, names: Sequence[str]) -> DataError:
    return DataError(
        f"{path}, row {row}: unknown label {label!r}; the classes are {', '.join(names)}"
    )


def class_names(
    source: Path, found: Sequence[str], classes: Sequence[str] | None
) -> tuple[str, ...]:
    """The classes asked for, or those found if they can be used."""
    if classes is not None:
        return tuple(classes)
    if len(set(found)) < len(found):
        raise DataError(f"{source}: a label is named twice in {', '.join(found)}; name it once")
    for name in found:
        if any(unicodedata.category(c).startswith("C") for c in name):
            raise DataError(f"{source}: the label {name!r} holds a control character; rename it")
        if "|" in name:
            raise DataError(
                f"{source}: the label {name!r} holds a |, which stands between labels; rename it"
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
        raise DataError(f"{source}: labels such as {parts[0]} are measurements: {_CUT}")
    _warn_of_alike(source, found)
    return tuple(found)


def _warn_of_alike(source: Path, names: Sequence[str]) -> None:
    """Two classes that may be one, written in two ways."""
    seen: dict[str, str] = {}
    for name in names:
        plain = "".join(name.casefold().split())
        if plain in seen:
            warnings.warn(
                f"{source}: {seen[plain]!r} and {name!r} are two classes; if they are meant to be "
                "one, write them alike",
                stacklevel=2,
            )
        seen[plain] = name


def label(text: str) -> str:
    """A label in one spelling: 1.0 is 1, and what programs write for no value is no label."""
    if text.lower() in NO_LABEL:
        return ""
    return re.sub(r"^([+-]?[0-9]+)\.0+$", r"\1", text)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def natural(text: str) -> tuple[int, float, str]:
    """Numbers in the order of their values, before texts in the order of their letters."""
    return (0, float(text), text) if _is_number(text) else (1, 0.0, text)
