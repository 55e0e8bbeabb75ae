"""Images in folders: all of them, or those of each class where a class is a subfolder."""

from __future__ import annotations

import unicodedata
import warnings
from pathlib import Path

from medept.data.images import is_image
from medept.data.labels import natural
from medept.errors import DataError

SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val",
          "validation": "val", "test": "test", "testing": "test"}  # fmt: skip
"""What parts of a split are called, and which they are."""


def split_folders(folder: Path) -> dict[str, Path]:
    """``train``, ``val`` and ``test`` in a folder, by their usual names; none if it has classes.

    Raises:
        InputError: if it has both, or one part twice.
    """
    inside = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    found = {SPLITS[sub.name.lower()]: sub for sub in inside if sub.name.lower() in SPLITS}
    if found and len(found) < len(inside):
        names = ", ".join(sub.name for sub in inside)
        raise DataError(
            f"{folder}: some of its subfolders ({names}) are parts of a split and some are not, or "
            "two are the same part; keep train, val and test, with a subfolder per class in each"
        )
    return found


def images_by_class(folder: Path) -> dict[str, list[Path]]:
    """The images in and below each subfolder, by its name; numbers in the order of their values.

    Raises:
        InputError: if there are no subfolders, one is empty, or for what :func:`images_below` says.

    Warns:
        UserWarning: if there is a table in the folder, which may be what was meant.
    """
    inside = [p for p in folder.iterdir() if not p.name.startswith(".")]
    subfolders = sorted((p for p in inside if p.is_dir()), key=lambda p: natural(p.name))
    tables = sorted(p for p in inside if p.suffix.lower() in (".csv", ".tsv", ".parquet"))
    if not subfolders:
        raise DataError(
            f"{folder}: no subfolders; put the images of each class into a folder named after it, "
            "or give a table"
        )
    found = {sub.name: images_below(folder, sub) for sub in subfolders}
    empty = [name for name, images in found.items() if not images]
    if empty:
        raise DataError(f"{folder / empty[0]}: no image in this folder; fill or remove it")
    if tables:
        warnings.warn(
            f"{folder}: its subfolders are taken as the classes {', '.join(found)}; to read "
            f"{tables[0].name} instead, give {tables[0]}",
            stacklevel=4,
        )
    return found


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
            raise DataError(f"{image}: a broken link or a device; remove it or put the image here")
        if not image.resolve().is_relative_to(root.resolve()):
            raise DataError(f"{image}: a link that leads out of {root}; copy the image instead")
        if any(unicodedata.category(c) == "Cs" for c in image.name):  # a lone surrogate
            raise DataError(f"{str(image)!r}: its name is not UTF-8 text; rename it")
    return images
