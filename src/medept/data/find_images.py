"""Images without labels: files, folders of them, and tables that list them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medept.data.dicom import split_frame
from medept.data.folders import images_below
from medept.data.spreadsheet import TABLE_SUFFIXES
from medept.data.table import read_image_column
from medept.errors import DataError


def find_images(
    paths: Sequence[Path], image_column: str | None = None, image_root: Path | None = None
) -> list[Path]:
    """The images among files, folders (searched through, in order of name) and tables.

    Args:
        image_column: of tables; default: one with a usual name (``image``, ``path``, ...).
        image_root: what the paths in tables are relative to; default: where each table is.

    Raises:
        InputError: if a path does not exist, a folder holds no image or a link out of it, or a
            table has no column of images, or names some that are missing.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = images_below(path, path)
            if not inside:
                raise DataError(f"{path}: no image in this folder")
            found += inside
        elif not split_frame(path)[0].exists():
            raise DataError(f"{path}: no such file or folder")
        elif path.suffix.lower() in TABLE_SUFFIXES:
            found += read_image_column(path, image_column, image_root)
        else:
            found.append(path)
    return found
