"""One frame of a DICOM file as a radiologist's display shows it, and whose it is.

Stored values pass the modality LUT (rescale), the VOI window and MONOCHROME1's inversion, in the
order of DICOM PS3.3 C.11; a file without a window gets one from its own percentiles. Only the
attributes that this needs are read: a patient's name never enters the program.
"""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from medept.errors import DataError, InputError, ResourceError

DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})
FIRST_ELEMENTS = tuple(
    group.to_bytes(2, "little") + element.to_bytes(2, "little")
    for group, element in ((2, 0), (2, 1), (8, 0), (8, 1), (8, 5), (8, 8), (8, 0x16), (8, 0x18))
)
"""What a file without a preamble begins with: its meta information, or its data set."""

DEFLATED = b"1.2.840.10008.1.2.1.99"
MOST_INFLATED = 2**30
"""Bytes of a deflated data set; Pillow's bound on pixels is the one for all others."""

JP2, J2K = b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51"
"""How a JPEG 2000 file begins, and a codestream of it."""
SIZED = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xDE, 0xF7}
"""The markers of JPEG and JPEG-LS that give the size of the picture."""

PLUGINS = ("pydicom", "pyjpegls", "pylibjpeg", "pillow", "gdcm")
"""Of pydicom's, the first that is there decodes. Its own decoder of run lengths goes first, because
pylibjpeg-rle panics on damaged frames; GDCM goes last, for what no other decodes."""

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
    """Whether a file is taken for DICOM: by its suffix, or by how it begins.

    A ``DICOMDIR`` begins so too, but is the index of a medium and holds no image.
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
    """Whether the mark stands after the preamble, or (in old files) an element without either."""
    head = file.read(132)
    file.seek(0)
    return head[128:] == b"DICM" or head[:4] in FIRST_ELEMENTS


def split_frame(path: Path) -> tuple[Path, int | None]:
    """``scan.dcm#3`` is frame 3 of ``scan.dcm``, counted from 1; a file of that name goes first."""
    found = re.fullmatch(r"(.+)#([0-9]{1,9})", path.name)
    if found is None or path.exists():
        return path, None
    return path.with_name(found[1]), int(found[2])


