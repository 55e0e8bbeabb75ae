"""One frame of a DICOM file, decoded no larger than is allowed, as a display shows it."""

from __future__ import annotations

import struct
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from medept.data.dicom.display import (
    DISPLAY_ATTRIBUTES,
    display_colour,
    display_grey,
    grey_values,
)
from medept.data.dicom.files import damage_told, import_pydicom, object_kind, read_attributes
from medept.errors import DataError, ResourceError

PLUGINS = ("pydicom", "pyjpegls", "pylibjpeg", "pillow", "gdcm")
"""Decoding plug-ins of pydicom; the first that is installed decodes. Its own run-length decoder is
first, because pylibjpeg-rle panics on damaged frames; GDCM is last, for what no other decodes."""

_PIXEL_ATTRIBUTES = (
    "SOPClassUID", "Rows", "Columns", "SamplesPerPixel", "PlanarConfiguration", "NumberOfFrames",
    "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "FloatPixelPaddingValue",
    "FloatPixelPaddingRangeLimit", "DoubleFloatPixelPaddingValue",
    "DoubleFloatPixelPaddingRangeLimit", "PixelData", "FloatPixelData", "DoubleFloatPixelData",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
)  # fmt: skip

_SAMPLES = {
    "MONOCHROME1": 1, "MONOCHROME2": 1, "PALETTE COLOR": 1, "RGB": 3, "YBR_FULL": 3,
    "YBR_FULL_422": 3, "YBR_ICT": 3, "YBR_RCT": 3,
}  # fmt: skip
"""Kinds of pixels that are read, with their samples per pixel."""

_JP2, _J2K = b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51"
"""The first bytes of a JPEG 2000 file, and of a JPEG 2000 codestream."""

_SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xDE, 0xF7}
"""The markers of JPEG and JPEG-LS after which the size of the image stands."""


@damage_told()
def read_frame(file: BinaryIO, frame: int | None = None) -> np.ndarray:
    """A frame as uint8, (H, W) or (H, W, 3).

    Args:
        file: opened, at its beginning.
        frame: counted from 1; default: the middle one (the ends of a volume are often air, and a
            cine loop begins before the contrast agent arrives).

    Raises:
        ResourceError: if pydicom or a decoder is missing.
        DataError: if there are no pixels or not that many frames, or the image exceeds Pillow's
            limit on pixels. Messages do not hold the file's name.
    """
    data, stored, index = _read_stored(file, frame)
    if data.get("SamplesPerPixel", 1) == 3 or data.PhotometricInterpretation == "PALETTE COLOR":
        return display_colour(data, stored)
    return display_grey(data, stored, index)


@damage_told()
def read_values(file: BinaryIO) -> np.ndarray:
    """The values (H, W) of a grey file of one frame, such as Hounsfield units of CT, float64.

    Padding has the lowest of the other values. Errors are those of :func:`read_frame`, and a
    DataError if it is in colour.
    """
    data, stored, index = _read_stored(file, None)
    if stored.ndim != 2 or data.PhotometricInterpretation == "PALETTE COLOR":
        raise DataError("in colour: a volume has one number a voxel")
    return grey_values(data, stored, index)


