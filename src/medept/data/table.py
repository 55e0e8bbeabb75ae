"""Labelled images from a table or from folders, checked before anything is computed."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medept.data.dicom import DICOM_SUFFIXES, groups_of, split_frame
from medept.data.folders import SPLITS, images_by_class, split_folders
from medept.data.images import IMAGE_SUFFIXES, ImageLike
from medept.data.labels import class_names, label, natural, read_targets
from medept.data.spreadsheet import Table, read_table
from medept.errors import DataError
from medept.files import as_given

logger = logging.getLogger(__name__)

IMAGE_COLUMNS = ("image", "image_path", "path", "file", "filename", "file_name", "img", "image_id")
LABEL_COLUMNS = ("label", "labels", "class", "target", "diagnosis", "dx", "finding", "findings")
GROUP_COLUMNS = ("group", "groups", "patient", "patients", "patient_id", "pat", "pat_id", "pid",
                 "mrn", "subject", "subject_id", "study", "study_id", "lesion", "lesion_id", "case",
                 "case_id")  # fmt: skip
SPLIT_COLUMNS = ({"train", "test"}, {"train", "val", "test"}, {"train", "val"})
"""What a column holds that looks like a split, whatever it is called."""
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
        masks: a picture of each image's size, white where the object is; None without masks.
    """

    images: tuple[ImageLike, ...]
    names: tuple[str, ...]
    targets: np.ndarray
    classes: tuple[str, ...]
    groups: np.ndarray | None = None
    splits: np.ndarray | None = None
    masks: tuple[ImageLike, ...] | None = None

    def __post_init__(self) -> None:
        n, count = len(self.images), len(self.classes)
        for name in ("names", "targets", "groups", "splits", "masks"):
            part = getattr(self, name)
            if part is not None and len(part) != n:
                raise DataError(f"{n} images, but {len(part)} {name}")
        shape, limit = self.targets.shape, count if self.targets.ndim == 1 else 2
        if shape not in ((n,), (n, count)) or not np.isin(self.targets, range(limit)).all():
            raise DataError(
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
            masks=None if self.masks is None else tuple(self.masks[i] for i in rows),
        )


def label_text(target: Any, classes: Sequence[str]) -> str:
    """The name of a class index, or the names of the labels that are 1 joined by ``|``."""
    if np.ndim(target) == 0:
        return classes[int(target)]
    return "|".join(name for name, value in zip(classes, target, strict=True) if value)


def label_texts(data: LabelledImages) -> list[str]:
    """Each image's label as a table has it, so that it is read back as what it is."""
    texts = [label_text(target, data.classes) for target in data.targets]
    if data.task == "multilabel" and not any("|" in text for text in texts):
        return [f"{text}|" for text in texts]  # else they would be read as classes
    return texts


def read_dataset(
    source: str | Path,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    image_root: str | Path | None = None,
    classes: Sequence[str] | None = None,
    task: Literal["multiclass", "multilabel"] | None = None,
) -> LabelledImages:
    """Labelled images from a CSV or Parquet table, or a folder with one subfolder per class.

    Args:
        source: the table or the folder.
        image_column: default: the first column with a usual name (``image``, ``path``, ...).
        label_column: one column of classes; one column with labels joined by ``|``; or several
            0/1 columns joined by commas. Default: a usual name (``label``, ``class``, ...), or
            else all remaining columns (masks aside) if they are at least two, and all 0/1.
        group_column: patient, study or lesion; default: a usual name, if it is there, or else
            the patients of DICOM files (:func:`medept.data.dicom.groups_of`).
        image_root: the folder that paths in the table are relative to, and all images are in;
            default: the table's. Paths that lead out of it, ``../images/1.png``, are tried from
            where the table is. A path without a suffix finds the one image of that name.
        classes: the only classes allowed, in this order (default: those found, sorted).
        task: what labels mean; default: multi-label if there are several columns of them, or a
            ``|`` stands anywhere in the one.

    Raises:
        InputError: for whatever cannot be used; the message names file, row and remedy.
    """
    path = Path(source)
    try:
        if path.is_dir():
            if image_root is not None:
                raise DataError(f"{path}: its images are inside it; leave --image-root out")
            return _read_folder(path, classes, task)
        if not path.exists():
            known = " (`medept datasets` lists those known by name)" if ":" in str(path) else ""
            raise DataError(f"{path}: no such table or folder{known}; check the path")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check it") from error
    table = read_table(path)
    named = {image_column, group_column, label_column, *_parts(label_column)}
    image_column = _column(
        table, image_column, IMAGE_COLUMNS, named, "say which one it is with --image-column"
    )
    group_column = _optional_column(table, group_column, GROUP_COLUMNS, named)
    split_column = _optional_column(table, None, ("split",), named)
    frame_column = _optional_column(table, None, ("frame",), named)
    taken = {image_column, group_column, split_column, frame_column}
    label_columns = _label_columns(table, label_column, taken)
    for column in taken.intersection(label_columns):
        raise DataError(f"{path}: column {column!r} cannot be the label and something else too")
    names = _image_names(table, image_column, frame_column)
    images = _locate(path, names, path.parent if image_root is None else Path(image_root))
    _say_what_is_read(table, image_column, label_columns, group_column, split_column)
    targets, found = read_targets(table, label_columns, classes, task)
    return LabelledImages(
        images=images,
        names=tuple(names.values()),
        targets=targets,
        classes=found,
        groups=_groups(table, group_column) if group_column else groups_of(images),
        splits=None if split_column is None else _splits(table, split_column),
    )


