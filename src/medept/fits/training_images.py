"""Leaves out the images that an adapter was fitted to, so that none of them is tested on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from os.path import normpath
from pathlib import Path

import numpy as np

from medept.data.cases import images_of, sizes_of
from medept.data.image_hashes import original_hash
from medept.data.labelled_images import LabelledImages
from medept.errors import DataError
from medept.fits import layout
from medept.fits.adapter import read_info
from medept.fits.tables import read_support

logger = logging.getLogger(__name__)


def exclude_training_images(data: LabelledImages, fits: Sequence[Path]) -> LabelledImages:
    """The images that none of the fits was trained on, nor on others of their groups.

    A training image is recognised by its name in ``support.csv`` or by the SHA-256 of its file,
    its case and its group by their ids, if both that list and ``data`` have these. If ``data`` have
    splits, only the test images are kept. How many images are left out is logged.

    Args:
        fits: folders that ``medept fit`` wrote.

    Raises:
        InputError: if no image is left, or a ``support.csv`` is damaged.

    >>> from medept import FewShotClassifier
    >>> from medept.fits.tables import write_support
    >>> from medept.phantoms import make_phantoms
    >>> data = make_phantoms("colon", patients=6, images_per_patient=2, size=48)
    >>> support = data.subset([0, 2])  # an image of each of two patients
    >>> classifier = FewShotClassifier(method="prototype", calibrate="none")
    >>> classifier.fit(support.images, support.labels).save("my-fit")
    >>> write_support(Path("my-fit"), support)
    >>> len(exclude_training_images(data, [Path("my-fit")]))  # all of the other four patients
    8
    """
    kept = np.ones(len(data), bool) if data.splits is None else np.equal(data.splits, "test")
    if not kept.any():
        raise DataError("the split column has no row of test; it needs some")
    wanted = kept.sum()
    kept &= ~_is_training(data, fits)
    if not kept.any():
        raise DataError(
            "no image is left: all, or others of their groups, were used for training; give "
            "images of other patients"
        )
    if kept.sum() < wanted:
        others = "" if data.groups is None else ", or others of their groups,"
        logger.info(
            "%d of %d images are left out: they%s were used for training",
            wanted - kept.sum(),
            wanted,
            others,
        )
    return data.subset(np.flatnonzero(kept))


def _is_training(data: LabelledImages, fits: Sequence[Path]) -> np.ndarray:
    """(n,) whether an image is in a support set, or shares a group with one that is."""
    names: set[str] = set()
    groups: set[str] = set()
    hashes: set[str] = set()
    cases: set[str] = set()
    for folder in fits:
        file = folder / layout.SUPPORT
        if not file.exists():
            logger.warning("%s is missing: its training images cannot be left out", file)
            continue
        support = read_support(folder, read_info(folder).support_images)
        names.update(support["image"].map(normpath))
        groups.update(support.get("group", ()))
        hashes.update(support.get("sha256", ()))
        cases.update(support.get("case", ()))
    hashes.discard("")  # images that are not files have no hash
    single = data.by_image()
    images = images_of(single.images)
    same_name = np.array([normpath(name) in names for name in single.names])
    found = np.array([original_hash(image) if hashes else "" for image in images])
    same_file = np.isin(found, list(hashes))
    if count := int((same_name & ~same_file & (found != "")).sum()):
        logger.warning(
            "%d images have the names of training images but other contents: they are left out as "
            "training images; if they are not, rename them and their groups",
            count,
        )
    case_of_each = np.repeat(np.arange(len(data)), sizes_of(data.images))
    training = np.isin(np.arange(len(data)), case_of_each[same_name | same_file])
    if data.has_cases:
        training |= np.isin(data.names, list(cases))
    if data.groups is None:
        if groups:
            logger.warning(
                "the adapter was fitted with groups, but these data have none: other images of "
                "its training patients may be left among them; name the column with group_column="
            )
        return training
    return np.isin(data.groups, [*groups, *data.groups[training]])
