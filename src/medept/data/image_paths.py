"""The image files that the cells of a table name."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path, PurePath

from medept.data.dicom.files import DICOM_SUFFIXES, split_frame
from medept.data.formats import IMAGE_SUFFIXES
from medept.data.labels import normalise_label
from medept.data.spelling import clean
from medept.data.table import Table
from medept.data.volumes import is_volume
from medept.errors import DataError

Listings = dict[Path, dict[str, list[str]]]
"""What folders hold: by name in NFC, the names as they are on the disk."""


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
    listings: Listings = {}
    rows: dict[Path, int] = {}
    missing = []
    for row, name in names.items():
        image, place, exists = _locate(table, row, name, root, listings)
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


def _locate(
    table: Path, row: int, name: str, root: Path, listings: Listings
) -> tuple[Path, Path, bool]:
    """The path of an image, the same with links resolved, and whether there is such a file.

    Raises:
        DataError: if the name cannot be a path, leads out of ``root``, or is that of two files.
    """
    try:
        image = _with_suffix(_as_on_disk(root, name, listings))
        if not image.resolve().is_relative_to(root):
            image = _with_suffix(_as_on_disk(table.parent, name, listings))
        place = image.resolve()
        exists = split_frame(place)[0].is_file() or is_volume(place)
    except DataError as error:
        raise DataError(f"{table}, row {row}: {error}") from error
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


def _as_on_disk(folder: Path, name: str, listings: Listings) -> Path:
    """The path in the Unicode form in which the disk holds it, which may be another than NFC.

    Raises:
        DataError: if two files or folders have the same name in different forms.
    """
    if name.isascii():
        return folder / name
    path = folder
    for part in PurePath(name.replace("\\", "/")).parts:
        found = [] if part.isascii() else _children(path, part, listings)
        if len(found) > 1:
            raise DataError(
                f"{path / part}: there are {len(found)} of this name, in different Unicode forms; "
                "rename or remove one"
            )
        path = path / (found[0] if found else part)
    return path


def _children(folder: Path, name: str, listings: Listings) -> list[str]:
    """What is called ``name`` in a folder, or has it before a suffix; a frame's number is kept."""
    if folder not in listings:
        listings[folder] = defaultdict(list)
        for child in folder.iterdir() if folder.is_dir() else ():
            listings[folder][clean(child.name)].append(child.name)
    listing = listings[folder]
    frame = re.search("#[0-9]{1,9}$", name)
    number = frame[0] if frame else ""
    for wanted, rest in ((name, ""), (name.removesuffix(number), number)):
        if found := listing.get(clean(wanted)):
            return [child + rest for child in found]
    added = [listing.get(clean(name) + end) for end in IMAGE_SUFFIXES | DICOM_SUFFIXES]
    found_with_suffix = [children for children in added if children]
    return found_with_suffix[0] if len(found_with_suffix) == 1 else []


def _with_suffix(path: Path) -> Path:
    """The path itself if it is a file, or else the only image of that name with a suffix added."""
    if split_frame(path)[0].is_file() or path.is_dir():
        return path
    path = Path(str(path).replace("\\", "/"))  # a table may have been written on Windows
    if split_frame(path)[0].is_file():
        return path
    added = (path.with_name(path.name + suffix) for suffix in IMAGE_SUFFIXES | DICOM_SUFFIXES)
    found = [file for file in added if file.is_file()]
    return found[0] if len(found) == 1 else path
