"""Which images are new to adapters, so that none is tested on what it was fitted to."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from os.path import normpath
from pathlib import Path

import numpy as np
import pandas as pd

from medept.data.images import original_hash
from medept.data.table import LabelledImages
from medept.errors import DataError
from medept.files import read_written
from medept.fits.adapter import read_info

logger = logging.getLogger(__name__)


def unseen(data: LabelledImages, folders: Sequence[Path]) -> LabelledImages:
    """Without support images of the adapters, and others of their groups; how many is logged.

    Images are known by their names in ``support.csv``, or under other names by the SHA-256 of
    their files, and groups by theirs, where both that list and ``data`` have groups. With a
    ``split`` column, of its test rows alone.

    Args:
        folders: of the fits.

    Raises:
        InputError: if no image is left, or a ``support.csv`` is damaged.
    """
    left = np.ones(len(data), bool) if data.splits is None else np.equal(data.splits, "test")
    if not left.any():
        raise DataError("the split column has no row of test; it needs some")
    wanted = left.sum()
    left &= ~_seen(data, folders)
    if not left.any():
        raise DataError(
            "no image is left: all, or others of their groups, were used for training; give "
            "images of other patients"
        )
    if left.sum() < wanted:
        others = "" if data.groups is None else ", or others of their groups,"
        logger.info(
            "%d of %d images are left out: they%s were used for training",
            wanted - left.sum(),
            wanted,
            others,
        )
    return data.subset(np.flatnonzero(left))


def _seen(data: LabelledImages, folders: Sequence[Path]) -> np.ndarray:
    """Which images (n,) are in support sets, or share a group with one that is."""
    names: set[str] = set()
    groups: set[str] = set()
    hashes: set[str] = set()
    for folder in folders:
        support = _read(folder / "support.csv")
        names.update(support["image"])
        groups.update(support.get("group", ()))
        hashes.update(support.get("sha256", ()))
    hashes.discard("")  # of images that are no files
    named = np.array([normpath(name) in names for name in data.names])
    found = np.array([original_hash(image) if hashes else "" for image in data.images])
    same = np.isin(found, list(hashes))
    if count := int((named & ~same & (found != "")).sum()):
        logger.warning(
            "%d images have the names of images it was fitted to, but are other files: they count "
            "as the same; rename them, and their groups, if they are not",
            count,
        )
    seen = named | same
    if data.groups is None:
        if groups:
            logger.warning(
                "these data have no groups, which the fit had: images of patients it was fitted to "
                "may be left among them; name their column with --group-column"
            )
        return seen
    return np.isin(data.groups, [*groups, *data.groups[seen]])


def _read(file: Path) -> pd.DataFrame:
    """The list of a support set, its names normalised; empty where there is none."""
    if not file.exists():
        logger.warning("%s is missing: images it was fitted to cannot be left out", file)
        return pd.DataFrame(columns=["image"])
    try:
        support = read_written(file)
        count = read_info(file.parent).support_images
        if len(support) != count:
            raise ValueError(f"{len(support)} rows of the {count} images it was fitted to")
        return support.assign(image=support["image"].map(normpath))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{file}: damaged ({error}); copy it again, or fit again") from error
