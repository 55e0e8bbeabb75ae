"""Images in folders: all of them, or labelled ones where each class has a subfolder."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medept.data.companions import image_and_mask_folders, is_system_folder
from medept.data.dicom.patients import dicom_groups
from medept.data.folder_images import LeftOut, images_below, report_images
from medept.data.labelled_images import SPLIT_NAMES, LabelledImages, Task
from medept.data.labels import class_names, natural_key
from medept.data.spelling import clean
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
    left = LeftOut()
    found = {part: _images_by_class(root, left) for part, root in roots.items()}
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
    report_images(folder, images, left)
    indices = np.array([index for _, index, _ in rows], dtype=np.int64)
    return LabelledImages(
        images=images,
        names=tuple(clean(path.relative_to(folder).as_posix()) for path in images),
        targets=np.eye(len(names), dtype=np.uint8)[indices] if task == "multilabel" else indices,
        classes=names,
        groups=dicom_groups(images),
        splits=np.array([part for _, _, part in rows]) if parts else None,
        left_out=str(left),
    )


def _split_folders(folder: Path) -> dict[str, Path]:
    """``train``, ``val`` and ``test`` in a folder, by their usual names; none if it has classes."""
    inside = sorted(p for p in folder.iterdir() if p.is_dir() and not is_system_folder(p.name))
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


def _images_by_class(folder: Path, left: LeftOut) -> dict[str, list[Path]]:
    """The images of each class, classes that are numbers in numerical order; counts the others."""
    inside = [p for p in folder.iterdir() if not is_system_folder(p.name)]
    subfolders = sorted((p for p in inside if p.is_dir()), key=lambda p: natural_key(p.name))
    tables = sorted(p for p in inside if p.suffix.lower() in (".csv", ".tsv", ".parquet"))
    if not subfolders:
        raise DataError(
            f"{folder}: no subfolders; put the images of each class into a folder named after it, "
            "or give a table"
        )
    found: dict[str, list[Path]] = {}
    for sub in subfolders:
        images, others = images_below(folder, sub)
        if not images:
            raise DataError(
                f"{sub}: no image in this folder{f' (but {others})' * bool(others)}; fill or "
                "remove it"
            )
        found.setdefault(clean(sub.name), []).extend(images)
        left.update(others)
    stems = {name: {image.stem for image in images} for name, images in found.items()}
    if pair := image_and_mask_folders(stems):
        warnings.warn(
            f"{folder}: the class {pair[1]} holds files of the same names as the class {pair[0]}: "
            "are they masks of its pictures, and no class? If so, give a folder with a subfolder "
            "per class, or a table",
            stacklevel=5,
        )
    if tables:
        warnings.warn(
            f"{folder}: its subfolders are taken as the classes {', '.join(found)}; to read "
            f"{tables[0].name} instead, give {tables[0]}",
            stacklevel=5,
        )
    return found
