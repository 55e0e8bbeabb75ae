"""Which DICOM files belong to the same patient, without their names or ids."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medept.data.dicom.files import is_dicom, read_attributes, split_frame
from medept.errors import DataError, InputError

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
    """
    owners = [_owner(split_frame(path)[0]) for path in paths]
    if all(owner is None for owner in owners):
        return None
    return np.array(
        [owner or f"file-{_digest(str(path))}" for owner, path in zip(owners, paths, strict=True)]
    )


def _owner(path: Path) -> str | None:
    """The group of a DICOM file, ``""`` if it holds no id; None for a file of another format."""
    if not is_dicom(path):
        return None
    try:
        with path.open("rb") as file:
            data = read_attributes(file, tuple(_ID_ATTRIBUTES))
    except OSError as error:
        raise DataError(f"{path}: permission denied; check its permissions") from error
    except InputError as error:
        raise type(error)(f"{path}: {error}") from error
    for attribute, kind in _ID_ATTRIBUTES.items():
        value = str(data.get(attribute) or "").strip()
        if value.lower() not in _PLACEHOLDERS:
            return f"{kind}-{_digest(value)}"
    return ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
