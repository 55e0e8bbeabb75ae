"""Labelled images from a table or from folders, checked before anything is computed."""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from medept.data.images import IMAGE_SUFFIXES, ImageLike
from medept.errors import InputError

IMAGE_COLUMNS = ("image", "image_path", "path", "file", "filename", "file_name", "img", "image_id")
LABEL_COLUMNS = ("label", "labels", "class", "target", "diagnosis", "dx", "finding", "findings")
GROUP_COLUMNS = ("group", "patient", "patient_id", "subject", "subject_id", "study", "study_id",
                 "lesion", "lesion_id", "case", "case_id")  # fmt: skip
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val",
          "validation": "val", "test": "test", "testing": "test"}  # fmt: skip
HEADER_ROWS = 2
"""Row i of a table, counted from 0, is line i + 2 of its file."""


@dataclass(frozen=True)
class LabelledImages:
    """n images and what is known of each.

    Attributes:
        images: what :func:`medept.data.images.read_image` takes.
        names: how each image is called in outputs.
        targets: (n,) int64 class indices, or (n, C) uint8 of 0 and 1 for multi-label data.
        classes: names of the C classes or labels.
        groups: (n,) patient, study or lesion ids; None where every image stands for itself.
        splits: (n,) ``train``, ``val`` or ``test``; None where there is no such column.
    """

    images: tuple[ImageLike, ...]
    names: tuple[str, ...]
    targets: np.ndarray
    classes: tuple[str, ...]
    groups: np.ndarray | None = None
    splits: np.ndarray | None = None

    def __post_init__(self) -> None:
        n = len(self.images)
        for part in (self.names, self.targets, self.groups, self.splits):
            if part is not None and len(part) != n:
                raise InputError(f"{n} images, but {len(part)} names, targets, groups or splits")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def task(self) -> Literal["multiclass", "multilabel"]:
        """Whether an image has one class, or any number of labels."""
        return "multiclass" if self.targets.ndim == 1 else "multilabel"

    @property
    def labels(self) -> np.ndarray:
        """(n,) names of classes, or (n, C) of 0 and 1: what a classifier is fitted to."""
        return self.targets if self.task == "multilabel" else np.array(self.classes)[self.targets]

    def subset(self, rows: Sequence[int] | np.ndarray) -> LabelledImages:
        """The images of the given row indices."""
        rows = np.asarray(rows, dtype=np.int64)
        return LabelledImages(
            images=tuple(self.images[i] for i in rows),
            names=tuple(self.names[i] for i in rows),
            targets=self.targets[rows],
            classes=self.classes,
            groups=None if self.groups is None else self.groups[rows],
            splits=None if self.splits is None else self.splits[rows],
        )


def read_dataset(
    source: str | Path,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    classes: Sequence[str] | None = None,
) -> LabelledImages:
    """Labelled images from a CSV or Parquet table, or a folder with one subfolder per class.

    Args:
        source: the table (image paths are relative to its folder) or the folder.
        image_column: default: the first column with a usual name (``image``, ``path``, ...).
        label_column: one column of classes; one column with labels joined by ``|``; or several
            0/1 columns joined by commas. Default: a usual name (``label``, ``class``, ...), or
            else all remaining columns if they are 0/1.
        group_column: patient, study or lesion; default: a usual name, if it is there.
        classes: the only classes allowed, in this order (default: those found, sorted).

    Raises:
        InputError: for whatever cannot be used; the message names file, row and remedy.
    """
    path = Path(source)
    if path.is_dir():
        return _read_folder(path, classes)
    if not path.exists():
        raise InputError(f"{path}: no such table or folder")
    table = _read_table(path)
    image_column = _column(path, table, image_column, IMAGE_COLUMNS, "--image-column")
    group_column = _optional_column(path, table, group_column, GROUP_COLUMNS)
    split_column = "split" if "split" in table and label_column != "split" else None
    label_columns = _label_columns(
        path, table, label_column, {image_column, group_column, split_column}
    )
    names = _texts(path, table, image_column)
    images = _locate(path, names)
    _refuse_repeats(path, images)
    targets, found = _targets(path, table, label_columns, classes)
    return LabelledImages(
        images=images,
        names=tuple(names),
        targets=targets,
        classes=found,
        groups=None if group_column is None else np.array(_texts(path, table, group_column)),
        splits=None if split_column is None else _splits(path, table),
    )


# --- folders ---------------------------------------------------------------------------------


