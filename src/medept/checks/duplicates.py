"""Images that are in a data set twice: the same pixels, or nearly the same picture.

The same pixels have the same SHA-256. Nearly the same picture means close perceptual hashes
(the signs of low frequencies of the cosine transform), confirmed by the correlation of small grey
copies; so a picture saved again, scaled or slightly changed in brightness is found, one that was
turned, flipped or cut is not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

HASH_SIDE = 16
HASH_DISTANCE = 26
"""Of 256 bits: about a tenth. Hashes of unrelated pictures differ in half of them."""
CORRELATION = 0.97
_THUMBNAIL = 32
_BLOCK = 1024


@dataclass(frozen=True)
class Fingerprint:
    """What tells a picture from others.

    Attributes:
        digest: SHA-256 over the size and the RGB pixels.
        bits: (256,) bool, the perceptual hash.
        thumbnail: (1024,) float32 of mean 0 and norm 1; zeros for a constant picture.
        constant: whether all pixels are the same.
    """

    digest: str
    bits: np.ndarray
    thumbnail: np.ndarray
    constant: bool


def fingerprint(image: Image.Image, *, near: bool = True) -> Fingerprint:
    """The fingerprint of an RGB image; without ``near``, hash and thumbnail are left zero."""
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


def exact_sets(prints: Sequence[Fingerprint | None]) -> list[list[int]]:
    """Rows with the same pixels, sets of two and more; constant pictures aside."""
    rows: dict[str, list[int]] = {}
    for row, print_ in enumerate(prints):
        if print_ is not None and not print_.constant:
            rows.setdefault(print_.digest, []).append(row)
    return [same for same in rows.values() if len(same) > 1]


def near_sets(prints: Sequence[Fingerprint | None]) -> list[list[int]]:
    """Rows that are nearly the same picture, each through some chain of pairs.

    Of exact copies only the first takes part. All pairs are compared, as products of matrices:
    n images cost n^2 x 256 multiplications, a few seconds for ten thousand.
    """
    first: dict[str, int] = {}
    for row, print_ in enumerate(prints):
        if print_ is not None and not print_.constant:
            first.setdefault(print_.digest, row)
    rows = np.array(list(first.values()), dtype=np.int64)
    if len(rows) < 2:
        return []
    kept = [print_ for row in rows if (print_ := prints[row]) is not None]
    pairs = _near_pairs(np.stack([p.bits for p in kept]), np.stack([p.thumbnail for p in kept]))
    return [rows[members].tolist() for members in _components(pairs, len(rows))]


def _near_pairs(bits: np.ndarray, thumbnails: np.ndarray) -> np.ndarray:
    """(m, 2) index pairs i < j."""
    signs = bits.astype(np.float32) * 2 - 1
    enough = signs.shape[1] - 2 * HASH_DISTANCE
    found = [np.zeros((0, 2), dtype=np.int64)]
    for start in range(0, len(signs), _BLOCK):
        agreement = signs[start : start + _BLOCK] @ signs[start:].T
        alike = thumbnails[start : start + _BLOCK] @ thumbnails[start:].T
        near = (agreement >= enough) & (alike >= CORRELATION)
        found.append(np.argwhere(np.triu(near, k=1)) + start)
    return np.concatenate(found)


def _components(pairs: np.ndarray, count: int) -> list[np.ndarray]:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), (count, count))
    _, names = connected_components(graph, directed=False)
    linked = np.unique(pairs)
    return [linked[names[linked] == name] for name in np.unique(names[linked])]
