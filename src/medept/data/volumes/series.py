"""A folder of DICOM files as one volume: sorted by where slices lie, and not by their names."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medept.data.dicom.files import damage_told, is_dicom, read_attributes
from medept.data.dicom.frames import read_values
from medept.data.volumes.volume import Volume
from medept.errors import DataError, InputError

logger = logging.getLogger(__name__)

_ATTRIBUTES = ("SeriesInstanceUID", "ImagePositionPatient", "ImageOrientationPatient",
               "PixelSpacing", "Rows", "Columns", "ImageType", "InstanceNumber",
               "NumberOfFrames")  # fmt: skip

SAME, GAP = 1e-2, 1.5
"""Slices nearer than this (mm) are at the same place; distances of this many times the median are
gaps."""


@dataclass(frozen=True)
class _Slice:
    """Where a file lies: its position and the directions of its rows and columns, in mm (LPS)."""

    file: Path
    series: str
    number: int
    position: np.ndarray
    along_row: np.ndarray
    along_column: np.ndarray
    spacing: tuple[float, float]
    size: tuple[int, int]

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.along_row, self.along_column)


def open_series(folder: Path) -> Volume:
    """The volume of the DICOM files in a folder, without localisers.

    Gaps between slices and slices at the same place are told; of the latter the first is taken.

    Raises:
        DataError: if they are of several series, or differ in orientation, size or spacing, or do
            not say where they lie.
        ResourceError: if pydicom or a decoder is missing.
    """
    files = sorted(file for file in folder.iterdir() if file.is_file() and is_dicom(file))
    if not files:
        raise DataError("no DICOM file in this folder")
    found = [one for file in files if (one := _read_place(file)) is not None]
    if len(found) < len(files):
        logger.info("%s: %d localisers are left out", folder, len(files) - len(found))
    if not found:
        raise DataError("holds localisers alone; give the folder of the series")
    series = Counter(one.series for one in found)
    if len(series) > 1:
        named = ", ".join(f"{count} of {uid}" for uid, count in series.most_common(3))
        raise DataError(
            f"holds files of {len(series)} series ({named}): put each into a folder of its own"
        )
    _require_alike(found)
    slices = _sorted(folder, found)
    return Volume(
        folder,
        (*slices[0].size, len(slices)),
        _affine(slices),
        lambda: _slabs([one.file for one in slices]),
    )


def lies_somewhere(file: Path) -> bool:
    """Whether it is a DICOM file that says where it lies in the patient, as slices do."""
    if not is_dicom(file):
        return False
    with suppress(InputError, OSError), file.open("rb") as opened:
        data = read_attributes(opened, _ATTRIBUTES)
        return all(data.get(name) is not None for name in _ATTRIBUTES[1:6])
    return False


def _read_place(file: Path) -> _Slice | None:
    """Where a file lies; None for a localiser."""
    try:
        with file.open("rb") as opened, damage_told():
            return _place_of(file, read_attributes(opened, _ATTRIBUTES))
    except InputError as error:
        raise type(error)(f"{file.name}: {error}") from error


def _place_of(file: Path, data: Any) -> _Slice | None:
    if "LOCALIZER" in [str(part).upper() for part in data.get("ImageType") or ()]:
        return None
    if int(data.get("NumberOfFrames") or 1) > 1:
        raise DataError(
            "has several frames, which are not read as a volume: write it as NIfTI, or list its "
            "frames in a table (FILE#1, FILE#2, ...) with a column of cases"
        )
    missing = [name for name in _ATTRIBUTES[1:6] if data.get(name) is None]
    if missing:
        raise DataError(
            f"does not say where it lies ({', '.join(missing)}); take it out, or list "
            "the files as single images"
        )
    cosines = np.array([float(x) for x in data.ImageOrientationPatient])
    rows, columns = (float(x) for x in data.PixelSpacing)
    return _Slice(
        file=file,
        series=str(data.get("SeriesInstanceUID") or ""),
        number=int(data.get("InstanceNumber") or 0),
        position=np.array([float(x) for x in data.ImagePositionPatient]),
        along_row=cosines[:3],
        along_column=cosines[3:],
        spacing=(rows, columns),
        size=(int(data.Rows), int(data.Columns)),
    )


def _require_alike(slices: list[_Slice]) -> None:
    """Refuse files that do not lie one above the other."""
    first = slices[0]
    for one in slices[1:]:
        directions = np.r_[one.along_row, one.along_column]
        if not np.allclose(directions, np.r_[first.along_row, first.along_column], atol=1e-3):
            raise DataError(
                f"{first.file.name} and {one.file.name} have different orientations; put each "
                "stack into a folder of its own"
            )
        if one.size != first.size or not np.allclose(one.spacing, first.spacing, rtol=1e-3):
            raise DataError(
                f"{first.file.name} and {one.file.name} differ in size or spacing; put each stack "
                "into a folder of its own"
            )


def _sorted(folder: Path, slices: list[_Slice]) -> list[_Slice]:
    """One slice a place, along the normal."""
    normal = slices[0].normal
    ordered = sorted(slices, key=lambda one: (float(normal @ one.position), one.number))
    places = np.array([float(normal @ one.position) for one in ordered])
    new = np.append(True, np.diff(places) > SAME)
    if not new.all():
        again = ordered[int(np.flatnonzero(~new)[0])].file.name
        logger.warning(
            "%s: %d slices are at the place of another (such as %s), and are left out",
            folder, int((~new).sum()), again,
        )  # fmt: skip
    steps = np.diff(places[new])
    if len(steps) and (wide := np.flatnonzero(steps > GAP * np.median(steps))).size:
        logger.warning(
            "%s: %d gaps between its slices (the widest %.1f mm, where %.1f mm are usual): slices "
            "may be missing",
            folder, len(wide), steps.max(), np.median(steps),
        )  # fmt: skip
    return [one for one, is_new in zip(ordered, new, strict=True) if is_new]


def _affine(slices: list[_Slice]) -> np.ndarray:
    """(4, 4) row, column and slice to millimetres to the right, to the front and upwards."""
    first, last = slices[0], slices[-1]
    step = first.normal
    if len(slices) > 1:
        step = (last.position - first.position) / (len(slices) - 1)
    affine = np.eye(4)
    affine[:3, 0] = first.along_column * first.spacing[0]
    affine[:3, 1] = first.along_row * first.spacing[1]
    affine[:3, 2], affine[:3, 3] = step, first.position
    affine[:2] *= -1  # DICOM counts to the left and to the back
    return affine


def _slabs(files: list[Path]) -> Iterator[np.ndarray]:
    for file in files:
        try:
            with file.open("rb") as opened:
                values: Any = read_values(opened)
        except InputError as error:
            raise type(error)(f"{file.name}: {error}") from error
        yield values.astype(np.float32)