def _read_folder(folder: Path, classes: Sequence[str] | None) -> LabelledImages:
    subfolders = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not subfolders:
        raise InputError(
            f"{folder}: no subfolders; put the images of each class into a folder named after it, "
            "or give a table"
        )
    found = {sub.name: _images_below(folder, sub) for sub in subfolders}
    empty = [name for name, images in found.items() if not images]
    if empty:
        raise InputError(f"{folder / empty[0]}: no image in this folder; fill or remove it")
    names = _class_names(folder, list(found), classes)
    for name in found:
        if name not in names:
            raise InputError(
                f"{folder / name}: unknown class {name!r}; the classes are {', '.join(names)}"
            )
    images = [(path, names.index(name)) for name, paths in found.items() for path in paths]
    return LabelledImages(
        images=tuple(path for path, _ in images),
        names=tuple(path.relative_to(folder).as_posix() for path, _ in images),
        targets=np.array([index for _, index in images], dtype=np.int64),
        classes=names,
    )


def _images_below(root: Path, folder: Path) -> list[Path]:
    images = sorted(
        p
        for p in folder.rglob("*")
        if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")
    )
    for image in images:
        if not image.resolve().is_relative_to(root.resolve()):
            raise InputError(f"{image}: a link that leads out of {root}; copy the image instead")
    return images


# --- tables ----------------------------------------------------------------------------------


def _read_table(path: Path) -> pd.DataFrame:
    try:
        if path.suffix.lower() == ".parquet":
            table = pd.read_parquet(path)
        elif path.suffix.lower() in (".csv", ".tsv", ".txt"):
            table = _read_csv(path)
        else:
            raise InputError(f"{path}: a table must be .csv, .tsv or .parquet")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text; save the table as 'CSV UTF-8'") from error
    except (
        pd.errors.ParserError,
        pd.errors.EmptyDataError,
        csv.Error,
        ValueError,
        OSError,
    ) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read as a table ({error})") from error
    if table.empty:
        raise InputError(f"{path}: no rows; the table needs one row an image")
    table.columns = [str(name).strip() for name in table.columns]
    doubled = table.columns[table.columns.duplicated()]
    if len(doubled):
        raise InputError(f"{path}: two columns are named {doubled[0]!r}; rename one")
    return table


def _read_csv(path: Path) -> pd.DataFrame:
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = file.readline()
    separator = max(",;\t", key=header.count)
    table = pd.read_csv(
        path, sep=separator, header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig"
    )
    table.columns = table.iloc[0]
    return table.iloc[1:].reset_index(drop=True)


def _column(
    path: Path, table: pd.DataFrame, given: str | None, usual: Sequence[str], option: str
) -> str:
    name = _optional_column(path, table, given, usual)
    if name is None:
        raise InputError(
            f"{path}: none of its columns ({', '.join(table.columns)}) is named "
            f"{', '.join(usual[:4])}...; say which one it is with {option}"
        )
    return name


def _optional_column(
    path: Path, table: pd.DataFrame, given: str | None, usual: Sequence[str]
) -> str | None:
    if given is None:
        lower = {name.lower(): name for name in reversed(table.columns)}
        return next((lower[name] for name in usual if name in lower), None)
    if given not in table:
        raise InputError(f"{path}: no column {given!r}; there are {', '.join(table.columns)}")
    return given


def _label_columns(
    path: Path, table: pd.DataFrame, given: str | None, taken: set[str | None]
) -> list[str]:
    if given is not None and given not in table:
        return [
            _column(path, table, name.strip(), (), "--label-column") for name in given.split(",")
        ]
    name = _optional_column(path, table, given, LABEL_COLUMNS)
    if name is not None:
        return [name]
    flags = [
        name
        for name in table.columns
        if name not in taken and set(table[name].astype(str)) <= {"0", "1"}
    ]
    if len(flags) < 2:
        raise InputError(
            f"{path}: none of its columns ({', '.join(table.columns)}) is named "
            f"{', '.join(LABEL_COLUMNS[:4])}...; say which one it is with --label-column"
        )
    return flags


def _texts(path: Path, table: pd.DataFrame, column: str) -> list[str]:
    texts = []
    for i, value in enumerate(table[column]):
        text = "" if pd.isna(value) else str(value).strip()
        if not text:
            raise InputError(
                f"{path}, row {i + HEADER_ROWS}: column {column!r} is empty; fill it in"
            )
        texts.append(text)
    return texts


def _locate(path: Path, names: Sequence[str]) -> tuple[Path, ...]:
    root = path.parent.resolve()
    images, missing = [], []
    for i, name in enumerate(names):
        row = i + HEADER_ROWS
        if "\0" in name:
            raise InputError(f"{path}, row {row}: not a file name: {name!r}")
        image = root / name
        if not image.resolve().is_relative_to(root):
            raise InputError(
                f"{path}, row {row}: {name} leads out of the table's folder; put the images "
                "beside the table and write paths relative to it"
            )
        if not image.is_file():
            missing.append(f"{name} (row {row})")
        images.append(image)
    if missing:
        raise InputError(
            f"{path}: {len(missing)} of {len(names)} images are missing: {', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}; paths are relative to the table's folder"
        )
    return tuple(images)


