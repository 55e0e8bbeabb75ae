"""Images without labels: files, folders, patterns, and tables and lists that name them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from medept.data.columns import find_frame_column, find_image_column, read_ids, require_column
from medept.data.dataset import folder_ids
from medept.data.dicom.files import split_frame
from medept.data.folder_images import images_below, report_images, warn_of_companions
from medept.data.image_paths import locate_images, read_image_names
from medept.data.table import TABLE_SUFFIXES, read_table
from medept.errors import DataError, SettingsError

STANDARD_INPUT = Path("-")


@dataclass(frozen=True)
class FoundImages:
    """Images, and what is known of each.

    Attributes:
        images: n files, or volumes: NIfTI files, and folders of DICOM series that a table names.
        names: what each was called where it was given: a path, or the cell of a table.
        table: the other columns of tables, n rows of text; empty cells where an image is of none.
        cases: (n,) the case of each; None where each image is its own.
    """

    images: list[Path]
    names: list[str]
    table: pd.DataFrame
    cases: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, rows: Sequence[int]) -> FoundImages:
        """The images of the given rows, in that order."""
        return FoundImages(
            images=[self.images[i] for i in rows],
            names=[self.names[i] for i in rows],
            table=self.table.iloc[list(rows)].reset_index(drop=True),
            cases=None if self.cases is None else self.cases[list(rows)],
        )


def is_pattern(path: Path) -> bool:
    """Whether a path stands for all that it matches, such as ``scans/*.png``.

    >>> is_pattern(Path("scans/*.png")), is_pattern(Path("scans/1.png"))
    (True, False)
    """
    return any(letter in str(path) for letter in "*?[") and not split_frame(path)[0].exists()


def names_many(path: Path) -> bool:
    """Whether a path stands for images that nobody named one by one: a folder, a pattern, a list
    on standard input."""
    return path == STANDARD_INPUT or path.is_dir() or is_pattern(path)


def find_images(
    paths: Sequence[Path],
    image_column: str | None = None,
    image_root: Path | None = None,
    case_column: str | None = None,
    case: str | None = None,
) -> FoundImages:
    """The images that files, folders (with their subfolders) and tables stand for, in that order.

    Args:
        paths: an image file (``scan.dcm#3`` is frame 3), a folder, a CSV or Parquet table, a
            pattern such as ``scans/**/*.png``, or ``-`` for paths on standard input: one a line,
            or with a null character after each, as ``find -print0`` writes them.
        image_column: of tables; default: the first with a usual name (``image``, ``path``, ...).
        image_root: the folder that paths in tables and on standard input are relative to; default:
            each table's own, and for standard input the working folder.
        case_column: of tables: what is classified as one; default: every image by itself.
        case: ``folder``: the images in one folder are a case. Those directly in a folder that is
            given, or beside a table, are a case each.

    Raises:
        DataError: if a path does not exist, a folder holds no image or a link out of it, or a
            table has no column of images or names some that are missing.
        SettingsError: if ``case_column`` is given for what is no table.

    >>> for name in ("b.png", "a.png"):
    ...     _ = Path(name).write_bytes(b"")
    >>> [image.name for image in find_images([Path(".")]).images]
    ['a.png', 'b.png']
    """
    if case and case_column:
        raise SettingsError("a case is given by case=folder or by case_column=: give one of them")
    found = [
        _find(one, image_column, image_root, case_column, case)
        for path in paths
        for one in _matches(path)
    ]
    table = pd.concat([one.table for one in found], ignore_index=True).fillna("")
    cases = [one.cases for one in found if one.cases is not None]
    return FoundImages(
        images=[image for one in found for image in one.images],
        names=[name for one in found for name in one.names],
        table=table,
        cases=np.concatenate(cases) if cases else None,
    )


def _find(
    path: Path,
    image_column: str | None,
    image_root: Path | None,
    case_column: str | None,
    case: str | None,
) -> FoundImages:
    if path == STANDARD_INPUT:
        return _images_of_list(image_root, case_column, case)
    if not path.is_dir() and not split_frame(path)[0].exists():
        raise DataError(f"{path}: no such file or folder")
    if not path.is_dir() and path.suffix.lower() in TABLE_SUFFIXES:
        return _images_of_table(path, image_column, image_root, case_column, case)
    if case_column is not None:
        raise SettingsError(f"{path} is no table, and has no column of cases; use case=folder")
    inside = [path]
    if path.is_dir():
        inside, left = images_below(path, path)
        if not inside:
            raise DataError(f"{path}: no image in this folder{f' (but {left})' * bool(left)}")
        report_images(path, inside, left)
    names = [str(image) for image in inside]
    ids = [str(image) for image in inside]
    if case and path.is_dir():
        within = folder_ids([image.relative_to(path).as_posix() for image in inside])
        ids = [str(path / one) for one in within]
    return FoundImages(
        inside, names, pd.DataFrame(index=range(len(inside))), np.array(ids) if case else None
    )


def _matches(path: Path) -> list[Path]:
    """What a pattern matches, sorted by name; the path itself if it is none."""
    if not is_pattern(path):
        return [path]
    start = Path(path.anchor)
    found = sorted(start.glob(str(path.relative_to(start))))
    if not found:
        raise DataError(f"{path}: no file matches this pattern")
    return found


def _images_of_list(
    image_root: Path | None, case_column: str | None, case: str | None
) -> FoundImages:
    """The images whose paths standard input holds. Whether they exist is seen when they are read.

    Raises:
        DataError: if it holds none.
    """
    text = os.fsdecode(sys.stdin.buffer.read())
    names = [line for line in text.split("\0" if "\0" in text else "\n") if line.strip()]
    names = [name.removesuffix("\r") for name in names]
    if not names:
        raise DataError("-: no paths on standard input; write one a line")
    if case_column is not None:
        raise SettingsError("a list on standard input has no column of cases; use case=folder")
    root = image_root or Path()
    return FoundImages(
        [root / name for name in names],
        names,
        pd.DataFrame(index=range(len(names))),
        np.array(folder_ids(names)) if case else None,
    )


def _images_of_table(
    path: Path,
    image_column: str | None,
    image_root: Path | None,
    case_column: str | None,
    case: str | None,
) -> FoundImages:
    table = read_table(path)
    column = find_image_column(table, image_column)
    names = read_image_names(table, column, find_frame_column(table, {image_column}))
    images = list(locate_images(path, names, image_root))
    warn_of_companions(path, images)
    others = {name: list(table.texts(name).values()) for name in table.columns if name != column}
    cases = None
    if case_column is not None:
        cases = read_ids(table, require_column(table, case_column))
    elif case:
        cases = np.array(folder_ids(list(names.values())))
    return FoundImages(
        images, list(names.values()), pd.DataFrame(others, index=range(len(images))), cases
    )