def read_frame(file: BinaryIO, frame: int | None = None) -> np.ndarray:
    """A frame as uint8, (H, W) or (H, W, 3).

    Args:
        file: opened, at its beginning.
        frame: counted from 1; default: the middle one (a volume's ends are often air, and a cine
            loop begins before the contrast arrives).

    Raises:
        InputError: if pydicom or a decoder is missing, there are no pixels or not that many
            frames, or the image is beyond Pillow's bound; without the file's name.
    """
    data = _read(file, PIXELS + DISPLAY)
    if not any(name in data for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise DataError("a DICOM file without an image in it; remove it from the data")
    _check_size(int(data.get("Columns") or 0), int(data.get("Rows") or 0))
    count = int(data.get("NumberOfFrames") or 1)
    if frame is not None and not 1 <= frame <= count:
        raise DataError(f"has no frame {frame}; give one from 1 to {count}")
    index = (count - 1) // 2 if frame is None else frame - 1
    plugin = _plugin(data.file_meta.TransferSyntaxUID)
    if plugin:
        _check_compressed_size(data, index, count)
    stored = _decode(data, index, plugin)
    if data.get("SamplesPerPixel", 1) == 3 or data.PhotometricInterpretation == "PALETTE COLOR":
        return _colour(data, stored)
    return _grey(data, stored, index)


def groups_of(paths: Sequence[Path]) -> np.ndarray | None:
    """(n,) whose each file is: ``patient-`` (else ``study-``, ``series-``) and a digest of the id.

    The digest is the first 16 hexadecimal digits of the id's SHA-256, without a salt: the same
    patient has the same group in every table, and the id itself is written nowhere. Who can list
    all ids of a hospital can still find out which is whose. A file without any id, or of another
    kind, is a group of its own. None where no file is DICOM.

    Raises:
        InputError: if a DICOM file cannot be read, with its name.
    """
    owners = [_owner(split_frame(path)[0]) for path in paths]
    if all(owner is None for owner in owners):
        return None
    return np.array(
        [owner or f"file-{_digest(str(path))}" for owner, path in zip(owners, paths, strict=True)]
    )


def _owner(path: Path) -> str | None:
    """Whose a DICOM file is, ``""`` where it does not say; None for a file of another kind."""
    if not is_dicom(path):
        return None
    try:
        with path.open("rb") as file:
            data = _read(file, tuple(OWNERS))
    except OSError as error:
        raise DataError(f"{path}: may not be read; check its permissions") from error
    except InputError as error:
        raise DataError(f"{path}: {error}") from error
    for attribute, kind in OWNERS.items():
        value = str(data.get(attribute) or "").strip()
        if value.lower() not in PLACEHOLDERS:
            return f"{kind}-{_digest(value)}"
    return ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read(file: BinaryIO, attributes: Sequence[str]) -> Any:
    pydicom = _pydicom()
    if not begins_as_dicom(file):
        raise DataError("not a DICOM file, whatever its suffix; remove or replace it")
    try:
        _check_inflated_size(file)
        data = pydicom.dcmread(
            file,
            specific_tags=list(attributes),
            stop_before_pixels="PixelData" not in attributes,
            force=True,  # a preamble may be missing
        )
    except InputError:
        raise
    except Exception as error:  # a parser given damaged bytes raises whatever it likes
        raise DataError(f"damaged ({type(error).__name__}); remove or replace it") from error
    if "TransferSyntaxUID" not in data.file_meta:
        data.file_meta.TransferSyntaxUID = _syntax(*data.original_encoding)
    return data


def _syntax(implicit: bool, little: bool) -> str:
    """The transfer syntax of a file that names none: what its first elements look like."""
    uid = _pydicom().uid
    if implicit:
        return uid.ImplicitVRLittleEndian
    return uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian


def _pydicom() -> ModuleType:
    try:
        import pydicom
        import pydicom.encaps
        import pydicom.pixels
        import pydicom.uid
    except ImportError as error:
        raise ResourceError("DICOM needs pydicom: pip install 'medept[dicom]'") from error
    return pydicom


def _check_size(width: int, height: int) -> None:
    if width * height == 0:
        raise DataError("no pixels; remove or replace it")
    if Image.MAX_IMAGE_PIXELS and width * height > Image.MAX_IMAGE_PIXELS:
        raise DataError(f"more than {Image.MAX_IMAGE_PIXELS:,} pixels; shrink it")


def _check_compressed_size(data: Any, index: int, count: int) -> None:
    """Refuse a compressed frame of more pixels than are allowed: decoders believe the frame.

    Run lengths (RLE) are decoded to what the file says, and cannot grow to more than 64 times it.
    """
    if data.file_meta.TransferSyntaxUID == _pydicom().uid.RLELossless:
        return
    frame = _pydicom().encaps.get_frame(data.PixelData, index, number_of_frames=count)
    try:
        width, height, components = coded_size(frame)
    except (IndexError, struct.error) as error:
        raise DataError("damaged (its frame has no header); remove or replace it") from error
    _check_size(width, height)
    if components > 4:
        raise DataError(f"a frame of {components} components is no picture; remove it")


def coded_size(frame: bytes) -> tuple[int, int, int]:
    """Width, height and components as the header of a JPEG, JPEG-LS or JPEG 2000 frame has them.

    Raises:
        IndexError, struct.error: if it has no such header.
    """
    if frame.startswith(JP2):
        frame = _codestream(frame)
    if frame.startswith(J2K):
        right, lower, left, upper = struct.unpack_from(">4I", frame, 8)
        return right - left, lower - upper, *struct.unpack_from(">H", frame, 40)
    place = 2
    while frame[place] == 0xFF:
        marker = frame[place + 1]
        if marker in SIZED:
            height, width, components = struct.unpack_from(">HHB", frame, place + 5)
            return width, height, components
        place += 1 if marker == 0xFF else 2 + struct.unpack_from(">H", frame, place + 2)[0]
    raise IndexError


def _codestream(file: bytes) -> bytes:
    """The frame in a JPEG 2000 file that stands where a frame should; pydicom looks for it too."""
    place = 12  # after the signature
    while file[place + 4 : place + 8] != b"jp2c":
        length = int.from_bytes(file[place : place + 4], "big")
        if length < 8 or place + length > len(file):
            raise IndexError
        place += length
    return file[place + 8 :]


def _check_inflated_size(file: BinaryIO) -> None:
    """Refuse a deflated data set of more than :data:`MOST_INFLATED`: pydicom would inflate it."""
    head = file.read(4096)
    if DEFLATED in head:
        file.seek(144 + int.from_bytes(head[140:144], "little"))  # after the meta information
        inflater, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while size <= MOST_INFLATED and (block := inflater.unconsumed_tail or file.read(2**16)):
            size += len(inflater.decompress(block, 2**20))
        if size > MOST_INFLATED:
            raise DataError(f"inflates to more than {MOST_INFLATED:,} bytes; remove it")
    file.seek(0)


def _decode(data: Any, index: int, plugin: str) -> np.ndarray:
    """Stored values of a frame; YBR comes as RGB."""
    pydicom = _pydicom()
    try:
        return pydicom.pixels.pixel_array(data, index=index, decoding_plugin=plugin)
    except (RuntimeError, NotImplementedError) as error:
        syntax = data.file_meta.TransferSyntaxUID
        more = syntax in pydicom.uid.JPEGTransferSyntaxes and plugin != "pylibjpeg"
        raise DataError(
            f"damaged, or compressed ({syntax.name}) in a way that {plugin} cannot decode; replace "
            "it" + (", or install pylibjpeg-libjpeg, which is under the GPL-3.0" if more else "")
        ) from error


def _plugin(syntax: Any) -> str:
    """What decodes this compression; empty for none."""
    if not syntax.is_encapsulated:
        return ""
    try:
        there = _pydicom().pixels.get_decoder(syntax).available_plugins
    except NotImplementedError as error:
        raise DataError(
            f"{syntax.name} is no compression that is read here; store it in another"
        ) from error
    for plugin in PLUGINS:
        if plugin in there:
            return plugin
    raise ResourceError(
        f"no decoder of its compression ({syntax.name}) is installed: pip install 'medept[dicom]'"
    )


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
        raise DataError("holds NaN or infinite values; replace them first")
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
        raise DataError(f"its window width of {width:g} is not allowed; correct or remove it")
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
