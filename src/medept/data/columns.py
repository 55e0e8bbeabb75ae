"""Which column of a table holds what: the one that is named, or one with a usual name."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from medept.data.labelled_images import SPLIT_NAMES
from medept.data.labels import normalise_label, read_flag
from medept.data.spelling import clean, find_alike, say_alike
from medept.data.table import Table
from medept.errors import DataError

logger = logging.getLogger(__name__)

IMAGE_COLUMNS = ("image", "image_path", "path", "file", "filename", "file_name", "img", "image_id",
                 "image_index")  # fmt: skip
LABEL_COLUMNS = ("label", "labels", "class", "target", "diagnosis", "dx", "finding", "findings",
                 "finding_labels", "choice", "choices")  # fmt: skip
GROUP_COLUMNS = ("group", "groups", "patient", "patients", "patient_id", "pat", "pat_id", "pid",
                 "mrn", "subject", "subject_id", "study", "study_id", "lesion", "lesion_id", "case",
                 "case_id")  # fmt: skip
MASK_COLUMNS = ("mask", "masks", "mask_path", "segmentation")

_SPLIT_VALUES = ({"train", "test"}, {"train", "val", "test"}, {"train", "val"})
"""The values of a column that looks like a split, whatever its name."""


@dataclass(frozen=True)
class Columns:
    """The names of a table's columns, by what they hold; None where there is no such column."""

    image: str
    labels: tuple[str, ...]
    group: str | None
    split: str | None
    frame: str | None
    case: str | None = None


def find_columns(
    table: Table,
    image: str | None = None,
    label: str | None = None,
    group: str | None = None,
    case: str | None = None,
) -> Columns:
    """The columns to read, with those that are named here instead of the usual ones.

    Args:
        label: one column, or several with commas between them.
        case: has no usual name: without it there is none.

    Raises:
        DataError: if a column that is needed or named is not there, one is named for two uses, or
            two have the same usual name in different spellings.
    """
    reserved = {clean(name) for name in (image, group, label) if name} | {*_comma_separated(label)}
    images = find_image_column(table, image, reserved)
    others = {
        "group": _find(table, group, GROUP_COLUMNS, reserved),
        "split": _find(table, None, ("split",), reserved),
        "frame": find_frame_column(table, reserved),
        "case": None if case is None else require_column(table, case),
    }
    taken = {images, *others.values()}
    labels = _find_label_columns(table, label, taken)
    for column in taken.intersection(labels):
        raise DataError(
            f"{table.path}: column {column!r} cannot be the label and something else too"
        )
    return Columns(image=images, labels=labels, **others)


def find_image_column(
    table: Table, given: str | None, reserved: Collection[str | None] = ()
) -> str:
    """The column of image paths.

    Args:
        given: its name; default: the first column with one of :data:`IMAGE_COLUMNS` as name.
        reserved: columns that are named for something else.

    Raises:
        DataError: if there is none.
    """
    name = _find(table, given, IMAGE_COLUMNS, reserved)
    if name is None:
        raise DataError(
            f"{table.path}: none of its columns ({', '.join(table.columns)}) is named "
            f"{', '.join(IMAGE_COLUMNS[:4])}...; say which one it is with image_column="
        )
    return name


def find_frame_column(table: Table, reserved: Collection[str | None] = ()) -> str | None:
    """The column ``frame`` of frame numbers in DICOM files, if there is one."""
    return _find(table, None, ("frame",), reserved)


def _find_label_columns(
    table: Table, given: str | None, taken: Collection[str | None]
) -> tuple[str, ...]:
    if given is not None and clean(given) not in table.columns:
        return tuple(require_column(table, name) for name in _comma_separated(given))
    name = _find(table, given, LABEL_COLUMNS, taken)
    if name is not None:
        return (name,)
    others = tuple(
        name
        for name in table.columns
        if name and name not in taken and name.lower() not in MASK_COLUMNS
    )
    cells = (text for name in others for text in table.texts(name).values())
    if len(others) < 2 or any(read_flag(text) is None for text in cells):
        raise DataError(
            f"{table.path}: none of its columns ({', '.join(table.columns)}) is named "
            f"{', '.join(LABEL_COLUMNS[:4])}...; say which one it is with label_column=, or which "
            "ones, with commas between them, if they are 0 and 1"
        )
    return others


