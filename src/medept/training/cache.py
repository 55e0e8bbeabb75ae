"""Tensors that are computed once per image and read by epochs, folds, trials and seeds of one fit.

What is cached, and under which key, stands in :class:`CacheKey`. Tensors are kept in memory, or in
a temporary file where they are large; files are removed when the fit ends.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from medept.errors import ResourceError

logger = logging.getLogger(__name__)

IN_MEMORY = 2**31
"""Bytes of one key's tensors that are kept in memory; larger ones go to a temporary file."""

Activations = Sequence[Tensor]
"""Tensors (B, ...) with which a batch of B views enters a model: its pixels, or what some part of
the model made of them."""

Content = Literal["frozen features", "features", "prefix", "pixels"]
"""What is cached, of every image of the whole support set:

- ``frozen features``: features (D) of the evaluation view, by the encoder as it came;
- ``features``: features (D) of random views, where the method trains the head alone;
- ``prefix``: what enters the first thing that training changes, of random views
  (:mod:`medept.training.prefix`);
- ``pixels``: random views (3, H, W) themselves.
"""

CacheDetails = tuple[str | int | bool, ...]


@dataclass(frozen=True)
class RandomViews:
    """Which random views of each image: the first ``count``, of one crop scale and one seed."""

    count: int
    crop_scale: float
    seed: int


@dataclass(frozen=True)
class CacheKey:
    """All that determines cached tensors: fits with equal keys read the same tensors.

    The images are not part of it: a cache serves one support set.

    Attributes:
        content: what is cached.
        encoder: SHA-256 of the frozen encoder's weights.
        precision: what the encoder computes in, as accelerate names it.
        views: the random views; None for the evaluation view.
        details: of ``frozen features``, what is read and in which views; of ``features``, how the
            method alters those of the frozen encoder; of ``prefix``, where it ends.
    """

    content: Content
    encoder: str
    precision: str
    views: RandomViews | None = None
    details: CacheDetails = ()


class TensorCache:
    """Tensors by their :class:`CacheKey`; a context, at whose end files are removed.

    Attributes:
        fits: how many fits will read from it, one after the other.

    >>> key = CacheKey("pixels", encoder="", precision="no")
    >>> with TensorCache() as cache:
    ...     (pixels,) = cache.get(key, 3, ([torch.full((n, 2), n)] for n in (1, 2)))
    ...     pixels.tolist()
    [[1, 1], [2, 2], [2, 2]]
    """

    def __init__(self) -> None:
        self.fits = 1
        self._files = ExitStack()
        self._tensors: dict[CacheKey, list[Tensor]] = {}

    def __enter__(self) -> TensorCache:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tensors.clear()
        self._files.close()

    @property
    def bytes(self) -> int:
        """Bytes that are cached, in memory and in files."""
        return sum(tensor.nbytes for tensors in self._tensors.values() for tensor in tensors)

    def get(self, key: CacheKey, rows: int, batches: Iterable[Activations]) -> list[Tensor]:
        """The tensors (rows, ...) of this key.

        Args:
            key: what determines them.
            rows: how many rows the batches have together.
            batches: their rows, in order; read only if nothing is cached under this key.

        Raises:
            ResourceError: if there is no room for them on the disk.
        """
        if key not in self._tensors:
            tensors: list[Tensor] = []
            start = 0
            for batch in batches:
                tensors = tensors or self._allocate(batch, rows)
                for tensor, part in zip(tensors, batch, strict=True):
                    tensor[start : start + len(part)] = part
                start += len(batch[0])
            self._tensors[key] = tensors
        return self._tensors[key]

    def _allocate(self, batch: Activations, rows: int) -> list[Tensor]:
        """Tensors for ``rows`` rows like those of the batch, in memory or in files."""
        shapes = [(rows, *part.shape[1:]) for part in batch]
        sizes = [rows * part[0].numel() * part.element_size() for part in batch]
        if sum(sizes) <= IN_MEMORY:
            return [
                torch.empty(shape, dtype=part.dtype)
                for shape, part in zip(shapes, batch, strict=True)
            ]
        folder = Path(self._files.enter_context(tempfile.TemporaryDirectory(prefix="medept-")))
        no_room = ResourceError(
            f"{sum(sizes) / 1e9:.1f} GB of encoded views do not fit into {folder.parent}: take "
            "fewer images or views, or set TMPDIR to a folder with more room"
        )
        if sum(sizes) > shutil.disk_usage(folder).free:
            raise no_room
        logger.info("encoded views take %.1f GB in a temporary file", sum(sizes) / 1e9)
        tensors = []
        for i, (shape, size, part) in enumerate(zip(shapes, sizes, batch, strict=True)):
            file = folder / str(i)
            if not _reserve(file, size):
                raise no_room
            count = int(np.prod(shape))
            mapped = torch.from_file(str(file), shared=True, size=count, dtype=part.dtype)
            tensors.append(mapped.view(shape))
        return tensors


def _reserve(file: Path, size: int) -> bool:
    """Make a file and reserve its bytes, where the system can; False if there is no room.

    A process that writes to a mapped file beyond what the disk holds is killed.
    """
    with file.open("wb") as new:
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(new.fileno(), 0, size)
        except OSError as error:
            return error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return True
