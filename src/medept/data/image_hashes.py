"""Hashes that tell whether two images are the same."""

from __future__ import annotations

import hashlib
import os
import re
from functools import lru_cache
from pathlib import Path

import numpy as np

from medept.data.dicom.files import split_frame
from medept.data.images import ImageLike
from medept.data.lazy_image import LazyImage
from medept.errors import DataError

ORIGINAL = "medept-original-sha256"
"""The field in which the PNG file of a small copy keeps the hash of its original."""

_COPY = re.compile(rb"\x89PNG.*?tEXt" + ORIGINAL.encode() + rb"\0([0-9a-f]{64})", re.DOTALL)


def file_hash(source: ImageLike) -> str:
    """SHA-256 of the bytes of an image's file, in hexadecimal; empty for what is not a file.

    >>> _ = Path("image.png").write_bytes(b"abc")
    >>> file_hash("image.png")
    'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'
    """
    if isinstance(source, LazyImage):
        return _volume_hash(source.path, source.path.stat().st_mtime_ns)
    if not isinstance(source, str | os.PathLike):
        return ""
    return _hash_of_files([split_frame(Path(source))[0]])


@lru_cache(maxsize=64)
def _volume_hash(path: Path, _: int) -> str:
    """SHA-256 of a file, or of all files of a folder, which several images are made from."""
    inside = sorted(path.iterdir()) if path.is_dir() else [path]
    return _hash_of_files([file for file in inside if file.is_file()])


def _hash_of_files(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def original_hash(source: ImageLike) -> str:
    """:func:`file_hash`; for a small copy made by medept, the hash of the original."""
    if isinstance(source, LazyImage):
        return file_hash(source)
    if not isinstance(source, str | os.PathLike):
        return ""
    with split_frame(Path(source))[0].open("rb") as file:
        copy = _COPY.match(file.read(512))
    return copy[1].decode() if copy else file_hash(source)


def image_key(source: ImageLike) -> str:
    """A text that identifies an image: path and SHA-256 of a file, or SHA-256 of the pixels.

    Raises:
        DataError: if it cannot be read.
    """
    if isinstance(source, str | os.PathLike | LazyImage):
        try:
            return f"{source} {file_hash(source)}"
        except OSError as error:
            raise DataError(f"{source}: {error.strerror}; check the path") from error
    try:
        pixels = np.asarray(source)
    except OSError as error:  # an image that Pillow has opened and cannot decode
        raise DataError(f"an image is damaged ({error}); remove or replace it") from error
    digest = hashlib.sha256(np.ascontiguousarray(pixels).data)
    return f"{pixels.shape} {pixels.dtype} {digest.hexdigest()}"