def _find(
    table: Table, given: str | None, usual: Sequence[str], reserved: Collection[str | None]
) -> str | None:
    """The column that is given, or else the first with a usual name that is not reserved.

    Usual names may be spelled in any way: ``PatientID``, ``Patient ID`` or ``patient-id``.
    """
    if given is not None:
        return require_column(table, given)
    for name in usual:
        found = [c for c in table.columns if c not in reserved and _plain(c) == _plain(name)]
        if len(found) > 1:
            raise DataError(
                f"{table.path}: columns {' and '.join(map(repr, found))} are named alike; rename "
                "those that are not to be read"
            )
        if found:
            return found[0]
    return None


def require_column(table: Table, name: str) -> str:
    """The name of a column that has to be there, as the table has it.

    Raises:
        DataError: if it is not.
    """
    name = clean(name)
    if name not in table.columns:
        raise DataError(f"{table.path}: no column {name!r}; there are {', '.join(table.columns)}")
    return name


def _comma_separated(names: str | None) -> list[str]:
    return [] if names is None else [clean(name) for name in names.split(",")]


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).casefold()


def log_columns(table: Table, columns: Columns) -> None:
    """Log which columns are read.

    Warns:
        UserWarning: if another column looks like a split.
    """
    logger.info(
        "%s: images in column %r, labels in %s, %s%s%s",
        table.path.name,
        columns.image,
        ", ".join(map(repr, columns.labels)),
        f"patients or other groups in {columns.group!r}"
        if columns.group
        else "no column of patients",
        f", cases in {columns.case!r}" if columns.case else "",
        f", split in {columns.split!r}" if columns.split else "",
    )
    read = {columns.image, columns.group, columns.case, *columns.labels}
    for name in [] if columns.split else set(table.columns) - read:
        if {text.lower() for text in table.texts(name).values()} in _SPLIT_VALUES:
            warnings.warn(
                f"{table.path}: column {name!r} looks like a split, and is not read; rename it "
                "'split' to test on its test rows alone",
                stacklevel=4,
            )


def read_ids(table: Table, column: str) -> np.ndarray:
    """(n,) ids of what each image belongs to, as they are written, except that 1.0 becomes 1.

    Raises:
        DataError: if a cell is empty.
    """
    return np.array([normalise_label(text) or text for text in table.filled(column).values()])


def read_groups(table: Table, column: str) -> np.ndarray:
    """(n,) ids as they are written, except that 1.0 becomes 1, as it does in labels.

    Raises:
        DataError: if a cell is empty.

    Warns:
        UserWarning: if some differ only in case, leading zeros, spaces or dashes.
    """
    ids = read_ids(table, column).tolist()
    if alike := find_alike(ids):
        warnings.warn(
            f"{table.path}: different patients or other groups in column {column!r} that may be "
            f"one: {say_alike(alike)}; write those alike that are one, or its images may be both "
            "learnt from and tested on",
            stacklevel=3,
        )
    return np.array(ids)


def read_splits(table: Table, column: str) -> np.ndarray:
    """(n,) ``train``, ``val`` or ``test``.

    Raises:
        DataError: if a cell is empty or holds something else.
    """
    texts = table.filled(column)
    for row, text in texts.items():
        if text.lower() not in SPLIT_NAMES:
            raise DataError(
                f"{table.path}, row {row}: unknown split {text!r}; use train, val or test"
            )
    return np.array([SPLIT_NAMES[text.lower()] for text in texts.values()])
