"""Which images are new to adapters, so that none is tested on what it was fitted to."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from os.path import normpath
from pathlib import Path

import numpy as np
import pandas as pd

from medept.data.table import LabelledImages
from medept.errors import InputError

logger = logging.getLogger(__name__)


def unseen(data: LabelledImages, folders: Sequence[Path]) -> LabelledImages:
    """Without support images of the adapters, and others of their groups; how many is logged.

    Images are known by their names in ``support.csv``, and groups by theirs, where both that file
    and ``data`` have groups. With a ``split`` column, of its test rows alone.

    Args:
        folders: of the fits.

    Raises:
        InputError: if no image is left, or a ``support.csv`` is damaged.
    """
    left = np.ones(len(data), bool) if data.splits is None else np.equal(data.splits, "test")
    if not left.any():
        raise InputError("the split column has no row of test; it needs some")
    wanted = left.sum()
    for folder in folders:
        left &= ~_seen(data, folder / "support.csv")
    if not left.any():
        raise InputError(
            "no image is left: all, or others of their groups, were used for training; give "
            "images of other patients"
        )
    if left.sum() < wanted:
        logger.info(
            "%d of %d images are left out: they, or others of their groups, were used for training",
            wanted - left.sum(),
            wanted,
        )
    return data.subset(np.flatnonzero(left))


def _seen(data: LabelledImages, file: Path) -> np.ndarray:
    """Which images (n,) stand in the list of a support set, or share a group with one that does."""
    if not file.exists():
        logger.warning("%s is missing: images it was fitted to cannot be left out", file)
        return np.zeros(len(data), bool)
    try:
        support = pd.read_csv(file, dtype=str, keep_default_na=False)
        names = set(map(normpath, support["image"]))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{file}: damaged ({error}); copy it again, or fit again") from error
    seen = np.array([normpath(name) in names for name in data.names])
    if data.groups is None:
        return seen
    groups = {*data.groups[seen].tolist(), *support.get("group", ())}
    return np.isin(data.groups, list(groups))
