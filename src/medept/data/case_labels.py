"""Rows of images put together into cases: one label, group and side of a split for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np

from medept.data.cases import joined, rows_of_cases
from medept.data.labelled_images import LabelledImages, label_text
from medept.errors import DataError, SettingsError

CaseLabel = Literal["agree", "any", "majority", "max"]
"""How a case gets its label from its images: they agree; any of them has it; most of them have it;
the last of the classes in their order (the highest grade, say) that one of them has."""


def join_cases(
    data: LabelledImages, ids: Sequence[str] | np.ndarray, how: CaseLabel = "agree"
) -> LabelledImages:
    """One row a case, in the order of their first images.

    Args:
        data: one row an image, or a volume.
        ids: (n,) the case of each image.
        how: it gets its label.

    Raises:
        DataError: if images of a case differ in label (where they have to agree), group or split;
            the message names the case and the images.
        SettingsError: if ``any`` is asked of more than two classes.

    >>> names = ("1.png", "2.png", "3.png")
    >>> data = LabelledImages(names, names, np.array([0, 1, 0]), ("benign", "malignant"))
    >>> joined = join_cases(data, ["a", "a", "b"], how="max")
    >>> joined.names, joined.targets.tolist(), len(joined.images[0])
    (('a', 'b'), [1, 0], 2)
    """
    if how not in get_args(CaseLabel):
        raise SettingsError(f"case_label={how!r}: use one of {', '.join(get_args(CaseLabel))}")
    if how == "any" and data.task == "multiclass" and len(data.classes) > 2:
        raise SettingsError(
            f"case_label=any: of {len(data.classes)} classes a case can have one only; use max "
            "(the last of them in their order) or majority"
        )
    cases = rows_of_cases(ids)
    targets = [_label(data, case, rows, how) for case, rows in cases.items()]
    return LabelledImages(
        images=tuple(
            joined([data.images[i] for i in rows], [data.names[i] for i in rows])
            for rows in cases.values()
        ),
        names=tuple(cases),
        targets=np.array(targets, dtype=data.targets.dtype),
        classes=data.classes,
        groups=_common(data, cases, data.groups, "groups"),
        splits=_common(data, cases, data.splits, "sides of the split"),
        left_out=data.left_out,
        subgroups={
            name: np.array([_if_alike(cells[rows]) for rows in cases.values()], dtype=object)
            for name, cells in data.subgroups.items()
        },
    )


def _if_alike(cells: np.ndarray) -> str:
    """What all images of a case have in a column; empty if they differ."""
    return str(cells[0]) if len(set(cells.tolist())) == 1 else ""


def _common(
    data: LabelledImages, cases: dict[str, list[int]], values: np.ndarray | None, what: str
) -> np.ndarray | None:
    """The value that all images of each case have."""
    if values is None:
        return None
    for case, rows in cases.items():
        if len(set(values[rows].tolist())) > 1:
            differing = _said(data, rows, lambda row: str(values[row]))
            raise DataError(f"case {case!r} is in several {what} ({differing}); put it into one")
    return values[[rows[0] for rows in cases.values()]]


def _label(data: LabelledImages, case: str, rows: list[int], how: CaseLabel) -> np.ndarray:
    """The target of a case: a class index, or (C,) of 0 and 1."""
    targets = data.targets[rows]
    if len(np.unique(targets, axis=0)) == 1:
        return targets[0]
    if how == "agree":
        said = _said(data, rows, lambda row: label_text(data.targets[row], data.classes) or "none")
        raise DataError(
            f"case {case!r}: its images have different labels ({said}); correct them, or say "
            "how a case gets its label with case_label= (any, majority or max)"
        )
    if data.task == "multilabel":
        return (targets.mean(axis=0) > 0.5) if how == "majority" else targets.max(axis=0)
    if how != "majority":
        return targets.max()
    counts = Counter(targets.tolist()).most_common()
    if counts[0][1] == counts[1][1]:
        tied = [data.classes[c] for c, count in counts if count == counts[0][1]]
        raise DataError(
            f"case {case!r}: as many of its images are {' as '.join(tied)}; give it one label"
        )
    return np.array(counts[0][0])


def _said(data: LabelledImages, rows: list[int], value: Callable[[int], str]) -> str:
    """The first image of each value, with the value: at most three."""
    first: dict[str, str] = {}
    for row in rows:
        first.setdefault(value(row), data.names[row])
    more = ", ..." if len(first) > 3 else ""
    return ", ".join(f"{name}: {text}" for text, name in list(first.items())[:3]) + more
