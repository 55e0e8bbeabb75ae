"""Images without labels: files, folders, and tables that list them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medept.data.columns import find_frame_column, find_image_column
from medept.data.dicom.files import split_frame
from medept.data.folder_images import images_below, report_images, warn_of_companions
from medept.data.image_paths import locate_images, read_image_names
from medept.data.table import TABLE_SUFFIXES, read_table
from medept.errors import DataError


def find_images(
    paths: Sequence[Path], image_column: str | None = None, image_root: Path | None = None
) -> list[Path]:
    """The images that files, folders (with their subfolders) and tables stand for, in that order.

    Args:
        paths: an image file (``scan.dcm#3`` is frame 3), a folder, or a CSV or Parquet table.
        image_column: of tables; default: the first with a usual name (``image``, ``path``, ...).
        image_root: the folder that paths in tables are relative to; default: each table's own.

    Raises:
        DataError: if a path does not exist, a folder holds no image or a link out of it, or a
            table has no column of images or names some that are missing.

    >>> for name in ("b.png", "a.png"):
    ...     _ = Path(name).write_bytes(b"")
    >>> [image.name for image in find_images([Path(".")])]
    ['a.png', 'b.png']
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside, left = images_below(path, path)
            if not inside:
                raise DataError(f"{path}: no image in this folder{f' (but {left})' * bool(left)}")
            report_images(path, inside, left)
            found += inside
        elif not split_frame(path)[0].exists():
            raise DataError(f"{path}: no such file or folder")
        elif path.suffix.lower() in TABLE_SUFFIXES:
            found += _images_of_table(path, image_column, image_root)
        else:
            found.append(path)
    return found


def _images_of_table(
    path: Path, image_column: str | None, image_root: Path | None
) -> tuple[Path, ...]:
    table = read_table(path)
    column = find_image_column(table, image_column)
    names = read_image_names(table, column, find_frame_column(table, {image_column}))
    images = locate_images(path, names, image_root)
    warn_of_companions(path, images)
    return images
