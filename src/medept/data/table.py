"""Labelled images from a table or from folders, checked before anything is computed."""

from __future__ import annotations

import csv
import math
import re
import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from medept.data.dicom import groups_of, is_dicom, split_frame
from medept.data.images import ImageLike, is_image
from medept.errors import InputError

IMAGE_COLUMNS = ("image", "image_path", "path", "file", "filename", "file_name", "img", "image_id")
LABEL_COLUMNS = ("label", "labels", "class", "target", "diagnosis", "dx", "finding", "findings")
GROUP_COLUMNS = ("group", "patient", "patient_id", "subject", "subject_id", "study", "study_id",
                 "lesion", "lesion_id", "case", "case_id")  # fmt: skip
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val",
          "validation": "val", "test": "test", "testing": "test"}  # fmt: skip
NO_LABEL = frozenset({"nan", "na", "n/a", "#n/a", "<na>", "null"})
MASK_COLUMNS = ("mask", "masks", "mask_path", "segmentation")


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
        n, count = len(self.images), len(self.classes)
        for part in (self.names, self.targets, self.groups, self.splits):
            if part is not None and len(part) != n:
                raise InputError(f"{n} images, but {len(part)} names, targets, groups or splits")
        shape, limit = self.targets.shape, count if self.targets.ndim == 1 else 2
        if shape not in ((n,), (n, count)) or not np.isin(self.targets, range(limit)).all():
            raise InputError(
                f"targets of shape {shape} for {n} images and {count} classes: give {n} class "
                f"indices below {count}, or {n} x {count} of 0 and 1"
            )

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


def label_text(target: Any, classes: Sequence[str]) -> str:
    """The name of a class index, or the names of the labels that are 1 joined by ``|``."""
    if np.ndim(target) == 0:
        return classes[int(target)]
    return "|".join(name for name, value in zip(classes, target, strict=True) if value)


def read_dataset(
    source: str | Path,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    classes: Sequence[str] | None = None,
    task: Literal["multiclass", "multilabel"] | None = None,
) -> LabelledImages:
    """Labelled images from a CSV or Parquet table, or a folder with one subfolder per class.

    Args:
        source: the table (image paths are relative to its folder) or the folder.
        image_column: default: the first column with a usual name (``image``, ``path``, ...).
        label_column: one column of classes; one column with labels joined by ``|``; or several
            0/1 columns joined by commas. Default: a usual name (``label``, ``class``, ...), or
            else all remaining columns (masks aside) if they are at least two, and all 0/1.
        group_column: patient, study or lesion; default: a usual name, if it is there, or else
            the patients of DICOM files (:func:`medept.data.dicom.groups_of`).
        classes: the only classes allowed, in this order (default: those found, sorted).
        task: what one label column means; default: multi-label if a ``|`` stands anywhere in it.

    Raises:
        InputError: for whatever cannot be used; the message names file, row and remedy.
    """
    path = Path(source)
    try:
        if path.is_dir():
            return _read_folder(path, classes)
        if not path.exists():
            raise InputError(f"{path}: no such table or folder; check the path")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check it") from error
    table = _read_table(path)
    named = {image_column, group_column, label_column, *_parts(label_column)}
    image_column = _column(path, table, image_column, IMAGE_COLUMNS, named, "--image-column")
    group_column = _optional_column(path, table, group_column, GROUP_COLUMNS, named)
    split_column = _optional_column(path, table, None, ("split",), named)
    frame_column = _optional_column(path, table, None, ("frame",), named)
    taken = {image_column, group_column, split_column, frame_column}
    label_columns = _label_columns(path, table, label_column, taken)
    for column in taken.intersection(label_columns):
        raise InputError(f"{path}: column {column!r} cannot be the label and something else too")
    names = _filled(path, table, image_column)
    if frame_column is not None:
        names = _with_frames(path, names, _filled(path, table, frame_column))
    images = _locate(path, names)
    targets, found = _targets(path, table, label_columns, classes, task)
    return LabelledImages(
        images=images,
        names=tuple(names.values()),
        targets=targets,
        classes=found,
        groups=_groups(path, table, group_column) if group_column else _dicom_groups(images),
        splits=None if split_column is None else _splits(path, table, split_column),
    )


# --- folders ---------------------------------------------------------------------------------


