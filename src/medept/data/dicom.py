"""One frame of a DICOM file as a radiologist's display shows it, and whose it is.

Stored values pass the modality LUT (rescale), the VOI window and MONOCHROME1's inversion, in the
order of DICOM PS3.3 C.11; a file without a window gets one from its own percentiles. Only the
attributes that this needs are read: a patient's name never enters the program.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from medept.errors import InputError

DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})
PERCENTILES = (1.0, 99.0)
"""The window of a grey image that names none, padding aside."""

PIXELS = ("Rows", "Columns", "SamplesPerPixel", "PlanarConfiguration", "NumberOfFrames",
          "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit",
          "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "PixelData",
          "FloatPixelData", "DoubleFloatPixelData", "ExtendedOffsetTable",
          "ExtendedOffsetTableLengths")  # fmt: skip
DISPLAY = ("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "WindowCenter",
           "WindowWidth", "VOILUTFunction", "VOILUTSequence", "SharedFunctionalGroupsSequence",
           "PerFrameFunctionalGroupsSequence", "RedPaletteColorLookupTableDescriptor",
           "GreenPaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableDescriptor",
           "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData",
           "BluePaletteColorLookupTableData", "SegmentedRedPaletteColorLookupTableData",
           "SegmentedGreenPaletteColorLookupTableData",
           "SegmentedBluePaletteColorLookupTableData")  # fmt: skip
OWNERS = {"PatientID": "patient", "StudyInstanceUID": "study", "SeriesInstanceUID": "series"}
PLACEHOLDERS = ("", "anon", "anonymous", "anonymized", "anonymised", "unknown", "none", "0")
"""Patient ids that de-identification leaves behind, which tell nobody apart."""


def is_dicom(path: Path) -> bool:
    """Whether a file is a DICOM image: by its suffix, or by the mark after its preamble.

    A ``DICOMDIR`` has the mark too, but is the index of a medium and holds no image.
    """
    if path.name.upper() == "DICOMDIR":
        return False
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def split_frame(path: Path) -> tuple[Path, int | None]:
    """``scan.dcm#3`` is frame 3 of ``scan.dcm``, counted from 1; a file of that name goes first."""
    found = re.fullmatch(r"(.+)#([0-9]{1,9})", path.name)
    if found is None or path.exists():
        return path, None
    return path.with_name(found[1]), int(found[2])


