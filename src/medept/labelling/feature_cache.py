"""Features of a pool, computed once and kept on the disk as far as they are.

They are kept in parts of a few hundred images, so that a run that is killed loses at most one part.
An image is known by its name, size and time of change, and an encoder by its weights.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from medept.data.cases import Item, images_of, sizes_of
from medept.data.dicom.files import split_frame
from medept.data.images import read_images
from medept.data.lazy_image import LazyImage
from medept.files import write_tensors
from medept.labelling.pool import Pool
from medept.progress import Progress, silent

PART = 256
"""Images or cases whose features are written together."""


class FeatureCache:
    """Features (n, D) of a pool.

    Args:
        pool: n images or cases.
        folder: where parts are kept.
        encoder: a text that changes with the features: hash of the weights and what is read.
        encode: items to features (k, D).

    Attributes:
        rows: (m,) those whose features are known, in the order in which they became so.
        unreadable: rows that were left out, and why.
    """

    def __init__(
        self,
        pool: Pool,
        folder: Path,
        encoder: str,
        encode: Callable[[Sequence[Item]], np.ndarray],
    ) -> None:
        self._pool, self._folder, self._encode = pool, folder, encode
        self._prefix = hashlib.sha256(encoder.encode()).hexdigest()[:16]
        self._parts: list[np.ndarray] = []
        self.rows = np.empty(0, dtype=np.int64)
        self.unreadable: dict[int, str] = {}
        self._keys = [_key(s.name, item) for s, item in zip(pool.subjects, pool.items, strict=True)]
        self._read()

    @property
    def complete(self) -> bool:
        """Whether the features of the whole pool are known, but for what cannot be read."""
        return len(self.rows) + len(self.unreadable) == len(self._pool)

    def features(self) -> np.ndarray:
        """Features (m, D) of :attr:`rows`."""
        return np.concatenate(self._parts) if self._parts else np.empty((0, 0), np.float16)

    def whole(self, progress: Progress = silent) -> np.ndarray:
        """Features (n, D) of the pool, computed as far as they are not known.

        Raises:
            InputError: if an image cannot be read.
        """
        while self.compute_part():
            progress("encoding", len(self.rows), len(self._pool))
        features = self.features()
        return features[np.argsort(self.rows)]

    def compute_part(self, size: int = PART, *, skip_unreadable: bool = False) -> bool:
        """Compute and keep features of a few more items, drawn at random; False if none is left.

        Args:
            size: how many, at most.
            skip_unreadable: leave out what cannot be read.

        Raises:
            InputError: if an image cannot be read, and is not skipped.
        """
        left = np.setdiff1d(np.arange(len(self._pool)), [*self.rows, *self.unreadable])
        if not len(left):
            return False
        chosen = np.random.default_rng(len(left)).permutation(left)[:size]
        if skip_unreadable:
            chosen = self._readable(chosen)
            if not len(chosen):
                return True
        features = self._encode([self._pool.items[row] for row in chosen]).astype(np.float16)
        keys = json.dumps([self._keys[row] for row in chosen])
        file = self._folder / f"{self._prefix}-{_digest(keys)}.safetensors"
        write_tensors(file, {"features": torch.from_numpy(features)}, {"keys": keys})
        self._add(chosen, features)
        return True

    def _readable(self, rows: np.ndarray) -> np.ndarray:
        """Those of the rows all of whose images can be read; the others are noted."""
        items = [self._pool.items[row] for row in rows]
        owners = np.repeat(rows, sizes_of(items))
        for row, error in zip(owners, read_images(images_of(items), lambda _: None), strict=True):
            if error is not None:
                self.unreadable[int(row)] = str(error)
        return rows[~np.isin(rows, list(self.unreadable))]

    def _add(self, rows: np.ndarray, features: np.ndarray) -> None:
        self.rows = np.concatenate([self.rows, rows])
        self._parts.append(features)

    def _read(self) -> None:
        from safetensors import SafetensorError, safe_open

        place = {key: row for row, key in enumerate(self._keys)}
        for file in sorted(self._folder.glob(f"{self._prefix}-*.safetensors")):
            try:
                with safe_open(file, "np") as opened:
                    keys = json.loads(opened.metadata()["keys"])
                    features = opened.get_tensor("features")
            except (SafetensorError, OSError, ValueError, KeyError, TypeError):
                file.unlink(missing_ok=True)  # it is damaged, and is computed again
                continue
            found = [(i, place.pop(key)) for i, key in enumerate(keys) if key in place]
            if found:
                kept, rows = np.array(found).T
                self._add(rows, features[kept])


def _key(name: str, item: Item) -> str:
    """What an item is known by: its name, and size and time of its files."""
    marks = [name]
    for image in images_of([item]):
        path = image.path if isinstance(image, LazyImage) else image
        if isinstance(path, str | os.PathLike):
            try:
                stat = split_frame(Path(path))[0].stat()
            except OSError:
                continue  # reading it will say what is wrong
            marks.append(f"{stat.st_size} {stat.st_mtime_ns}")
    return _digest("\n".join(marks))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