def _read_folder(folder: Path, classes: Sequence[str] | None) -> LabelledImages:
    inside = [p for p in folder.iterdir() if not p.name.startswith(".")]
    subfolders = sorted((p for p in inside if p.is_dir()), key=lambda p: _natural(p.name))
    tables = sorted(p for p in inside if p.suffix.lower() in (".csv", ".tsv", ".parquet"))
    if not subfolders:
        raise InputError(
            f"{folder}: no subfolders; put the images of each class into a folder named after it, "
            "or give a table"
        )
    found = {sub.name: images_below(folder, sub) for sub in subfolders}
    empty = [name for name, images in found.items() if not images]
    if empty:
        raise InputError(f"{folder / empty[0]}: no image in this folder; fill or remove it")
    names = _class_names(folder, list(found), classes)
    for name in found:
        if name not in names:
            raise InputError(
                f"{folder / name}: unknown class {name!r}; the classes are {', '.join(names)}"
            )
    if tables:
        warnings.warn(
            f"{folder}: its subfolders are taken as the classes {', '.join(found)}; to read "
            f"{tables[0].name} instead, give {tables[0]}",
            stacklevel=3,
        )
    images = [(path, names.index(name)) for name, paths in found.items() for path in paths]
    return LabelledImages(
        groups=_dicom_groups([path for path, _ in images]),
        images=tuple(path for path, _ in images),
        names=tuple(path.relative_to(folder).as_posix() for path, _ in images),
        targets=np.array([index for _, index in images], dtype=np.int64),
        classes=names,
    )


def images_below(root: Path, folder: Path) -> list[Path]:
    """The images in ``folder`` and below, hidden ones aside, in order of name.

    Raises:
        InputError: for a broken link, one that leads out of ``root``, or a name that is not text.
    """
    images = sorted(
        p
        for p in folder.rglob("*")
        if is_image(p)
        and not any(part.startswith(".") for part in p.relative_to(folder).parts)
        and not p.is_dir()
    )
    for image in images:
        if not image.is_file():
            raise InputError(f"{image}: a broken link or a device; remove it or put the image here")
        if not image.resolve().is_relative_to(root.resolve()):
            raise InputError(f"{image}: a link that leads out of {root}; copy the image instead")
        if not _is_text(image.name):
            raise InputError(f"{str(image)!r}: its name is not UTF-8 text; rename it")
    return images


# --- tables ----------------------------------------------------------------------------------


def _read_table(path: Path) -> pd.DataFrame:
    """The table, its index the row numbers that a spreadsheet shows (the header is row 1)."""
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".tsv", ".txt", ".parquet"):
        raise InputError(f"{path}: a table must be .csv, .tsv or .parquet; save it as one")
    try:
        table = _read_parquet(path) if suffix == ".parquet" else _read_csv(path)
    except InputError:
        raise
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8 text; save it again, as 'CSV UTF-8' or as Parquet"
        ) from error
    except Exception as error:  # a damaged Parquet file raises whatever it likes
        raise InputError(f"{path}: cannot be read as a table ({error}); save it again") from error
    table.columns = [str(name).strip() for name in table.columns]
    if table.empty:
        raise InputError(f"{path}: no rows; the table needs one row an image")
    doubled = table.columns[table.columns.duplicated()]
    if len(doubled):
        raise InputError(f"{path}: two columns are named {doubled[0]!r}; rename one")
    return table


def _read_parquet(path: Path) -> pd.DataFrame:
    table = pd.read_parquet(path).astype(object)  # so that damaged text is met here
    return table.set_axis(pd.RangeIndex(2, len(table) + 2), axis="index")


def _read_csv(path: Path) -> pd.DataFrame:
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = next((line for line in file if line.strip()), "")
        file.seek(0)
        separator = max(",;\t", key=first.count)
        numbered = enumerate(csv.reader(file, delimiter=separator, strict=True), start=1)
        rows = {row: cells for row, cells in numbered if any(cell.strip() for cell in cells)}
    if not rows:
        raise InputError(f"{path}: cannot be read as a table (it is empty); give a header and rows")
    header = rows.pop(next(iter(rows)))
    for row, cells in rows.items():
        if len(cells) != len(header):
            raise InputError(
                f"{path}, row {row}: {len(cells)} cells, but the header has {len(header)}; "
                "add or remove separators, or quote a cell that holds one"
            )
    table = pd.DataFrame(list(rows.values()), index=list(rows), columns=header, dtype=object)
    used = [bool(name.strip()) or table.iloc[:, c].any() for c, name in enumerate(header)]
    return table.loc[:, used]