def _refuse_repeats(path: Path, images: Sequence[Path]) -> None:
    first: dict[Path, int] = {}
    for i, image in enumerate(images):
        if image in first:
            raise InputError(
                f"{path}, rows {first[image] + HEADER_ROWS} and {i + HEADER_ROWS}: the same image "
                f"{image.name}; keep one row an image (several labels are joined by |)"
            )
        first[image] = i


def _splits(path: Path, table: pd.DataFrame) -> np.ndarray:
    texts = _texts(path, table, "split")
    for i, text in enumerate(texts):
        if text.lower() not in SPLITS:
            raise InputError(
                f"{path}, row {i + HEADER_ROWS}: unknown split {text!r}; use train, val or test"
            )
    return np.array([SPLITS[text.lower()] for text in texts])


# --- labels ----------------------------------------------------------------------------------


def _targets(
    path: Path, table: pd.DataFrame, columns: list[str], classes: Sequence[str] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    if len(columns) > 1:
        return _targets_of_flags(path, table, columns, classes)
    values = table[columns[0]]
    texts = ["" if pd.isna(value) else _label_text(value) for value in values]
    if any("|" in text for text in texts):
        rows = [[part.strip() for part in text.split("|") if part.strip()] for text in texts]
        return _targets_of_lists(path, rows, classes)
    for i, text in enumerate(texts):
        if not text:
            raise InputError(
                f"{path}, row {i + HEADER_ROWS}: no label in column {columns[0]!r}; fill it in or "
                "remove the row"
            )
    names = _class_names(path, sorted(set(texts), key=_natural), classes)
    place = {name: i for i, name in enumerate(names)}
    for i, text in enumerate(texts):
        if text not in place:
            raise InputError(
                f"{path}, row {i + HEADER_ROWS}: unknown label {text!r}; the classes are "
                f"{', '.join(names)}"
            )
    return np.array([place[text] for text in texts], dtype=np.int64), names


def _targets_of_lists(
    path: Path, rows: list[list[str]], classes: Sequence[str] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    names = _class_names(path, sorted({x for row in rows for x in row}, key=_natural), classes)
    place = {name: i for i, name in enumerate(names)}
    targets = np.zeros((len(rows), len(names)), dtype=np.uint8)
    for i, row in enumerate(rows):
        for name in row:
            if name not in place:
                raise InputError(
                    f"{path}, row {i + HEADER_ROWS}: unknown label {name!r}; the labels are "
                    f"{', '.join(names)}"
                )
            targets[i, place[name]] = 1
    return targets, names


def _targets_of_flags(
    path: Path, table: pd.DataFrame, columns: list[str], classes: Sequence[str] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    names = _class_names(path, columns, classes)
    missing = [name for name in names if name not in table]
    if missing:
        raise InputError(f"{path}: no column {missing[0]!r} for this label; add it, of 0 and 1")
    targets = np.zeros((len(table), len(names)), dtype=np.uint8)
    for c, name in enumerate(names):
        for i, value in enumerate(table[name]):
            text = _label_text(value)
            if text not in ("0", "1"):
                raise InputError(
                    f"{path}, row {i + HEADER_ROWS}: {text!r} in column {name!r}; labels in "
                    "several columns are 0 or 1"
                )
            targets[i, c] = text == "1"
    return targets, names


def _class_names(
    source: Path, found: Sequence[str], classes: Sequence[str] | None
) -> tuple[str, ...]:
    """The classes asked for, or those found if they can be used."""
    if classes is not None:
        return tuple(classes)
    for name in found:
        if any(unicodedata.category(c).startswith("C") for c in name):
            raise InputError(f"{source}: the label {name!r} holds a control character; rename it")
        if name[0] in "=+-@" and not _is_number(name):
            raise InputError(
                f"{source}: the label {name!r} would be a formula in a spreadsheet; rename it"
            )
    if len(found) < 2:
        raise InputError(
            f"{source}: the only label is {', '.join(found) or 'none'}; at least two are needed"
        )
    return tuple(found)


def _label_text(value: object) -> str:
    """A label as text: 1 and 1.0 are the same label."""
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _natural(text: str) -> tuple[int, float, str]:
    """Numbers in the order of their values, before texts in the order of their letters."""
    return (0, float(text), text) if _is_number(text) else (1, 0.0, text)
