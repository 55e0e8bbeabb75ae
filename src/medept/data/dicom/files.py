"""DICOM files: recognised by their content, and opened for only the attributes that are needed."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from PIL import Image

from medept.errors import DataError, InputError, ResourceError

DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})

MAX_INFLATED = 2**30
"""Most bytes that a deflated data set may have. All others are bounded by their pixels."""

_PIXEL_BYTES, _HEADER_BYTES = 8, 2**20
"""What a deflated data set may have for each pixel that is allowed (:data:`PIL.Image`'s
``MAX_IMAGE_PIXELS``), and besides."""

_FIRST_ELEMENTS = tuple(
    group.to_bytes(2, "little") + element.to_bytes(2, "little")
    for group, element in ((2, 0), (2, 1), (8, 0), (8, 1), (8, 5), (8, 8), (8, 0x16), (8, 0x18))
)
"""The first bytes of a file without a preamble: of its meta information, or of its data set."""

_PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
"""Float, double float and other pixels, which are left as they were read."""

IDS = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID")
"""The attributes that say whose an object is."""

_STORAGE = "1.2.840.10008.5.1.4.1.1."

_OTHER_OBJECTS = {
    "4.2": "spectrum", "9.": "waveform", "11.": "presentation state", "66": "raw data object",
    "66.": "registration", "66.4": "segmentation", "66.5": "segmentation", "66.7": "segmentation",
    "67": "table of real-world values", "78.": "measurement", "79.": "measurement",
    "80.": "measurement", "88.": "structured report", "88.59": "key object selection",
    "104.": "document", "200.": "procedure record", "481.": "radiotherapy object", "481.1": "",
}  # fmt: skip
"""What is no picture, by the end of its SOP class (DICOM PS3.4 B.5); a dot at the end of a key: and
all classes below it. An RT Image (481.1) is a picture."""

_DEFLATED = b"1.2.840.10008.1.2.1.99"


def is_dicom(path: Path) -> bool:
    """Whether a file is taken for a DICOM image, by its suffix or its first bytes.

    A ``DICOMDIR`` has the same first bytes, but is the index of a medium and holds no image.
    """
    if path.name.upper() == "DICOMDIR":
        return False
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return begins_as_dicom(file)
    except OSError:
        return False


def begins_as_dicom(file: BinaryIO) -> bool:
    """Whether ``DICM`` follows a preamble, or the file (an old one) begins with a DICOM element."""
    head = file.read(132)
    file.seek(0)
    return head[128:] == b"DICM" or head[:4] in _FIRST_ELEMENTS


def object_kind(data: Any) -> str:
    """What an object is that is no picture, such as ``structured report``; empty for pictures.

    Args:
        data: a pydicom data set with its SOPClassUID.
    """
    uid = str(data.get("SOPClassUID") or data.file_meta.get("MediaStorageSOPClassUID") or "")
    end = uid.removeprefix(_STORAGE) if uid.startswith(_STORAGE) else ""
    parts = end.split(".")
    keys = [end, *(".".join(parts[:n]) + "." for n in range(len(parts) - 1, 0, -1))]
    return next((_OTHER_OBJECTS[key] for key in keys if key in _OTHER_OBJECTS), "")


def other_object(path: Path) -> str:
    """:func:`object_kind` of a file; empty also where that cannot be told."""
    try:
        return read_identity(path)["kind"]
    except (OSError, InputError):
        return ""


def read_identity(path: Path) -> dict[str, str]:
    """What a file is (``kind``, by :func:`object_kind`) and its ids; each file is read once.

    Raises:
        OSError: if it cannot be opened.
        InputError: as :func:`read_attributes`.
    """
    seen = path.stat()
    return _read_identity(path, seen.st_mtime_ns, seen.st_size)


@lru_cache(maxsize=2**17)
def _read_identity(path: Path, changed: int, size: int) -> dict[str, str]:
    with path.open("rb") as file:
        data = read_attributes(file, ("SOPClassUID", *IDS))
    return {"kind": object_kind(data)} | {name: str(data.get(name) or "") for name in IDS}


def split_frame(path: Path) -> tuple[Path, int | None]:
    """The file and the frame, counted from 1, that a path such as ``scan.dcm#3`` names.

    A file whose own name ends like this is taken as it is.

    >>> file, frame = split_frame(Path("scan.dcm#3"))
    >>> file.name, frame
    ('scan.dcm', 3)
    """
    found = re.fullmatch(r"(.+)#([0-9]{1,9})", path.name)
    if found is None or path.exists():
        return path, None
    return path.with_name(found[1]), int(found[2])


@contextmanager
def damage_told() -> Iterator[None]:
    """Make what a parser raises for damaged bytes a DataError.

    It does not hold the parser's words: they quote the bytes, which may be a patient's name.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # a parser may raise anything
        raise DataError(f"damaged ({type(error).__name__}); remove or replace it") from error


