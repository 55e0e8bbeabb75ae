"""Any image, whatever its file or mode, as an 8-bit RGB picture; or a clear error.

16-bit greys and floating-point files are stretched from their own minimum and maximum to 0..255, of
16-bit colours the upper 8 bits are taken, transparency is laid over black, EXIF rotation is
applied, and of several frames the first is taken. DICOM files, with or without a suffix, are read
by :mod:`medept.data.dicom`.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from medept.data.dicom import DICOM_SUFFIXES, begins_as_dicom, is_dicom, read_frame, split_frame
from medept.data.threads import ahead, available_threads
from medept.errors import DataError, InputError

ImageLike = str | os.PathLike[str] | Image.Image | np.ndarray
P = TypeVar("P", bound=ImageLike)
S = TypeVar("S")
T = TypeVar("T")

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".ppm", ".pgm"}
)
FORMATS = ("PNG", "JPEG", "JPEG2000", "TIFF", "BMP", "WEBP", "GIF", "PPM")
"""What is opened, whatever the suffix says: no format that runs a program (EPS) is among them."""
MEMORY_FOR_DECODED_IMAGES = 2**30
"""Bytes of decoded images that are kept; beyond them an image is decoded again when needed."""

PHOTOMETRIC = 262
"""TIFF's tag of what a grey value means; 0: the least is white."""


def read_image(source: ImageLike) -> Image.Image:
    """An image as a PIL image of mode RGB.

    Args:
        source: a file (``scan.dcm#3``: its frame 3), a PIL image, or an array (H, W), (H, W, 1),
            (H, W, 3) or (H, W, 4) of uint8, of bool, of floats from 0 to 1, or of uint16
            (stretched as files are).

    Raises:
        InputError: if it is missing, damaged, no image, or larger than Pillow's bound against
            decompression bombs; the message names the file.
    """
    name = _name(source)
    try:
        if isinstance(source, np.ndarray):
            return _to_rgb(_from_array(source))
        if isinstance(source, Image.Image):
            return _to_rgb(source)
        return _from_file(Path(source))
    except InputError as error:
        raise type(error)(f"{name}: {error}") from error
    except FileNotFoundError as error:
        raise DataError(f"{name}: no such image; check the path") from error
    except PermissionError as error:
        raise DataError(f"{name}: may not be read; check its permissions") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{name}: {_too_large()}") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: not an image that can be read; remove or replace it") from error
    except Exception as error:  # a decoder given damaged bytes raises whatever it likes
        raise DataError(f"{name}: damaged ({error}); remove or replace it") from error


def read_images(
    images: Sequence[ImageLike], then: Callable[[Image.Image], T]
) -> Iterator[T | InputError]:
    """``then(image)`` of each image, in their order; both are done in parallel threads.

    An image that cannot be read gives its error in place of a result. Few images are in memory at
    a time, so ``then`` should return something small.
    """

    def one(source: ImageLike) -> T | InputError:
        try:
            return then(read_image(source))
        except InputError as error:
            return error

    threads = available_threads()
    return ahead(one, images, threads=threads, most=2 * threads)


def readable(images: Sequence[P]) -> list[P]:
    """The images that can be read, in their order; they are decoded once to see it.

    Raises:
        InputError: if none can.

    Warns:
        UserWarning: for each of the others, with what is wrong.
    """
    good = []
    for image, problem in zip(images, read_images(images, lambda _: None), strict=True):
        if problem is None:
            good.append(image)
        else:
            warnings.warn(f"left out: {problem}", stacklevel=2)
    if not good:
        raise DataError(f"none of the {len(images)} images can be read")
    return good


def decoded(
    images: Sequence[ImageLike], room: int = MEMORY_FOR_DECODED_IMAGES
) -> tuple[ImageLike, ...]:
    """Images as arrays (H, W, 3), so that nobody has to decode them again.

    Those that cannot be read, and the last where all take more than ``room`` bytes, stay as they
    are.
    """
    held = list(images)
    for i, pixels in enumerate(read_images(images, np.asarray)):
        if isinstance(pixels, InputError):
            continue
        room -= pixels.nbytes
        if room < 0:
            break
        held[i] = pixels
    return tuple(held)


def _name(source: ImageLike) -> str:
    if isinstance(source, np.ndarray):
        return f"array of shape {source.shape} and type {source.dtype}"
    if isinstance(source, Image.Image):
        return str(getattr(source, "filename", "")) or "PIL image"
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    raise DataError(
        f"{type(source).__name__} is no image: give a path, a PIL image or a NumPy array"
    )


