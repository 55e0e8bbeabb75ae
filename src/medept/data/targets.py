"""Targets from the label columns of a table."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medept.data.joined_labels import split_labels
from medept.data.labelled_images import Task
from medept.data.labels import class_names, natural_key, normalise_label, read_flag
from medept.data.table import Table
from medept.errors import DataError

Targets = tuple[np.ndarray, tuple[str, ...]]
"""(n,) class indices or (n, C) of 0 and 1, and the names of the C classes."""


def read_targets(
    table: Table, columns: Sequence[str], classes: Sequence[str] | None, task: Task | None
) -> Targets:
    """Targets, (n,) class indices or (n, C) of 0 and 1, and the names of the classes.

    Args:
        columns: one column of classes or of labels joined by ``|``, or several of 0 and 1.
        classes: the only ones allowed, in this order; default: those found.
        task: default: multi-label if there are several columns, or any label holds a ``|``.

    Raises:
        DataError: if a label is missing, unknown, or cannot be used.

    Warns:
        UserWarning: if of several columns exactly one is 1 in each row, as if they were classes.
    """
    if len(columns) > 1:
        return _from_indicators(table, columns, classes, task)
    texts = {row: normalise_label(text) for row, text in table.texts(columns[0]).items()}
    labels = split_labels(table.path, texts, classes, task)
    if labels is not None:
        return _from_label_lists(table.path, labels, classes)
    return _from_classes(table, columns[0], texts, classes)


def _from_classes(
    table: Table, column: str, texts: dict[int, str], classes: Sequence[str] | None
) -> Targets:
    for row, text in texts.items():
        if not text:
            written = table.texts(column)[row]
            means = f" ({written!r} stands for none)" if written else ""
            raise DataError(
                f"{table.path}, row {row}: no label in column {column!r}{means}; fill it in or "
                "remove the row"
            )
    names = class_names(table.path, sorted(set(texts.values()), key=natural_key), classes)
    index = {name: i for i, name in enumerate(names)}
    for row, text in texts.items():
        if text not in index:
            raise _unknown_label(table.path, row, text, names)
    return np.array([index[text] for text in texts.values()], dtype=np.int64), names


def _from_label_lists(
    path: Path, labels: dict[int, list[str]], classes: Sequence[str] | None
) -> Targets:
    found = sorted({name for names in labels.values() for name in names}, key=natural_key)
    names = class_names(path, found, classes)
    index = {name: i for i, name in enumerate(names)}
    targets = np.zeros((len(labels), len(names)), dtype=np.uint8)
    for i, (row, given) in enumerate(labels.items()):
        for name in given:
            if name not in index:
                raise _unknown_label(path, row, name, names)
            targets[i, index[name]] = 1
    return targets, names


def _from_indicators(
    table: Table, columns: Sequence[str], classes: Sequence[str] | None, task: Task | None
) -> Targets:
    """Targets from several columns of 0 and 1."""
    names = class_names(table.path, columns, classes)
    targets = _read_indicators(table, names)
    positives = targets.sum(axis=1)
    if task == "multiclass":
        for row, count in zip(table.rows, positives, strict=True):
            if count != 1:
                raise DataError(
                    f"{table.path}, row {row}: {count} of its classes are 1; exactly one must be"
                )
        return targets.argmax(axis=1), names
    if task is None and (positives == 1).all():
        warnings.warn(
            f"{table.path}: each image has just one of {', '.join(names)}; they are taken as "
            "labels, of which it may have several. If they are classes, write their names "
            "into one column",
            stacklevel=5,
        )
    return targets, names


def _read_indicators(table: Table, names: Sequence[str]) -> np.ndarray:
    """(n, C) uint8, from one column of 0 and 1 for each name."""
    missing = [name for name in names if name not in table.columns]
    if missing:
        raise DataError(
            f"{table.path}: no column {missing[0]!r} for this label; add it, with 0 and 1"
        )
    targets = np.zeros((len(table.rows), len(names)), dtype=np.uint8)
    for c, name in enumerate(names):
        for i, (row, text) in enumerate(table.texts(name).items()):
            value = read_flag(text)
            if value is None:
                raise DataError(
                    f"{table.path}, row {row}: {text!r} in column {name!r}; labels in several "
                    "columns must be 0 or 1 (or True and False): write 0 or 1 where the label is "
                    "empty or uncertain, or remove the row"
                )
            targets[i, c] = value
    return targets


def _unknown_label(path: Path, row: int, label: str, names: Sequence[str]) -> DataError:
    return DataError(
        f"{path}, row {row}: unknown label {label!r}; the classes are {', '.join(names)}"
    )
