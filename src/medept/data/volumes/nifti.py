"""NIfTI files, compressed or not, by nibabel."""

from __future__ import annotations

import gzip
import logging
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from medept.data.volumes.volume import Volume
from medept.errors import DataError, ResourceError

logger = logging.getLogger(__name__)

LARGEST_SLAB = 2**26
"""Voxels that are in memory at a time, at most: those of one index along the third axis."""


def open_nifti(path: Path) -> Volume:
    """The volume of a NIfTI file; its voxels are read slab by slab, and scaled as it says.

    Raises:
        ResourceError: if nibabel is missing.
        DataError: if it is no NIfTI file, damaged, not of one number a voxel, or not 3-D.
    """
    image = _load(path)
    shape = tuple(int(side) for side in image.shape)
    if len(shape) > 3 and max(shape[3:]) > 1:
        raise DataError(
            f"holds {' x '.join(map(str, shape))} voxels: of several times or kinds; save the one "
            "to read as a volume of three dimensions"
        )
    if len(shape) < 3 or min(shape) < 1:
        raise DataError(f"holds {' x '.join(map(str, shape))} voxels, and is no volume")
    if shape[0] * shape[1] > LARGEST_SLAB:
        raise DataError(
            f"holds {' x '.join(map(str, shape))} voxels: of the first two sides, more than "
            f"{LARGEST_SLAB:,} are not read; its header is damaged, or turn its axes"
        )
    kind = image.get_data_dtype()
    if kind.fields is not None or kind.kind not in "iuf":
        raise DataError(f"voxels of type {kind} are not read; save one number a voxel")
    if not int(image.header["qform_code"]) and not int(image.header["sform_code"]):
        logger.warning(
            "%s: says nothing of how the patient lies; its axes are taken to run to the right, to "
            "the front and upwards",
            path,
        )
    one, two, three = shape[:3]
    return Volume(path, (one, two, three), image.affine, lambda: _slabs(path, shape))


def _load(path: Path) -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise ResourceError("NIfTI needs nibabel: pip install 'medept[nifti]'") from error
    try:
        return nibabel.load(path)
    except FileNotFoundError:
        raise
    except Exception as error:  # a parser may raise anything for damaged bytes
        raise DataError(f"not a NIfTI file, or damaged ({error}); copy it again") from error


def _slabs(path: Path, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Scaled voxels, read from the beginning of the file to its end, where gzip keeps a checksum.

    Raises:
        DataError: if it is cut short or damaged.
    """
    voxels = _load(path).dataobj
    count = shape[0] * shape[1]
    size = count * voxels.dtype.itemsize
    done = 0
    try:
        with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rb") as file:
            file.seek(voxels.offset)
            for _ in range(shape[2]):
                raw = file.read(size)
                if len(raw) < size:
                    raise EOFError("it ends there")
                slab = np.frombuffer(raw, voxels.dtype).reshape(shape[:2], order="F")
                yield (slab * voxels.slope + voxels.inter).astype(np.float32)
                done += 1
            while file.read(2**20):
                pass
    except (OSError, EOFError, ValueError, zlib.error) as error:  # ValueError: a wild offset
        raise DataError(
            f"damaged or cut short at slice {done + 1} of {shape[2]} ({error}); copy it again"
        ) from error