def _read_stored(file: BinaryIO, frame: int | None) -> tuple[Any, np.ndarray, int]:
    """The data set, and the stored values of a frame with its index."""
    data = read_attributes(file, _PIXEL_ATTRIBUTES + DISPLAY_ATTRIBUTES)
    if not any(name in data for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        kind = object_kind(data) or "file"
        raise DataError(f"a DICOM {kind} without an image in it; remove it from the data")
    _check_size(int(data.get("Columns") or 0), int(data.get("Rows") or 0))
    count = int(data.get("NumberOfFrames") or 1)
    if frame is not None and not 1 <= frame <= count:
        raise DataError(f"has no frame {frame}; give one from 1 to {count}")
    index = (count - 1) // 2 if frame is None else frame - 1
    plugin = _choose_plugin(data.file_meta.TransferSyntaxUID)
    if plugin:
        _check_compressed_size(data, index, count)
    _check_kind(data)
    stored = _decode(data, index, plugin)
    if not plugin:
        stored = _without_unused_bits(data, stored)
    return data, stored, index


def _check_kind(data: Any) -> None:
    """Refuse kinds of pixels that would be shown wrongly.

    Raises:
        DataError: naming the kind.
    """
    kind, samples = data.get("PhotometricInterpretation"), data.get("SamplesPerPixel", 1)
    if _SAMPLES.get(kind) != samples:
        raise DataError(
            f"pixels of kind {kind or 'unknown'} with {samples} samples are not read; store them "
            "as MONOCHROME2 or RGB"
        )
    if samples == 3 and data.get("PixelRepresentation", 0) == 1:
        raise DataError("signed colours are not read; store them unsigned")


def _without_unused_bits(data: Any, stored: np.ndarray) -> np.ndarray:
    """Stored values without what old files keep above the bits in use, such as overlays."""
    bits, top = int(data.get("BitsStored", 0)), 8 * stored.dtype.itemsize
    if stored.dtype.kind not in "iu" or not 0 < bits < top or stored.ndim == 3:
        return stored
    high = int(data.get("HighBit", bits - 1))
    left = top - 1 - high
    if left < 0 or high < bits - 1:
        raise DataError(f"{bits} bits stored below bit {high} do not go together; correct it")
    return (stored << left) >> (top - bits)


def _check_size(width: int, height: int) -> None:
    if width * height == 0:
        raise DataError("no pixels; remove or replace it")
    if Image.MAX_IMAGE_PIXELS and width * height > Image.MAX_IMAGE_PIXELS:
        raise DataError(f"more than {Image.MAX_IMAGE_PIXELS:,} pixels; shrink it")


def _check_compressed_size(data: Any, index: int, count: int) -> None:
    """Refuse a compressed frame of more pixels than are allowed: decoders trust its own header.

    Run-length encoding (RLE) is decoded to the size that the file states, which cannot be more than
    64 times its bytes.
    """
    if data.file_meta.TransferSyntaxUID == import_pydicom().uid.RLELossless:
        return
    frame = import_pydicom().encaps.get_frame(data.PixelData, index, number_of_frames=count)
    try:
        width, height, components = coded_size(frame)
    except (IndexError, struct.error) as error:
        raise DataError("damaged (its frame has no header); remove or replace it") from error
    _check_size(width, height)
    if components > 4:
        raise DataError(f"a frame of {components} components is not an image; remove it")


def coded_size(frame: bytes) -> tuple[int, int, int]:
    """Width, height and number of components, from the header of a compressed frame.

    Args:
        frame: JPEG, JPEG-LS or JPEG 2000.

    Raises:
        IndexError, struct.error: if it has no such header.
    """
    if frame.startswith(_JP2):
        frame = _codestream(frame)
    if frame.startswith(_J2K):
        right, lower, left, upper = struct.unpack_from(">4I", frame, 8)
        return right - left, lower - upper, *struct.unpack_from(">H", frame, 40)
    place = 2
    while frame[place] == 0xFF:
        marker = frame[place + 1]
        if marker in _SIZE_MARKERS:
            height, width, components = struct.unpack_from(">HHB", frame, place + 5)
            return width, height, components
        place += 1 if marker == 0xFF else 2 + struct.unpack_from(">H", frame, place + 2)[0]
    raise IndexError


def _codestream(file: bytes) -> bytes:
    """The codestream inside a JPEG 2000 file that stands where only a codestream is allowed."""
    place = 12  # after the signature
    while file[place + 4 : place + 8] != b"jp2c":
        length = int.from_bytes(file[place : place + 4], "big")
        if length < 8 or place + length > len(file):
            raise IndexError
        place += length
    return file[place + 8 :]


def _decode(data: Any, index: int, plugin: str) -> np.ndarray:
    """Stored values of a frame; YBR is converted to RGB."""
    pydicom = import_pydicom()
    try:
        return pydicom.pixels.pixel_array(data, index=index, decoding_plugin=plugin)
    except (RuntimeError, NotImplementedError) as error:
        syntax = data.file_meta.TransferSyntaxUID
        more = syntax in pydicom.uid.JPEGTransferSyntaxes and plugin != "pylibjpeg"
        raise DataError(
            f"damaged, or compressed ({syntax.name}) in a way that {plugin} cannot decode; replace "
            "it" + (", or install pylibjpeg-libjpeg, which is under the GPL-3.0" if more else "")
        ) from error


def _choose_plugin(syntax: Any) -> str:
    """The plug-in that decodes a transfer syntax; empty if nothing is compressed."""
    if not syntax.is_encapsulated:
        return ""
    try:
        installed = import_pydicom().pixels.get_decoder(syntax).available_plugins
    except NotImplementedError as error:
        raise DataError(
            f"{syntax.name} is not a compression that is read here; store it in another"
        ) from error
    for plugin in PLUGINS:
        if plugin in installed:
            return plugin
    raise ResourceError(
        f"no decoder of its compression ({syntax.name}) is installed: pip install 'medept[dicom]'"
    )