def _parts(label_column: str | None) -> list[str]:
    return [] if label_column is None else [name.strip() for name in label_column.split(",")]


def _column(
    path: Path,
    table: pd.DataFrame,
    given: str | None,
    usual: Sequence[str],
    named: set[str | None],
    option: str,
) -> str:
    name = _optional_column(path, table, given, usual, named)
    if name is None:
        raise InputError(
            f"{path}: none of its columns ({', '.join(table.columns)}) is named "
            f"{', '.join(usual[:4])}...; say which one it is with {option}"
        )
    return name


def _optional_column(
    path: Path,
    table: pd.DataFrame,
    given: str | None,
    usual: Sequence[str],
    named: set[str | None],
) -> str | None:
    """The column given, or else the first usual one that is not named for another use."""
    if given is None:
        lower = {name.lower(): name for name in reversed(table.columns) if name not in named}
        return next((lower[name] for name in usual if name in lower), None)
    if given not in table:
        raise InputError(f"{path}: no column {given!r}; there are {', '.join(table.columns)}")
    return given


def _label_columns(
    path: Path, table: pd.DataFrame, given: str | None, taken: set[str | None]
) -> list[str]:
    if given is not None and given not in table:
        return [_column(path, table, name, (), set(), "--label-column") for name in _parts(given)]
    name = _optional_column(path, table, given, LABEL_COLUMNS, taken)
    if name is not None:
        return [name]
    others = [
        name
        for name in table.columns
        if name and name not in taken and name.lower() not in MASK_COLUMNS
    ]
    flags = (_label(_text(value)) in ("0", "1") for name in others for value in table[name])
    if len(others) < 2 or not all(flags):
        raise InputError(
            f"{path}: none of its columns ({', '.join(table.columns)}) is named "
            f"{', '.join(LABEL_COLUMNS[:4])}...; say which one it is with --label-column, or which "
            "ones, with commas between them, if they are 0 and 1"
        )
    return others


def _texts(path: Path, table: pd.DataFrame, column: str) -> dict[int, str]:
    """The cells of a column as text, by row number; nothing is ``""``."""
    texts = {}
    for row, value in zip(table.index.tolist(), table[column], strict=True):
        if isinstance(value, bytes) or not pd.api.types.is_scalar(value):
            raise InputError(
                f"{path}, row {row}: column {column!r} holds {type(value).__name__}, not text or "
                "numbers; save images as files, and name another column or their paths in this one"
            )
        texts[row] = _text(value)
    return texts


def _text(value: Any) -> str:
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return ""
    return str(int(value) if isinstance(value, bool | np.bool_) else value).strip()


def _filled(path: Path, table: pd.DataFrame, column: str) -> dict[int, str]:
    texts = _texts(path, table, column)
    for row, text in texts.items():
        if not text:
            raise InputError(f"{path}, row {row}: column {column!r} is empty; fill it in")
    return texts


def _locate(path: Path, names: dict[int, str]) -> tuple[Path, ...]:
    root = path.parent.resolve()
    rows: dict[Path, int] = {}
    missing = []
    for row, name in names.items():
        try:
            image = (root / name).resolve()
            exists = split_frame(image)[0].is_file()
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(
                f"{path}, row {row}: {name[:60]!r} is no usable file name; write the image's path "
                "relative to the table's folder"
            ) from error
        if not image.is_relative_to(root):
            raise InputError(
                f"{path}, row {row}: {name} leads out of the table's folder; put the images "
                "beside the table and write paths relative to it"
            )
        if image in rows:
            raise InputError(
                f"{path}, rows {rows[image]} and {row}: the same image {name}; keep one row an "
                "image (several labels are joined by |)"
            )
        rows[image] = row
        if not exists:
            missing.append(f"{name} (row {row})")
    if missing:
        raise InputError(
            f"{path}: {len(missing)} of {len(names)} images are missing: {', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}; paths are relative to the table's folder"
        )
    return tuple(root / name for name in names.values())


