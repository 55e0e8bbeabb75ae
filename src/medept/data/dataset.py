"""Labelled images from a table or a folder, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from medept.data.case_labels import CaseLabel, join_cases
from medept.data.columns import (
    Columns,
    find_columns,
    log_columns,
    read_groups,
    read_ids,
    read_splits,
)
from medept.data.dicom.patients import dicom_groups
from medept.data.folder_images import warn_of_companions
from medept.data.folders import read_folder
from medept.data.image_paths import locate_images, read_image_names
from medept.data.labelled_images import LabelledImages, Task
from medept.data.table import Table, read_table
from medept.data.targets import read_targets
from medept.data.volumes import Slicing, open_volumes, series_folder
from medept.errors import DataError, SettingsError


def read_dataset(
    source: str | Path,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    image_root: str | Path | None = None,
    classes: Sequence[str] | None = None,
    task: Task | None = None,
    case_column: str | None = None,
    case: Literal["folder"] | None = None,
    case_label: CaseLabel | None = None,
    plane: str | None = None,
    slices: str | None = None,
    window: str | None = None,
    channels: str | None = None,
    subgroups: Sequence[str] = (),
) -> LabelledImages:
    """Labelled images from a CSV or Parquet table, or a folder with one subfolder per class.

    A column named ``split`` (``train``, ``val`` or ``test``) is read, and one named ``frame`` (of
    DICOM files, counted from 1). So is a folder with a ``train`` and a ``test`` folder, each with
    one subfolder per class.

    Args:
        source: the table or the folder.
        image_column: default: the first column with a usual name (``image``, ``path``, ...).
        label_column: one column of classes; one column with labels joined by ``|``; or several
            0/1 columns, with commas between their names. Default: a column with a usual name
            (``label``, ``class``, ...); without one, all remaining columns except masks, if these
            are at least two and hold only 0 and 1.
        group_column: patient, study or lesion. Default: a column with a usual name, or else the
            patients of DICOM files (:func:`medept.data.dicom.patients.dicom_groups`).
        image_root: the folder that paths in the table are relative to, and all images are in;
            default: the folder of the table. A path that leads out of it, such as
            ``../images/1.png``, is tried from where the table is. A path without a suffix finds
            the only image of that name.
        classes: the only classes allowed, in this order; default: those found, sorted.
        task: ``multiclass`` or ``multilabel``. Default: multi-label if there are several label
            columns, or any label holds a ``|``.
        case_column: of what is classified as one, such as a patient's images; default: every image
            by itself.
        case: ``folder``: the images in one folder are a case. Those that are in none of their own
            (directly in the folder of a class, or beside the table) are a case each.
        case_label: how a case gets its label from its images
            (:data:`medept.data.case_labels.CaseLabel`); default: they have to agree.
        plane: of volumes, which are a case each, as are those that follow
            (:class:`medept.data.volumes.slicing.Slicing`).
        slices: how many; or ``all``.
        window: which values they show.
        channels: what red, green and blue are.
        subgroups: columns of a table, such as ``sex``, to tell metrics by.

    Raises:
        DataError: if something is missing or cannot be used; the message names file, row and
            remedy.
        SettingsError: if options do not go together.

    >>> for name in ("a.png", "b.png", "c.png"):
    ...     _ = Path(name).write_bytes(b"")  # images are opened later
    >>> _ = Path("labels.csv").write_text(
    ...     "image,label,patient\\na.png,benign,7\\nb.png,malignant,8\\nc.png,malignant,8\\n"
    ... )
    >>> data = read_dataset("labels.csv")
    >>> data.classes, data.targets.tolist(), data.groups.tolist()
    (('benign', 'malignant'), [0, 1, 1], ['7', '8', '8'])
    """
    path = Path(source)
    if case not in (None, "folder") or (case and case_column):
        raise SettingsError("a case is given by case=folder or by case_column=: give one of them")
    if case_label and not (case or case_column):
        raise SettingsError(f"case_label={case_label}: say with case_column= what a case is")
    how = case_label or "agree"
    slicing = Slicing.of(plane, slices, window, channels)
    try:
        if path.is_dir():
            if image_root is not None:
                raise DataError(f"{path}: its images are inside it; leave image_root= out")
            if case_column is not None:
                raise DataError(f"{path}: a folder has no columns; use case=folder")
            if subgroups:
                raise DataError(f"{path}: a folder has no columns; leave subgroups= out")
            data = read_folder(path, classes, task)
            above = 1 if data.splits is None else 2
            ids = folder_ids(data.names, above) if case else None
            return _with_cases(data, ids, how, slicing)
        if not path.exists():
            known = " (`medept datasets` lists those known by name)" if ":" in str(path) else ""
            raise DataError(f"{path}: no such table or folder{known}; check the path")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check it") from error
    table = read_table(path)
    columns = find_columns(table, image_column, label_column, group_column, case_column)
    data = _read_labelled_table(table, columns, image_root, classes, task)
    data = replace(data, subgroups=_subgroups(table, subgroups))
    if columns.case:
        return _with_cases(data, read_ids(table, columns.case), how, slicing)
    return _with_cases(data, folder_ids(data.names) if case else None, how, slicing)


def _subgroups(table: Table, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The cells of columns as text.

    Raises:
        DataError: if the table does not have one of them.
    """
    for name in names:
        if name not in table.columns:
            raise DataError(
                f"{table.path}: no column {name!r} for subgroups=; the columns are "
                f"{', '.join(table.columns)}"
            )
    return {name: np.array(list(table.texts(name).values()), dtype=object) for name in names}


def _with_cases(
    data: LabelledImages, ids: Sequence[str] | np.ndarray | None, how: CaseLabel, slicing: Slicing
) -> LabelledImages:
    """The data with volumes as cases, and images put together by the ids of their cases.

    A case that is all files of a DICOM series is a volume, too.
    """
    opened = replace(data, images=open_volumes(data.images, slicing, data.names))
    if ids is None:
        return opened
    whole = join_cases(opened, ids, how)
    series = [series_folder(item) or item for item in whole.images]
    return replace(whole, images=open_volumes(series, slicing, whole.names))


def folder_ids(names: Sequence[str], above: int = 0) -> list[str]:
    """For each image the folder it is in; its own name if that is none of its own.

    Args:
        names: paths, as they are written.
        above: how many folders the paths begin with that are no case: those of class and split.

    >>> folder_ids(["benign/7/a.png", "benign/7/b.png", "benign/c.png"], above=1)
    ['benign/7', 'benign/7', 'benign/c.png']
    """
    paths = [PurePosixPath(name.replace("\\", "/")) for name in names]
    return [str(x.parent if len(x.parts) > above + 1 else x) for x in paths]


def _read_labelled_table(
    table: Table,
    columns: Columns,
    image_root: str | Path | None,
    classes: Sequence[str] | None,
    task: Task | None,
) -> LabelledImages:
    names = read_image_names(table, columns.image, columns.frame)
    images = locate_images(table.path, names, image_root)
    warn_of_companions(table.path, images)
    log_columns(table, columns)
    targets, found = read_targets(table, columns.labels, classes, task)
    return LabelledImages(
        images=images,
        names=tuple(names.values()),
        targets=targets,
        classes=found,
        groups=read_groups(table, columns.group) if columns.group else dicom_groups(images),
        splits=None if columns.split is None else read_splits(table, columns.split),
    )
