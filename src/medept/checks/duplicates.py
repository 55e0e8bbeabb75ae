"""Images that occur twice in a data set: with the same pixels, or nearly the same.

Exact duplicates have the same SHA-256 of their pixels. Near duplicates have similar perceptual
hashes (the signs of low frequencies of the cosine transform), and their thumbnails correlate. This
finds an image that was saved again, scaled, or slightly changed in brightness, but not one that was
rotated, flipped or cropped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

HASH_SIDE = 16

HASH_DISTANCE = 26
"""Most bits in which hashes of near duplicates differ, of 256. Unrelated images differ in half."""

CORRELATION = 0.97
"""Least correlation of the thumbnails of near duplicates."""

_THUMBNAIL = 32
_BLOCK = 1024


@dataclass(frozen=True)
class Fingerprint:
    """What identifies an image, or a near duplicate of it.

    Attributes:
        digest: SHA-256 of the size and the RGB pixels.
        bits: (256,) bool, the perceptual hash.
        thumbnail: (1024,) float32 with mean 0 and norm 1; zeros for a constant image.
        constant: whether all pixels are the same.
    """

    digest: str
    bits: np.ndarray
    thumbnail: np.ndarray
    constant: bool


def fingerprint(image: Image.Image, *, near: bool = True) -> Fingerprint:
    """The fingerprint of an RGB image.

    Args:
        near: whether it has to tell near duplicates; if not, hash and thumbnail are left zero.
    """
    digest = hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
    constant = all(low == high for low, high in image.getextrema())  # type: ignore[misc]
    bits, thumbnail = np.zeros(HASH_SIDE**2, bool), np.zeros(_THUMBNAIL**2, np.float32)
    if near and not constant:
        import imagehash

        grey = image.convert("L")
        bits = imagehash.phash(grey, hash_size=HASH_SIDE).hash.ravel()
        small = np.asarray(grey.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX), np.float32)
        centred = small.ravel() - small.mean()
        thumbnail = centred / max(float(np.linalg.norm(centred)), 1e-6)
    return Fingerprint(digest, bits, thumbnail, constant)


def exact_duplicates(fingerprints: Sequence[Fingerprint | None]) -> list[list[int]]:
    """Sets of rows with the same pixels; constant images are left out."""
    return [rows for rows in _rows_by_digest(fingerprints).values() if len(rows) > 1]


def near_duplicates(fingerprints: Sequence[Fingerprint | None]) -> list[list[int]]:
    """Sets of rows with nearly the same image; within a set, a chain of pairs links any two.

    Of exact duplicates only the first takes part. All pairs are compared by matrix products: n
    images need n^2 x 256 multiplications, which is a few seconds for ten thousand images.
    """
    rows = np.array([same[0] for same in _rows_by_digest(fingerprints).values()], dtype=np.int64)
    if len(rows) < 2:
        return []
    kept = [found for row in rows if (found := fingerprints[row]) is not None]
    pairs = _near_pairs(np.stack([k.bits for k in kept]), np.stack([k.thumbnail for k in kept]))
    return [rows[members].tolist() for members in _connected(pairs, len(rows))]


def _rows_by_digest(fingerprints: Sequence[Fingerprint | None]) -> dict[str, list[int]]:
    """The rows of each image that is readable and not constant."""
    rows: dict[str, list[int]] = {}
    for row, found in enumerate(fingerprints):
        if found is not None and not found.constant:
            rows.setdefault(found.digest, []).append(row)
    return rows


def _near_pairs(bits: np.ndarray, thumbnails: np.ndarray) -> np.ndarray:
    """Index pairs (m, 2) of near duplicates, the smaller index first."""
    signs = bits.astype(np.float32) * 2 - 1
    least_agreement = signs.shape[1] - 2 * HASH_DISTANCE
    found = [np.zeros((0, 2), dtype=np.int64)]
    for start in range(0, len(signs), _BLOCK):
        agreement = signs[start : start + _BLOCK] @ signs[start:].T
        correlation = thumbnails[start : start + _BLOCK] @ thumbnails[start:].T
        near = (agreement >= least_agreement) & (correlation >= CORRELATION)
        found.append(np.argwhere(np.triu(near, k=1)) + start)
    return np.concatenate(found)


def _connected(pairs: np.ndarray, count: int) -> list[np.ndarray]:
    """The connected components, of two or more, of a graph of ``count`` nodes."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), (count, count))
    _, component = connected_components(graph, directed=False)
    linked = np.unique(pairs)
    return [linked[component[linked] == number] for number in np.unique(component[linked])]