@damage_told()
def read_attributes(file: BinaryIO, attributes: Sequence[str]) -> Any:
    """A pydicom data set with the given attributes, and no others; without those that are empty.

    Args:
        file: opened, at its beginning.

    Raises:
        ResourceError: if pydicom is missing.
        DataError: if it is not a DICOM file, or is damaged; without the file's name.
    """
    pydicom = import_pydicom()
    if not begins_as_dicom(file):
        raise DataError("not a DICOM file, whatever its suffix; remove or replace it")
    _check_inflated_size(file)
    data = pydicom.dcmread(
        file,
        specific_tags=list(attributes),
        stop_before_pixels="PixelData" not in attributes,
        force=True,  # the preamble may be missing
    )
    _remove_empty(data)
    for name in ("MediaStorageSOPClassUID", "TransferSyntaxUID"):
        data.file_meta.get(name)  # is converted here, or cannot be
    if "TransferSyntaxUID" not in data.file_meta:
        data.file_meta.TransferSyntaxUID = _guess_syntax(*data.original_encoding)
    return data


def import_pydicom() -> ModuleType:
    """The package pydicom, with the modules that are used here.

    Raises:
        ResourceError: if it is not installed.
    """
    try:
        import pydicom
        import pydicom.encaps
        import pydicom.pixels
        import pydicom.uid
    except ImportError as error:
        raise ResourceError("DICOM needs pydicom: pip install 'medept[dicom]'") from error
    return pydicom


def _remove_empty(data: Any) -> None:
    """Remove the elements without a value, in items of sequences too: they count as absent."""
    for tag in list(data.keys()):
        if tag in _PIXEL_TAGS:
            continue
        element = data[tag]
        if element.VR == "SQ":
            for item in element.value:
                _remove_empty(item)
        value = element.value
        if element.is_empty or (isinstance(value, str) and not value.strip()):
            del data[tag]


def _guess_syntax(implicit: bool, little: bool) -> str:
    """The transfer syntax of a file that names none, from how its first elements were encoded."""
    uid = import_pydicom().uid
    if implicit:
        return uid.ImplicitVRLittleEndian
    return uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian


def _check_inflated_size(file: BinaryIO) -> None:
    """Refuse a deflated data set that pydicom would inflate to more than is allowed."""
    most, pixels = MAX_INFLATED, Image.MAX_IMAGE_PIXELS
    if pixels:
        most = min(most, _PIXEL_BYTES * pixels + _HEADER_BYTES)
    head = file.read(4096)
    if _DEFLATED in head:
        file.seek(144 + int.from_bytes(head[140:144], "little"))  # after the meta information
        inflater, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while size <= most and (block := inflater.unconsumed_tail or file.read(2**16)):
            size += len(inflater.decompress(block, 2**20))
        if size > most:
            raise DataError(f"inflates to more than {most:,} bytes; remove it")
    file.seek(0)
