"""Several labels in one cell: joined by a separator, or written as a list of JSON or Python."""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medept.data.labelled_images import Task
from medept.data.labels import normalise_label
from medept.data.spelling import clean
from medept.errors import DataError

_LISTS = {"[": "]", "{": "}"}

_JOIN = "join labels by |, or, if they are one class, name it without {separator!r}"


def split_labels(
    path: Path, texts: Mapping[int, str], classes: Sequence[str] | None, task: Task | None
) -> dict[int, list[str]] | None:
    """The labels of each cell, by row number; None if each cell is one class.

    Labels are joined by ``|``, or are a list in JSON or Python, such as ``["mass", "fluid"]`` or
    ``{"choices": ["mass", "fluid"]}``. Those that are joined by ``;`` or ``,`` are told from names
    that hold one: each label also has a cell of its own, or ``task`` is ``multilabel``.

    Args:
        path: the table, to be named in messages.
        texts: the cells, by row number.
        classes: the only labels allowed; a cell that is one of these is not split.

    Raises:
        DataError: if a list cannot be read, or it is not clear whether a cell is one label.

    Warns:
        UserWarning: if labels are read from lists, or are joined by ``;`` or ``,``; and if classes
            whose names hold a comma, ``/`` or ``+`` may be several labels.
    """
    if task == "multiclass":
        return None
    cells = texts.values()
    if any(_is_list(text) for text in cells):
        return _from_lists(path, texts)
    separator = "|"
    if not any("|" in text for text in cells):
        known = {clean(name) for name in classes or ()}
        found = _find_separator(path, texts, known, certain=task == "multilabel")
        if found is None and task is None:
            return None
        separator = found or "|"
    return {row: _labels(text.split(separator)) for row, text in texts.items()}


def _labels(parts: Sequence[str]) -> list[str]:
    return [name for part in parts if (name := normalise_label(clean(part)))]


def _is_list(text: str) -> bool:
    return text[:1] in _LISTS and text.endswith(_LISTS[text[0]])


def _from_lists(path: Path, texts: Mapping[int, str]) -> dict[int, list[str]]:
    labels = {}
    for row, text in texts.items():
        labels[row] = _labels(_parse(path, row, text) if _is_list(text) else [text])
    for row, names in labels.items():
        for name in names:
            if "|" in name or _is_list(name):
                raise DataError(
                    f"{path}, row {row}: the label {name[:60]!r} is a list or holds a |; give each "
                    "row one list of plain labels"
                )
    warnings.warn(
        f"{path}: cells are lists of labels; an image may have several. If they are classes, write "
        "one name into each cell",
        stacklevel=5,
    )
    return labels


def _parse(path: Path, row: int, text: str) -> list[str]:
    value: Any = None
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(text)
            break
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
    if isinstance(value, dict) and len(value) == 1:
        value = next(iter(value.values()))
    if isinstance(value, str):
        value = [value]
    if isinstance(value, set):
        value = sorted(value, key=str)
    if not isinstance(value, list | tuple) or any(
        isinstance(item, bool | float) or not isinstance(item, str | int) for item in value
    ):
        raise DataError(
            f"{path}, row {row}: {text[:60]!r} is no list of labels; write their names, joined by |"
        )
    return [str(item) for item in value]


def _find_separator(
    path: Path, texts: Mapping[int, str], known: set[str], *, certain: bool
) -> str | None:
    """``;`` or ``,`` if cells hold labels joined by it; None if each cell is one label.

    Args:
        known: labels that may hold a separator.
        certain: whether a cell may have several labels.
    """
    cells = {
        text: row for row, text in sorted(texts.items(), reverse=True) if text and text not in known
    }
    for separator in ";,/+":
        joined = {text: row for text, row in cells.items() if _parts(text, separator)}
        if not joined:
            continue
        alone = (set(cells) | known) - set(joined)
        parts = {part for text in joined for part in _parts(text, separator)}
        first = next(iter(joined))
        place = f"{path}, row {joined[first]}: {first[:60]!r}"
        if separator in "/+":
            if parts & alone:
                warnings.warn(
                    f"{place} is taken as one class; if it is several labels, join them by |",
                    stacklevel=6,
                )
            continue
        other = "," if separator == ";" else ";"
        if any(_parts(text, other) for text in cells):
            raise DataError(
                f"{place}, and other cells hold {other!r}: either may separate labels; "
                + _JOIN.format(separator=other)
            )
        if certain or parts <= alone:
            warnings.warn(
                f"{place} is read as {len(_parts(first, separator))} labels, joined by "
                f"{separator!r}; so is every cell that holds one. If they are one class, name it "
                f"without {separator!r}",
                stacklevel=6,
            )
            return separator
        apart = [part for text in joined for part in set(_parts(text, separator))]
        if separator == ";" or parts & alone or len(set(apart)) < len(apart):
            raise DataError(
                f"{place} may be one label or several; " + _JOIN.format(separator=separator)
            )
        warnings.warn(
            f"{place} is taken as one class; if it is several labels, join them by |", stacklevel=6
        )
    return None


def _parts(text: str, separator: str) -> list[str]:
    """The labels that a separator joins; none where there are less than two."""
    parts = _labels(text.split(separator))
    return parts if len(parts) > 1 else []
