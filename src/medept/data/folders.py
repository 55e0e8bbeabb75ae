"""Images in folders: all of them, or labelled ones where each class has a subfolder."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medept.data.dicom.patients import dicom_groups
from medept.data.images import is_image
from medept.data.labelled_images import SPLIT_NAMES, LabelledImages, Task
from medept.data.labels import class_names, natural_key
from medept.errors import DataError


def read_folder(
    folder: Path, classes: Sequence[str] | None = None, task: Task | None = None
) -> LabelledImages:
    """Labelled images from a folder with one subfolder per class, or parts of a split with these.

    Groups are the patients of DICOM files; other files have none.

    Args:
        classes: the only classes allowed, in this order; default: those found, sorted.
        task: default: multi-class.

    Raises:
        DataError: if there are no subfolders, one is empty or of an unknown class, or an image is a
            broken link or a link out of the folder.
    """
    parts = _split_folders(folder)
    roots = parts or {"": folder}
    found = {part: _images_by_class(root) for part, root in roots.items()}
    present = sorted({name for by_class in found.values() for name in by_class}, key=natural_key)
    names = class_names(folder, present, classes)
    for part, by_class in found.items():
        for name in set(by_class).difference(names):
            raise DataError(
                f"{roots[part] / name}: unknown class {name!r}; the classes are {', '.join(names)}"
            )
    rows = [
        (path, names.index(name), part)
        for part, by_class in found.items()
        for name, paths in by_class.items()
        for path in paths
    ]
    images = tuple(path for path, _, _ in rows)
    indices = np.array([index for _, index, _ in rows], dtype=np.int64)
    return LabelledImages(
        images=images,
        names=tuple(path.relative_to(folder).as_posix() for path in images),
        targets=np.eye(len(names), dtype=np.uint8)[indices] if task == "multilabel" else indices,
        classes=names,
        groups=dicom_groups(images),
        splits=np.array([part for _, _, part in rows]) if parts else None,
    )


def _split_folders(folder: Path) -> dict[str, Path]:
    """``train``, ``val`` and ``test`` in a folder, by their usual names; none if it has classes."""
    inside = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    found = {
        SPLIT_NAMES[sub.name.lower()]: sub for sub in inside if sub.name.lower() in SPLIT_NAMES
    }
    if found and len(found) < len(inside):
        names = ", ".join(sub.name for sub in inside)
        raise DataError(
            f"{folder}: some of its subfolders ({names}) are parts of a split and some are not, or "
            "two are the same part; keep train, val and test, with a subfolder per class in each"
        )
    return found


def _images_by_class(folder: Path) -> dict[str, list[Path]]:
    """The images of each class, classes that are numbers in numerical order."""
    inside = [p for p in folder.iterdir() if not p.name.startswith(".")]
    subfolders = sorted((p for p in inside if p.is_dir()), key=lambda p: natural_key(p.name))
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
            stacklevel=5,
        )
    return found


def images_below(root: Path, folder: Path) -> list[Path]:
    """The images in ``folder`` and its subfolders, without hidden ones, sorted by path.

    Raises:
        DataError: if one is a broken link, a link that leads out of ``root``, or has a name that is
            not text.
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
