"""The image files that the cells of a table name."""

from __future__ import annotations

import os
import re
from pathlib import Path

from medept.data.dicom.files import DICOM_SUFFIXES, split_frame
from medept.data.formats import IMAGE_SUFFIXES
from medept.data.labels import normalise_label
from medept.data.table import Table
from medept.errors import DataError


def read_image_names(table: Table, column: str, frame_column: str | None) -> dict[int, str]:
    """What each row calls its image, by row number; ``scan.dcm#3`` if a column gives frame 3.

    Raises:
        DataError: if a cell is empty, or a frame is not a number from 1.
    """
    names = table.filled(column)
    if frame_column is None:
        return names
    frames = {row: normalise_label(frame) for row, frame in table.filled(frame_column).items()}
    for row, frame in frames.items():
        if not re.fullmatch(r"[1-9][0-9]{0,8}", frame):
            raise DataError(f"{table.path}, row {row}: frame {frame!r}; frames are counted from 1")
    return {row: f"{name}#{frames[row]}" for row, name in names.items()}


def locate_images(
    table: Path, names: dict[int, str], image_root: str | Path | None = None
) -> tuple[Path, ...]:
    """The image file of each row.

    A name without a suffix finds the only image of that name. A name that leads out of the folder
    of images, such as ``../images/1.png``, is tried from where the table is.

    Args:
        table: the path of the table.
        names: what each row calls its image, by row number.
        image_root: the folder that names are relative to, and all images are in; default: the
            folder of the table.

    Raises:
        DataError: if an image is missing, outside of the folder, or in two rows.
    """
    folder = table.parent if image_root is None else Path(image_root)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; check image_root=")
    root = folder.resolve()
    images: list[Path] = []
    rows: dict[Path, int] = {}
    missing = []
    for row, name in names.items():
        image, place, exists = _locate(table, row, name, root)
        if place in rows:
            raise DataError(
                f"{table}, rows {rows[place]} and {row}: the same image {name}; keep one row "
                "per image (join several labels with |)"
            )
        rows[place] = row
        images.append(image)
        if not exists:
            missing.append(f"{name} (row {row})")
    if missing:
        raise DataError(
            f"{table}: {len(missing)} of {len(names)} images are missing: {', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}; paths are relative to {root}, or to the "
            "folder given with image_root="
        )
    return tuple(images)


def _locate(table: Path, row: int, name: str, root: Path) -> tuple[Path, Path, bool]:
    """The path of an image, the same with links resolved, and whether there is such a file.

    Raises:
        DataError: if the name cannot be a path, or leads out of ``root``.
    """
    try:
        image = _with_suffix(root / name)
        if not image.resolve().is_relative_to(root):
            image = _with_suffix(table.parent / name)
        place = image.resolve()
        exists = split_frame(place)[0].is_file()
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(
            f"{table}, row {row}: {name[:60]!r} is not a usable file name; write the image's path "
            f"relative to {root}"
        ) from error
    if not place.is_relative_to(root):
        raise DataError(
            f"{table}, row {row}: {name} leads out of {root}; give a folder that holds all "
            f"images with image_root={_common_folder(root, place)}"
        )
    return image, place, exists


def _common_folder(root: Path, image: Path) -> str:
    """``, such as FOLDER`` that holds both; empty where there is none."""
    try:
        return f", such as {Path(os.path.commonpath([root, image.parent]))}"
    except ValueError:  # on two drives
        return ""


def _with_suffix(path: Path) -> Path:
    """The path itself if it is a file, or else the only image of that name with a suffix added."""
    if split_frame(path)[0].is_file():
        return path
    path = Path(str(path).replace("\\", "/"))  # a table may have been written on Windows
    if split_frame(path)[0].is_file():
        return path
    added = (path.with_name(path.name + suffix) for suffix in IMAGE_SUFFIXES | DICOM_SUFFIXES)
    found = [file for file in added if file.is_file()]
    return found[0] if len(found) == 1 else path