def file_hash(source: ImageLike) -> str:
    """SHA-256 of the bytes of an image's file, in hexadecimal; empty for what is no file."""
    if not isinstance(source, str | os.PathLike):
        return ""
    digest = hashlib.sha256()
    with split_frame(Path(source))[0].open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


ORIGINAL = "medept-original-sha256"
"""What the PNG file of a small copy says of the file that it was made of."""

_COPY = re.compile(rb"\x89PNG.*?tEXt" + ORIGINAL.encode() + rb"\0([0-9a-f]{64})", re.DOTALL)


def original_hash(source: ImageLike) -> str:
    """:func:`file_hash`; of a small copy that medept made, that of its original."""
    if not isinstance(source, str | os.PathLike):
        return ""
    with split_frame(Path(source))[0].open("rb") as file:
        copy = _COPY.match(file.read(512))
    return copy[1].decode() if copy else file_hash(source)


def image_key(source: ImageLike) -> str:
    """What tells one image from another: a file's path and SHA-256, or the SHA-256 of the pixels.

    Raises:
        InputError: if it cannot be read.
    """
    if isinstance(source, str | os.PathLike):
        try:
            return f"{source} {file_hash(source)}"
        except OSError as error:
            raise DataError(f"{source}: {error.strerror}; check the path") from error
    try:
        pixels = np.asarray(source)
    except OSError as error:  # a picture that Pillow opened, and cannot read
        raise DataError(f"an image is damaged ({error}); remove or replace it") from error
    digest = hashlib.sha256(np.ascontiguousarray(pixels).data)
    return f"{pixels.shape} {pixels.dtype} {digest.hexdigest()}"


def is_image(path: Path) -> bool:
    """Whether a file in a folder is taken for an image: by its suffix, or as DICOM."""
    return path.suffix.lower() in IMAGE_SUFFIXES or is_dicom(path)


def _from_file(path: Path) -> Image.Image:
    path, frame = split_frame(path)
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise DataError("a folder or a device; give the path of an image file")
    with path.open("rb") as file:
        if not file.read(1):
            raise DataError("empty file; remove or replace it")
        file.seek(0)
        if path.suffix.lower() in DICOM_SUFFIXES or begins_as_dicom(file):
            return Image.fromarray(read_frame(file, frame)).convert("RGB")
        if frame is not None:
            raise DataError(f"#{frame} is a frame of a DICOM file, which this is not; drop it")
        with Image.open(file, formats=FORMATS) as image:
            if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise DataError(_too_large())
            return _to_rgb(image)


def _too_large() -> str:
    most = f"{Image.MAX_IMAGE_PIXELS:,}"
    return f"more than {most} pixels; make a smaller copy of it with another program"


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise DataError("not an image; use (H, W), (H, W, 3) or (H, W, 4)")
    return Image.fromarray(_eight_bits(array))


def _eight_bits(array: np.ndarray) -> np.ndarray:
    kind, size = array.dtype.kind, array.dtype.itemsize
    if (kind, size) == ("u", 1):
        return array
    if kind == "b":
        return array.astype(np.uint8) * 255
    if (kind, size) == ("u", 2):
        if array.ndim == 2:
            return _stretched(array)
        alpha = (array[..., 3:] >> 8).astype(np.uint8)
        return np.concatenate([_stretched(array[..., :3]), alpha], axis=2)
    if kind != "f":
        raise DataError("not an image; use uint8, uint16, bool, or floats from 0 to 1")
    if not (array.min() >= -1e-6 and array.max() <= 1 + 1e-6):  # NaN fails both
        raise DataError("floats must be from 0 to 1, none of them NaN; rescale them first")
    return np.round(np.clip(array, 0, 1) * 255).astype(np.uint8)


def _to_rgb(image: Image.Image) -> Image.Image:
    if 0 in image.size:
        raise DataError("no pixels; remove or replace it")
    negative = getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == 0
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        grey = _stretched(np.asarray(image))
        image = Image.fromarray(255 - grey if negative else grey)  # Pillow does so with 8 bits
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    return image.convert("RGB")


def _stretched(values: np.ndarray) -> np.ndarray:
    """Numbers as uint8, from their minimum to their maximum; a constant gives 0."""
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise DataError("holds NaN or infinite values; replace them first")
    low, high = values.min(), values.max()
    if low == high:
        return np.zeros(values.shape, dtype=np.uint8)
    return np.round((values - low) / (high - low) * 255).astype(np.uint8)