def _say_what_is_read(
    table: Table, image: str, labels: list[str], group: str | None, split: str | None
) -> None:
    """Which columns are taken for what; a warning where one looks like a split by another name."""
    logger.info(
        "%s: images in column %r, labels in %s, %s%s",
        table.path.name,
        image,
        ", ".join(map(repr, labels)),
        f"patients or other groups in {group!r}" if group else "no column of patients",
        f", split in {split!r}" if split else "",
    )
    for name in [] if split else set(table.columns).difference([image, group, *labels]):
        if {text.lower() for text in table.texts(name).values()} in SPLIT_COLUMNS:
            warnings.warn(
                f"{table.path}: column {name!r} looks like a split, and is not read; rename it "
                "'split' to test on its test rows alone",
                stacklevel=4,
            )


def read_image_column(
    path: Path, image_column: str | None = None, image_root: Path | None = None
) -> tuple[Path, ...]:
    """The images that a table lists, whatever else is in it.

    Args:
        image_column: as in :func:`read_dataset`, as is ``image_root``.
        image_root: see above.

    Raises:
        InputError: as :func:`read_dataset` does.
    """
    table = read_table(path)
    remedy = "say which one it is with --image-column"
    column = _column(table, image_column, IMAGE_COLUMNS, set(), remedy)
    frames = _optional_column(table, None, ("frame",), {image_column})
    names = _image_names(table, column, frames)
    return _locate(path, names, path.parent if image_root is None else Path(image_root))


def _read_folder(folder: Path, classes: Sequence[str] | None, task: str | None) -> LabelledImages:
    parts = split_folders(folder)
    inside = parts or {"": folder}
    found = {part: images_by_class(place) for part, place in inside.items()}
    present = sorted({name for by_class in found.values() for name in by_class}, key=natural)
    names = class_names(folder, present, classes)
    for part, by_class in found.items():
        for name in set(by_class).difference(names):
            raise DataError(
                f"{inside[part] / name}: unknown class {name!r}; the classes are {', '.join(names)}"
            )
    images = [
        (path, names.index(name), part)
        for part, by_class in found.items()
        for name, paths in by_class.items()
        for path in paths
    ]
    indices = np.array([index for _, index, _ in images], dtype=np.int64)
    return LabelledImages(
        images=tuple(path for path, _, _ in images),
        names=tuple(path.relative_to(folder).as_posix() for path, _, _ in images),
        targets=np.eye(len(names), dtype=np.uint8)[indices] if task == "multilabel" else indices,
        classes=names,
        groups=groups_of([path for path, _, _ in images]),
        splits=np.array([part for _, _, part in images]) if parts else None,
    )


def _parts(label_column: str | None) -> list[str]:
    return [] if label_column is None else [name.strip() for name in label_column.split(",")]


def _column(
    table: Table,
    given: str | None,
    usual: Sequence[str],
    named: set[str | None],
    remedy: str,
) -> str:
    name = _optional_column(table, given, usual, named)
    if name is None:
        raise DataError(
            f"{table.path}: none of its columns ({', '.join(table.columns)}) is named "
            f"{', '.join(usual[:4])}...; {remedy}"
        )
    return name


def _optional_column(
    table: Table,
    given: str | None,
    usual: Sequence[str],
    named: set[str | None],
) -> str | None:
    """The column given, or else the first usual one that is not named for another use.

    Usual names are known in any spelling: ``PatientID``, ``Patient ID`` and ``patient-id``.
    """
    if given is None:
        found = {_plain(name): name for name in reversed(table.columns) if name not in named}
        return next((found[_plain(name)] for name in usual if _plain(name) in found), None)
    if given not in table.columns:
        raise DataError(f"{table.path}: no column {given!r}; there are {', '.join(table.columns)}")
    return given


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).casefold()