def _with_frames(path: Path, names: dict[int, str], frames: dict[int, str]) -> dict[int, str]:
    for row, frame in frames.items():
        if not re.fullmatch(r"[1-9][0-9]{0,8}", _label(frame)):
            raise InputError(f"{path}, row {row}: frame {frame!r}; frames are counted from 1")
    return {row: f"{name}#{_label(frames[row])}" for row, name in names.items()}


def _dicom_groups(images: Sequence[Path]) -> np.ndarray | None:
    """Patients, or else studies, of DICOM files; None where there is no such file."""
    if not any(is_dicom(split_frame(image)[0]) for image in images):
        return None
    return groups_of(images)


def _groups(path: Path, table: pd.DataFrame, column: str) -> np.ndarray:
    return np.array(list(_filled(path, table, column).values()))


def _splits(path: Path, table: pd.DataFrame, column: str) -> np.ndarray:
    texts = _filled(path, table, column)
    for row, text in texts.items():
        if text.lower() not in SPLITS:
            raise InputError(f"{path}, row {row}: unknown split {text!r}; use train, val or test")
    return np.array([SPLITS[text.lower()] for text in texts.values()])


# --- labels ----------------------------------------------------------------------------------


def _targets(
    path: Path,
    table: pd.DataFrame,
    columns: list[str],
    classes: Sequence[str] | None,
    task: str | None,
) -> tuple[np.ndarray, tuple[str, ...]]:
    if len(columns) > 1:
        return _targets_of_flags(path, table, columns, classes)
    texts = {row: _label(text) for row, text in _texts(path, table, columns[0]).items()}
    if task == "multilabel" or (task is None and any("|" in text for text in texts.values())):
        return _targets_of_lists(path, texts, classes)
    for row, text in texts.items():
        if not text:
            raise InputError(
                f"{path}, row {row}: no label in column {columns[0]!r}; fill it in or remove the "
                "row"
            )
    names = _class_names(path, sorted(set(texts.values()), key=_natural), classes)
    place = {name: i for i, name in enumerate(names)}
    for row, text in texts.items():
        if text not in place:
            raise _unknown_label(path, row, text, names)
    return np.array([place[text] for text in texts.values()], dtype=np.int64), names


def _targets_of_lists(
    path: Path, texts: dict[int, str], classes: Sequence[str] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    labels = {
        row: [name for part in text.split("|") if (name := _label(part.strip()))]
        for row, text in texts.items()
    }
    found = sorted({name for names in labels.values() for name in names}, key=_natural)
    names = _class_names(path, found, classes)
    place = {name: i for i, name in enumerate(names)}
    targets = np.zeros((len(labels), len(names)), dtype=np.uint8)
    for i, (row, given) in enumerate(labels.items()):
        for name in given:
            if name not in place:
                raise _unknown_label(path, row, name, names)
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
        for i, (row, text) in enumerate(_texts(path, table, name).items()):
            if _label(text) not in ("0", "1"):
                raise InputError(
                    f"{path}, row {row}: {text!r} in column {name!r}; labels in several columns "
                    "are 0 or 1"
                )
            targets[i, c] = _label(text) == "1"
    return targets, names


def _unknown_label(path: Path, row: int, label: str, names: Sequence[str]) -> InputError:
    return InputError(
        f"{path}, row {row}: unknown label {label!r}; the classes are {', '.join(names)}"
    )


def _class_names(
    source: Path, found: Sequence[str], classes: Sequence[str] | None
) -> tuple[str, ...]:
    """The classes asked for, or those found if they can be used."""
    if classes is not None:
        return tuple(classes)
    if len(set(found)) < len(found):
        raise InputError(f"{source}: a label is named twice in {', '.join(found)}; name it once")
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


def _label(text: str) -> str:
    """A label in one spelling: 1.0 is 1, and what programs write for no value is no label."""
    if text.lower() in NO_LABEL:
        return ""
    return re.sub(r"^([+-]?[0-9]+)\.0+$", r"\1", text)


def _is_text(name: str) -> bool:
    """Whether it can be written to a file: names that are not UTF-8 hold lone surrogates."""
    return not any(unicodedata.category(c) == "Cs" for c in name)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _natural(text: str) -> tuple[int, float, str]:
    """Numbers in the order of their values, before texts in the order of their letters."""
    return (0, float(text), text) if _is_number(text) else (1, 0.0, text)
