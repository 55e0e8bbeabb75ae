"""Which DICOM files belong to the same patient, without their names or ids."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medept.data.dicom.files import is_dicom, read_identity, split_frame
from medept.data.spelling import clean, find_alike
from medept.errors import DataError, InputError

logger = logging.getLogger(__name__)

_ID_ATTRIBUTES = {
    "PatientID": "patient",
    "StudyInstanceUID": "study",
    "SeriesInstanceUID": "series",
}
"""Ids in the order in which they are tried, and what each stands for."""

_PLACEHOLDERS = ("", "anon", "anonymous", "anonymized", "anonymised", "unknown", "none", "0")
"""Patient ids that de-identification leaves behind, which tell no patients apart."""


def dicom_groups(paths: Sequence[Path]) -> np.ndarray | None:
    """(n,) the patient that each file belongs to, as ``patient-`` and a digest of the id.

    Without a patient id it is ``study-`` or ``series-`` and a digest. The digest is the first 16
    hexadecimal digits of the SHA-256 of the id, without a salt: a patient has the same group in
    every table, and the id itself is written nowhere. Whoever can list all ids of a hospital can
    still find out which is whose. A file without any id, or of another format, is a group of its
    own.

    Returns:
        None if no file is DICOM.

    Raises:
        DataError: if a DICOM file cannot be read; the message names it.
        ResourceError: if pydicom is missing.

    Warns:
        UserWarning: if patient ids differ only in case, leading zeros, spaces or dashes.
    """
    owners = [_owner(_first_file(split_frame(path)[0])) for path in paths]
    if all(owner is None for owner in owners):
        return None
    if alike := _find_alike(owners):
        files = [paths[[o.group if o else "" for o in owners].index(g)] for g in alike[0]]
        warnings.warn(
            f"{' and '.join(str(file) for file in files)}: their patient ids differ only in case, "
            "leading zeros, spaces or dashes, and are taken as different patients (so are "
            f"{len(alike)} sets of ids in all); if they are one, give a table with a column of "
            "patients, or its images may be both learnt from and tested on",
            stacklevel=3,
        )
    groups = np.array(
        [
            owner.group if owner and owner.group else f"file-{_digest(str(path))}"
            for owner, path in zip(owners, paths, strict=True)
        ]
    )
    if len(set(paths)) > 1 and len(set(groups.tolist())) == 1:
        kind = groups[0].split("-")[0]
        logger.warning(
            "all %d DICOM images have one %s id, and so are one group: nothing of it can be held "
            "out. If they are of several patients (ids may have been replaced), give a table with "
            "a column `patient`",
            len(paths), kind,
        )  # fmt: skip
    return groups


def _first_file(path: Path) -> Path:
    """The first DICOM file of a folder that holds a series; any other path as it is."""
    return next(filter(is_dicom, sorted(path.iterdir())), path) if path.is_dir() else path


def find_alike_patients(paths: Sequence[Path]) -> list[tuple[str, ...]]:
    """Sets of groups whose patient ids differ only in case, leading zeros, spaces or dashes.

    Files that are not DICOM, or cannot be read, are left out. Groups are those of
    :func:`dicom_groups`.
    """
    owners = []
    for path in paths:
        with suppress(InputError):
            owners.append(_owner(_first_file(split_frame(path)[0])))
    return _find_alike(owners)


@dataclass(frozen=True)
class _Owner:
    """Whose file it is.

    Attributes:
        group: ``""`` if the file holds no id.
        patient: the patient's id, ``""`` if the file holds none.
    """

    group: str
    patient: str = ""


def _find_alike(owners: Sequence[_Owner | None]) -> list[tuple[str, ...]]:
    groups = {owner.patient: owner.group for owner in owners if owner and owner.patient}
    return [tuple(groups[patient] for patient in alike) for alike in find_alike(groups)]


def _owner(path: Path) -> _Owner | None:
    """Whose file it is; None for a file of another format."""
    if not is_dicom(path):
        return None
    try:
        data = read_identity(path)
    except OSError as error:
        raise DataError(f"{path}: permission denied; check its permissions") from error
    except InputError as error:
        raise type(error)(f"{path}: {error}") from error
    for attribute, kind in _ID_ATTRIBUTES.items():
        value = clean(data[attribute])
        if value.lower() not in _PLACEHOLDERS:
            return _Owner(f"{kind}-{_digest(value)}", value if kind == "patient" else "")
    return _Owner("")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
