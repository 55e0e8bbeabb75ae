"""The images in a folder and its subfolders, and what else is in there."""

from __future__ import annotations

import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from medept.data.companions import (
    COMPANION_KINDS,
    SYSTEM_FILES,
    companions,
    is_system_folder,
    looks_like_companion,
)
from medept.data.dicom.files import is_dicom, other_object
from medept.data.formats import long_suffix, why_no_image
from medept.errors import DataError

logger = logging.getLogger(__name__)


@dataclass
class LeftOut:
    """How many files were left out, by what they are.

    >>> left = LeftOut()
    >>> left.add("mask", "..._mask.png")
    >>> left.add("mask", "..._mask_1.png")
    >>> left.add(".nrrd", "save the volume as NIfTI", picture=True)
    >>> str(left)
    '2 masks (..._mask.png), 1 .nrrd (save the volume as NIfTI)'

    Attributes:
        counts: by what the files are: a suffix, or a noun in the singular.
        notes: the reason, or an example, by what the files are; without one there is nothing to
            say.
        pictures: whether any of them may be a picture that the user wanted.
    """

    counts: Counter[str] = field(default_factory=Counter)
    notes: dict[str, str] = field(default_factory=dict)
    pictures: bool = False

    def add(self, what: str, note: str = "", count: int = 1, picture: bool = False) -> None:
        """Count files of one kind."""
        self.counts[what] += count
        self.notes.setdefault(what, note)
        self.pictures |= picture

    def update(self, other: LeftOut) -> None:
        """Count all files of another folder."""
        for what, count in other.counts.items():
            self.add(what, other.notes[what], count, other.pictures)

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __str__(self) -> str:
        """In words, the most frequent first."""
        return ", ".join(
            f"{count:,} {_plural(what, count)}" + f" ({self.notes[what]})" * bool(self.notes[what])
            for what, count in self.counts.most_common()
        )


def images_below(root: Path, folder: Path) -> tuple[list[Path], LeftOut]:
    """The images in ``folder`` and its subfolders, sorted by path, and what was left out.

    Left out are hidden files, those that systems make, those that are no images, and those that
    belong to an image (:mod:`medept.data.companions`). Links to folders are not followed.

    Raises:
        DataError: if an image is a broken link, a link that leads out of ``root``, or has a name
            that is not text.
    """
    left = LeftOut()
    images, unread = [], []
    for file in _files_below(folder, left):
        reason = why_no_image(file)
        if reason is None and is_dicom(file) and (kind := other_object(file)):
            left.add(f"DICOM {kind}", "no picture", picture=True)
        elif reason is None:
            images.append(file)
        else:
            left.add(long_suffix(file) or "file without a suffix", reason, picture=bool(reason))
            unread += [file] * bool(reason)
    belonging = companions(images, folder, unread)
    for kind, pattern in belonging.values():
        left.add(kind, pattern, picture=True)
    images = sorted(image for image in images if image not in belonging)
    resolved = root.resolve()
    for image in images:
        _require_file_inside(image, root, resolved)
    return images, left


def report_images(place: Path, images: Iterable[Path], left: LeftOut) -> None:
    """Say how many images were found in a folder, and what was left out, if anything was."""
    images = list(images)
    if left:
        belonging = not COMPANION_KINDS.isdisjoint(left.counts)
        remedy = "; a table that names files uses them all the same" if belonging else ""
        level = logging.WARNING if left.pictures else logging.INFO
        logger.log(level, "%s: %d images; left out: %s%s", place, len(images), left, remedy)
    warn_of_companions(place, images)


def warn_of_companions(place: Path, images: Iterable[Path]) -> None:
    """Warn of images that are used although they are named like masks and such."""
    alike = [image.name for image in images if looks_like_companion(image)]
    if alike:
        logger.warning(
            "%s: %d of its images are named like masks or other companions of a picture (%s), and "
            "are used as images; take them out if they are none",
            place, len(alike), alike[0],
        )  # fmt: skip


def _files_below(folder: Path, left: LeftOut) -> Iterable[Path]:
    for place, inside, names in os.walk(folder):
        for name in sorted(inside):
            sub = Path(place, name)
            if is_system_folder(name):
                inside.remove(name)
                if count := sum(len(files) for _, _, files in os.walk(sub)):
                    left.add(f"file in {name}", "", count)
            elif sub.is_symlink():
                left.add("link to a folder", f"{name} is not followed", picture=True)
        for name in names:
            if name.casefold() in SYSTEM_FILES or name in (".DS_Store", "DICOMDIR"):
                left.add(name)
            elif name.startswith("."):
                left.add("hidden file", name)
            else:
                yield Path(place, name)


def _require_file_inside(image: Path, root: Path, resolved: Path) -> None:
    if not image.is_file():
        raise DataError(f"{image}: a broken link or a device; remove it or put the image here")
    if not image.resolve().is_relative_to(resolved):
        raise DataError(f"{image}: a link that leads out of {root}; copy the image instead")
    if any(unicodedata.category(c) == "Cs" for c in image.name):  # a lone surrogate
        raise DataError(f"{str(image)!r}: its name is not UTF-8 text; rename it")


def _plural(what: str, count: int) -> str:
    if count == 1 or "." in what.split()[0] or what == "DICOMDIR":
        return what
    if what.startswith(("file ", "link ")):
        return what.replace(" ", "s ", 1)
    return f"{what}s"
