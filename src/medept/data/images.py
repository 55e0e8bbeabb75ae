"""Images of any format and mode, read as 8-bit RGB or refused with a clear error.

Grey images of more than 8 bits, signed and floating-point ones are stretched: their minimum becomes
0, their maximum 255. Of 16-bit colours in files the upper 8 bits are kept, transparent images are
put on black, EXIF rotation is applied, and of several frames the first is read. DICOM files, with
or without a suffix, are read by :mod:`medept.data.dicom.frames`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from medept.data.dicom.files import DICOM_SUFFIXES, begins_as_dicom, split_frame
from medept.data.dicom.frames import read_frame
from medept.data.formats import (
    FORMATS,
    format_of,
    is_nifti,
    refuse_deep_jpeg,
    refuse_deep_jpeg2000,
    register_heif,
)
from medept.data.lazy_image import LazyImage
from medept.data.stretch import stretched
from medept.data.threads import available_threads, prefetch
from medept.data.tiff import read_unusual_tiff
from medept.errors import DataError, InputError

ImageLike = str | os.PathLike[str] | Image.Image | np.ndarray | LazyImage
"""What :func:`read_image` accepts."""

T = TypeVar("T")

MEMORY_FOR_DECODED_IMAGES = 2**30
"""Bytes of decoded images that are kept; other images are decoded again when they are needed."""

_PHOTOMETRIC = 262
"""The TIFF tag that says what grey values mean; 0: the smallest is white."""


def read_image(source: ImageLike) -> Image.Image:
    """Read an image as a PIL image of mode RGB.

    Args:
        source: a file (``scan.dcm#3`` is frame 3 of a DICOM file), a PIL image, or an array
            (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8, bool, floats from 0 to 1, or uint16
            (which is stretched, as in files).

    Raises:
        DataError: if it is missing, damaged, not an image, or larger than Pillow's limit against
            decompression bombs; the message names the file.
        ResourceError: if reading it needs a package that is not installed.

    >>> image = read_image(np.array([[1000, 3000]], dtype=np.uint16))
    >>> image.mode, image.size, image.getpixel((1, 0))
    ('RGB', (2, 1), (255, 255, 255))
    """
    with _naming(_name(source)):
        if isinstance(source, np.ndarray):
            return _to_rgb(_from_array(source))
        if isinstance(source, Image.Image):
            return _to_rgb(source)
        if isinstance(source, LazyImage):
            return _to_rgb(source.read())
        return _from_path(Path(source))


def read_opened(file: BinaryIO, name: str) -> Image.Image:
    """Read an image from an opened file, such as ``io.BytesIO``, as :func:`read_image` does.

    Args:
        file: whose position does not matter; of a DICOM file with several frames the middle one is
            read.
        name: what messages call it.
    """
    with _naming(name):
        return _from_file(file)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Make whatever goes wrong while an image is read an error that names the image."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"{name}: {error}") from error
    except FileNotFoundError as error:
        raise DataError(f"{name}: no such image; check the path") from error
    except PermissionError as error:
        raise DataError(f"{name}: permission denied; check its permissions") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{name}: {_too_large()}") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: not an image that can be read; remove or replace it") from error
    except Exception as error:  # a decoder may raise anything for damaged bytes
        raise DataError(f"{name}: damaged ({error}); remove or replace it") from error


def read_images(
    images: Sequence[ImageLike], then: Callable[[Image.Image], T]
) -> Iterator[T | InputError]:
    """Read images in parallel threads, and yield ``then(image)`` of each, in their order.

    An image that cannot be read yields its error instead. Only a few images are in memory at a
    time, so ``then`` should return something small.

    >>> images = [np.zeros((4, 6), np.uint8), "missing.png"]
    >>> for size in read_images(images, lambda image: image.size):
    ...     print(size)
    (6, 4)
    missing.png: no such image; check the path
    """

    def one(source: ImageLike) -> T | InputError:
        try:
            return then(read_image(source))
        except InputError as error:
            return error

    threads = available_threads()
    return prefetch(one, images, threads=threads, limit=2 * threads)


def decode_images(
    images: Sequence[ImageLike], memory: int = MEMORY_FOR_DECODED_IMAGES
) -> tuple[ImageLike, ...]:
    """Images as arrays (H, W, 3), so that they need not be decoded again.

    Those that cannot be read, and all from the first on that would exceed ``memory`` (bytes), stay
    as they are.
    """
    kept = list(images)
    for i, pixels in enumerate(read_images(images, np.asarray)):
        if isinstance(pixels, InputError):
            continue
        memory -= pixels.nbytes
        if memory < 0:
            break
        kept[i] = pixels
    return tuple(kept)


def _name(source: ImageLike) -> str:
    if isinstance(source, np.ndarray):
        return f"array of shape {source.shape} and type {source.dtype}"
    if isinstance(source, Image.Image):
        return str(getattr(source, "filename", "")) or "PIL image"
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    if isinstance(source, LazyImage):
        return str(source)
    raise DataError(
        f"{type(source).__name__} is not an image: give a path, a PIL image or a NumPy array"
    )


def _from_path(path: Path) -> Image.Image:
    path, frame = split_frame(path)
    if path.exists() and not path.is_file():  # reading from a pipe could wait for ever
        raise DataError("a folder or a device; give the path of an image file")
    if is_nifti(path):
        raise DataError("a volume, and no image: cut it with medept.data.volumes.open_volume")
    with path.open("rb") as file:
        return _from_file(file, frame, called_dicom=path.suffix.lower() in DICOM_SUFFIXES)


def _from_file(
    file: BinaryIO, frame: int | None = None, *, called_dicom: bool = False
) -> Image.Image:
    file.seek(0)
    if not file.read(1):
        raise DataError("empty file; remove or replace it")
    file.seek(0)
    if called_dicom or begins_as_dicom(file):
        return Image.fromarray(read_frame(file, frame)).convert("RGB")
    if frame is not None:
        raise DataError(f"#{frame} names a frame of a DICOM file, which this is not; leave it out")
    formats, found = FORMATS, format_of(file.read(64))
    if found == "HEIF":
        register_heif()
        formats += ("HEIF",)
    if found == "TIFF" and (unusual := read_unusual_tiff(file)) is not None:
        return _to_rgb(unusual)
    if found == "JPEG":
        refuse_deep_jpeg(file)
    if found == "JPEG2000":
        refuse_deep_jpeg2000(file)
    file.seek(0)
    with Image.open(file, formats=formats) as image:
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
            return stretched(array)
        alpha = (array[..., 3:] >> 8).astype(np.uint8)
        return np.concatenate([stretched(array[..., :3]), alpha], axis=2)
    if kind != "f":
        raise DataError("not an image; use uint8, uint16, bool, or floats from 0 to 1")
    if not (array.min() >= -1e-6 and array.max() <= 1 + 1e-6):  # NaN fails both
        raise DataError("floats must be from 0 to 1, none of them NaN; rescale them first")
    return np.round(np.clip(array, 0, 1) * 255).astype(np.uint8)


def _to_rgb(image: Image.Image) -> Image.Image:
    if 0 in image.size:
        raise DataError("no pixels; remove or replace it")
    negative = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        grey = stretched(np.asarray(image))
        image = Image.fromarray(255 - grey if negative else grey)  # Pillow inverts 8 bits alone
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    return image.convert("RGB")
