"""Any image, whatever its file or mode, as an 8-bit RGB picture; or a clear error.

16-bit and floating-point greys are stretched from their own minimum and maximum to 0..255,
transparency is laid over black, EXIF rotation is applied, and of several frames the first is
taken.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from medept.errors import InputError

ImageLike = str | os.PathLike[str] | Image.Image | np.ndarray

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".ppm", ".pgm"}
)


def read_image(source: ImageLike) -> Image.Image:
    """An image as a PIL image of mode RGB.

    Args:
        source: a file, a PIL image, or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of
            uint8, uint16, bool, or of floats.

    Raises:
        InputError: if it is missing, damaged, no image, or larger than Pillow's bound against
            decompression bombs; the message names the file.
    """
    if isinstance(source, np.ndarray):
        return _to_rgb(_from_array(source))
    if isinstance(source, Image.Image):
        return _to_rgb(source)
    path = Path(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return _to_rgb(image)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such image") from error
    except IsADirectoryError as error:
        raise InputError(f"{path}: a folder, where an image was expected") from error
    except PermissionError as error:
        raise InputError(f"{path}: may not be read; check its permissions") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(
            f"{path}: more than {Image.MAX_IMAGE_PIXELS:,} pixels; shrink it, or cut it into tiles"
        ) from error
    except UnidentifiedImageError as error:
        reason = "empty file" if path.stat().st_size == 0 else "not an image that can be read"
        raise InputError(f"{path}: {reason}; remove or replace it") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise InputError(f"{path}: damaged ({error}); remove or replace it") from error


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise InputError(
            f"an array of shape {array.shape} is no image: use (H, W), (H, W, 3) or (H, W, 4)"
        )
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    elif array.dtype != np.uint8:
        array = _stretched(array)
    return Image.fromarray(array)


def _to_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        image = Image.fromarray(_stretched(np.asarray(image)))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    return image.convert("RGB")


def _stretched(values: np.ndarray) -> np.ndarray:
    """Numbers of any type as uint8, from their minimum to their maximum; a constant gives 0."""
    try:
        values = values.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"an array of {values.dtype} is no image: use uint8") from error
    if not np.isfinite(values).all():
        raise InputError("an image holds NaN or infinite values: replace them first")
    low, high = values.min(), values.max()
    if low == high:
        return np.zeros(values.shape, dtype=np.uint8)
    return np.round((values - low) / (high - low) * 255).astype(np.uint8)