def read_frame(path: Path, frame: int | None = None) -> np.ndarray:
    """A frame as uint8, (H, W) or (H, W, 3).

    Args:
        frame: counted from 1; default: the middle one (a volume's ends are often air, and a cine
            loop begins before the contrast arrives).

    Raises:
        InputError: if pydicom or a decoder is missing, there are no pixels or not that many
            frames, or the image is beyond Pillow's bound; without the file's name.
    """
    data = _read(path, PIXELS + DISPLAY)
    if not any(name in data for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise InputError("a DICOM file without an image in it; remove it from the data")
    _check_size(data)
    count = int(data.get("NumberOfFrames") or 1)
    if frame is not None and not 1 <= frame <= count:
        raise InputError(f"has no frame {frame}; give one from 1 to {count}")
    index = (count - 1) // 2 if frame is None else frame - 1
    stored = _decode(data, index)
    if data.get("SamplesPerPixel", 1) == 3 or data.PhotometricInterpretation == "PALETTE COLOR":
        return _colour(data, stored)
    return _grey(data, stored, index)


def groups_of(paths: Sequence[Path]) -> np.ndarray:
    """(n,) whose each file is: ``patient-`` (else ``study-``, ``series-``) and a digest of the id.

    The digest is the first 16 hexadecimal digits of the id's SHA-256, without a salt: the same
    patient has the same group in every table, and the id itself is written nowhere. Who can list
    all ids of a hospital can still find out which is whose. A file without any id is a group of
    its own.
    """
    return np.array([_group_of(split_frame(path)[0]) for path in paths])


def _group_of(path: Path) -> str:
    if not is_dicom(path):
        return f"file-{_digest(str(path))}"
    try:
        data = _read(path, tuple(OWNERS))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    for attribute, kind in OWNERS.items():
        value = str(data.get(attribute) or "").strip()
        if value.lower() not in PLACEHOLDERS:
            return f"{kind}-{_digest(value)}"
    return f"file-{_digest(str(path))}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read(path: Path, attributes: Sequence[str]) -> Any:
    pydicom = _pydicom()
    try:
        return pydicom.dcmread(
            path,
            specific_tags=list(attributes),
            stop_before_pixels="PixelData" not in attributes,
        )
    except FileNotFoundError:
        raise
    except PermissionError:
        raise
    except pydicom.errors.InvalidDicomError as error:
        raise InputError("not a DICOM file, whatever its suffix; remove or replace it") from error
    except Exception as error:  # a parser given damaged bytes raises whatever it likes
        raise InputError(f"damaged ({type(error).__name__}); remove or replace it") from error


def _pydicom() -> ModuleType:
    try:
        import pydicom
        import pydicom.errors
        import pydicom.pixels
    except ImportError as error:
        raise InputError("DICOM needs pydicom: pip install 'medept[dicom]'") from error
    return pydicom


def _check_size(data: Any) -> None:
    from PIL import Image

    pixels = int(data.get("Rows") or 0) * int(data.get("Columns") or 0)
    if pixels == 0:
        raise InputError("no pixels; remove or replace it")
    if Image.MAX_IMAGE_PIXELS and pixels > Image.MAX_IMAGE_PIXELS:
        raise InputError(f"more than {Image.MAX_IMAGE_PIXELS:,} pixels; shrink it")


def _decode(data: Any, index: int) -> np.ndarray:
    """Stored values of a frame; YBR comes as RGB."""
    try:
        return _pydicom().pixels.pixel_array(data, index=index)
    except (RuntimeError, NotImplementedError) as error:
        syntax = data.file_meta.TransferSyntaxUID.name
        raise InputError(
            f"its compression ({syntax}) cannot be decoded; pip install 'medept[dicom]', "
            "or replace the file if it is damaged"
        ) from error


def _colour(data: Any, stored: np.ndarray) -> np.ndarray:
    if data.PhotometricInterpretation == "PALETTE COLOR":
        stored = _pydicom().pixels.apply_color_lut(stored, data)[..., :3]
        top = 2 ** (8 * stored.dtype.itemsize) - 1
    else:
        top = 2 ** int(data.BitsStored) - 1
    return np.round(np.clip(stored / top, 0, 1) * 255).astype(np.uint8)


def _grey(data: Any, stored: np.ndarray, index: int) -> np.ndarray:
    rescale = _macro(data, index, "PixelValueTransformationSequence")
    values = _pydicom().pixels.apply_modality_lut(stored, rescale).astype(np.float64)
    if not np.isfinite(values).all():
        raise InputError("holds NaN or infinite values; replace them first")
    voi = _macro(data, index, "FrameVOILUTSequence")
    if voi.get("VOILUTSequence"):
        shown = _looked_up(values, voi)
    elif voi.get("WindowCenter") is not None and voi.get("WindowWidth") is not None:
        function = str(voi.get("VOILUTFunction") or "LINEAR")
        shown = windowed(values, _first(voi.WindowCenter), _first(voi.WindowWidth), function)
    else:
        shown = _percentile_window(values, ~_padding(data, stored))
    if data.PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
    return np.round(shown * 255).astype(np.uint8)


def _macro(data: Any, index: int, name: str) -> Any:
    """Where a frame's attributes stand: its own functional group, the shared one, or the file."""
    frames = data.get("PerFrameFunctionalGroupsSequence") or []
    shared = data.get("SharedFunctionalGroupsSequence") or []
    for group in [*frames[index : index + 1], *shared[:1]]:
        if group.get(name):
            return group[name].value[0]
    return data


def windowed(values: np.ndarray, centre: float, width: float, function: str) -> np.ndarray:
    """Values from 0 to 1 by a VOI window (DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3).

    Raises:
        InputError: if the width is none that the function allows.
    """
    if not (width >= 1 if function == "LINEAR" else width > 0):
        raise InputError(f"its window width of {width:g} is not allowed; correct or remove it")
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    if width == 1:
        return (values > centre - 0.5).astype(np.float64)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def _looked_up(values: np.ndarray, voi: Any) -> np.ndarray:
    bits = int(voi.VOILUTSequence[0].LUTDescriptor[2])
    table = _pydicom().pixels.apply_voi(values.astype(np.int64), voi)
    return np.clip(table / (2**bits - 1), 0, 1)


def _padding(data: Any, stored: np.ndarray) -> np.ndarray:
    value = data.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, dtype=bool)
    limit = data.get("PixelPaddingRangeLimit", value)
    return (stored >= min(value, limit)) & (stored <= max(value, limit))


def _percentile_window(values: np.ndarray, real: np.ndarray) -> np.ndarray:
    low, high = np.percentile(values[real] if real.any() else values, PERCENTILES)
    if low == high:
        low, high = values.min(), values.max()
    return np.clip((values - low) / (high - low), 0, 1) if low < high else np.zeros(values.shape)


def _first(value: Any) -> float:
    """Of several windows the first, which is the one to show first."""
    return float(value[0] if isinstance(value, Sequence | tuple) and len(value) else value)