def _label_columns(table: Table, given: str | None, taken: set[str | None]) -> list[str]:
    if given is not None and given not in table.columns:
        return [_column(table, name, (), set(), "") for name in _parts(given)]
    name = _optional_column(table, given, LABEL_COLUMNS, taken)
    if name is not None:
        return [name]
    others = [
        name
        for name in table.columns
        if name and name not in taken and name.lower() not in MASK_COLUMNS
    ]
    flags = (label(text) in ("0", "1") for name in others for text in table.texts(name).values())
    if len(others) < 2 or not all(flags):
        raise DataError(
            f"{table.path}: none of its columns ({', '.join(table.columns)}) is named "
            f"{', '.join(LABEL_COLUMNS[:4])}...; say which one it is with --label-column, or which "
            "ones, with commas between them, if they are 0 and 1"
        )
    return others


def _locate(path: Path, names: dict[int, str], folder: Path) -> tuple[Path, ...]:
    """The image of each row of the table ``path``; names are relative to ``folder``."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; check --image-root")
    root = folder.resolve()
    images: list[Path] = []
    rows: dict[Path, int] = {}
    missing = []
    for row, name in names.items():
        try:
            image = _image_file(root / name)
            if not image.resolve().is_relative_to(root):  # ../images/1.png, from where the table is
                image = _image_file(path.parent / name)
            place = image.resolve()
            exists = split_frame(place)[0].is_file()
        except (OSError, RuntimeError, ValueError) as error:
            raise DataError(
                f"{path}, row {row}: {name[:60]!r} is no usable file name; write the image's path "
                f"relative to {root}"
            ) from error
        if not place.is_relative_to(root):
            raise DataError(
                f"{path}, row {row}: {name} leads out of {root}; give a folder that holds all "
                f"images with --image-root{_such_as(root, place)}"
            )
        if place in rows:
            raise DataError(
                f"{path}, rows {rows[place]} and {row}: the same image {name}; keep one row an "
                "image (several labels are joined by |)"
            )
        rows[place] = row
        images.append(image)
        if not exists:
            missing.append(f"{name} (row {row})")
    if missing:
        raise DataError(
            f"{path}: {len(missing)} of {len(names)} images are missing: {', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}; paths are relative to {root}, or to the "
            "folder given with --image-root"
        )
    return tuple(images)


def _such_as(root: Path, image: Path) -> str:
    """The folder that holds both, where there is one."""
    try:
        return f", such as {Path(os.path.commonpath([root, image.parent]))}"
    except ValueError:  # on two drives
        return ""


def _image_file(path: Path) -> Path:
    """The path, or where it is none of a file, the only image of that name with a suffix added."""
    if split_frame(path)[0].is_file():
        return path
    path = Path(str(path).replace("\\", "/"))  # of a table that was written on Windows
    if split_frame(path)[0].is_file():
        return path
    added = (path.with_name(path.name + suffix) for suffix in IMAGE_SUFFIXES | DICOM_SUFFIXES)
    found = [file for file in added if file.is_file()]
    return found[0] if len(found) == 1 else path


def _image_names(table: Table, column: str, frame_column: str | None) -> dict[int, str]:
    """What each row calls its image, with its frame where there is a column of them."""
    names = table.filled(column)
    if frame_column is None:
        return names
    frames = {row: label(frame) for row, frame in table.filled(frame_column).items()}
    for row, frame in frames.items():
        if not re.fullmatch(r"[1-9][0-9]{0,8}", frame):
            raise DataError(f"{table.path}, row {row}: frame {frame!r}; frames count from 1")
    return {row: f"{name}#{frames[row]}" for row, name in names.items()}


def _groups(table: Table, column: str) -> np.ndarray:
    """Ids as they are written, but 1.0 is 1, as it is of labels."""
    ids = (as_given(text) for text in table.filled(column).values())
    return np.array([label(text) or text for text in ids])


def _splits(table: Table, column: str) -> np.ndarray:
    texts = table.filled(column)
    for row, text in texts.items():
        if text.lower() not in SPLITS:
            raise DataError(
                f"{table.path}, row {row}: unknown split {text!r}; use train, val or test"
            )
    return np.array([SPLITS[text.lower()] for text in texts.values()])
