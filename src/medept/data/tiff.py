"""TIFF files whose samples Pillow does not know, or would misread, through tifffile.

Grey values of more than 8 bits are stretched, and colours keep their upper 8 bits, as everywhere.
"""

from __future__ import annotations

import logging
from typing import Any, BinaryIO

import numpy as np
import tifffile
from PIL import Image

from medept.data.stretch import stretched
from medept.errors import DataError

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it says of damaged files

_GREY, _RGB = (0, 1), 2
"""Photometric interpretations: white is zero, black is zero; colours."""

_INKS, _YCBCR = 5, 6

_PILLOW_PHOTOMETRICS = (0, 1, 2, 3, _INKS, _YCBCR)
"""Those that Pillow reads right with 8 bits: also palettes (3), CMYK, and YCbCr in JPEG."""

_JPEG = (6, 7)
"""The compressions that are JPEG."""


def read_unusual_tiff(file: BinaryIO) -> Image.Image | None:
    """The first picture of a TIFF file, as mode L or RGB; None if Pillow should read the file.

    Args:
        file: opened; its position does not matter before, and is anywhere after.

    Raises:
        DataError: if its samples are of a kind that is not read; the message names the kind.
    """
    file.seek(0)
    try:
        page: Any = tifffile.TiffFile(file).pages[0]
        if _pillow_is_right(page):
            return None
    except Exception:  # damaged: Pillow says how
        return None
    kind = _kind(page)
    colours, extra = (1 if page.photometric in _GREY else 3), page.samplesperpixel
    if page.photometric not in (*_GREY, _RGB) or not 0 <= extra - colours <= 1:
        raise DataError(_refusal(kind))
    if Image.MAX_IMAGE_PIXELS and page.imagewidth * page.imagelength > Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError
    try:
        values = page.asarray()
    except Exception as error:  # a compression that it cannot decode, or damage
        raise DataError(_refusal(kind)) from error
    if page.planarconfig == 2 and extra > 1:
        values = np.moveaxis(values, 0, -1)
    values = values.reshape(page.imagelength, page.imagewidth, extra)
    if values.dtype.kind not in "iuf" or (colours == 3 and values.dtype.kind == "i"):
        raise DataError(_refusal(kind))
    shown = _colours(values[..., :3]) if colours == 3 else _grey(values[..., 0], page.photometric)
    if extra > colours and page.extrasamples[:1] == (2,):  # not yet multiplied by its transparency
        opaque = _opacity(values[..., -1], kind)
        shown = np.round(shown * (opaque[..., None] if colours == 3 else opaque)).astype(np.uint8)
    image = Image.fromarray(shown)
    if orientation := page.tags.get(274):
        image.getexif()[274] = orientation.value
    return image


def _pillow_is_right(page: Any) -> bool:
    bits, form, samples = page.bitspersample, page.sampleformat, page.samplesperpixel
    photometric, apart = page.photometric, page.planarconfig == 2 and samples > 1
    if photometric not in _PILLOW_PHOTOMETRICS or not isinstance(bits, int):
        return False
    if (photometric in _GREY and samples > 2) or (
        photometric == _YCBCR and page.compression not in _JPEG
    ):
        return False
    if form == 1 and bits <= 8:
        return not apart or (photometric, samples) in ((_RGB, 3), (_INKS, 4))
    if photometric == 1 and samples == 1:  # others are not put in order if they are compressed
        little = page.parent.byteorder == "<" and (form, bits) in ((2, 16), (2, 32), (3, 32))
        return little or (form, bits) in ((1, 12), (1, 16))
    usual = {_RGB: (3, 4), _INKS: (4,)}.get(photometric, ())
    return (form, bits) == (1, 16) and samples in usual and not apart


def _grey(values: np.ndarray, photometric: int) -> np.ndarray:
    grey = values if values.dtype == np.uint8 else stretched(values)
    return 255 - grey if photometric == 0 else grey


def _colours(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "u":
        return (values >> (8 * (values.dtype.itemsize - 1))).astype(np.uint8)
    if not (values.min() >= 0 and values.max() <= 1):  # NaN fails both
        raise DataError("floats of colours must be from 0 to 1; rescale them first")
    return np.round(values.astype(np.float64) * 255).astype(np.uint8)


def _opacity(values: np.ndarray, kind: str) -> np.ndarray:
    if values.dtype.kind == "i":
        raise DataError(_refusal(kind))
    top = np.iinfo(values.dtype).max if values.dtype.kind == "u" else 1
    return np.clip(values / top, 0, 1)


def _kind(page: Any) -> str:
    form = {1: "unsigned", 2: "signed", 3: "float"}.get(page.sampleformat, "unusual")
    name = getattr(page.photometric, "name", page.photometric)
    packing = getattr(page.compression, "name", page.compression)
    planes = ", separate planes" if page.planarconfig == 2 else ""
    return (
        f"{page.samplesperpixel} x {page.bitspersample} bits, {form}, {name}{planes}, compression "
        f"{packing}"
    )


def _refusal(kind: str) -> str:
    return f"a TIFF of {kind} is not read, or damaged; save it as PNG, or as TIFF of 8 bits"
