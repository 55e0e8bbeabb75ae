"""Tensors computed once per image and reused: by epochs, folds and seeds of one fit.

They are kept in memory, or in a temporary file where they are large; files are removed when the
fit ends.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from medept.errors import ResourceError

logger = logging.getLogger(__name__)

IN_MEMORY = 2**31
"""Bytes that are kept in memory; beyond them they are in a temporary file."""


State = Sequence[Tensor]
"""What the model goes on from: tensors (B, ...)."""


class TensorCache:
    """What was computed once, by what determines it; a context, at whose end files are removed."""

    def __init__(self) -> None:
        self.fits = 1
        """That read it, one after the other."""
        self._files = ExitStack()
        self._stores: dict[Hashable, list[Tensor]] = {}

    def __enter__(self) -> TensorCache:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stores.clear()
        self._files.close()

    @property
    def bytes(self) -> int:
        """That are kept, in memory and in files."""
        return sum(store.nbytes for stores in self._stores.values() for store in stores)

    def get(self, key: Hashable, rows: int, batches: Callable[[], Iterable[State]]) -> list[Tensor]:
        """Tensors (rows, ...) that the batches make up, one after the other.

        Raises:
            InputError: if there is no room for them on the disk.
        """
        if key not in self._stores:
            stores: list[Tensor] = []
            start = 0
            for batch in batches():
                stores = stores or self._room(batch, rows)
                for store, part in zip(stores, batch, strict=True):
                    store[start : start + len(part)] = part
                start += len(batch[0])
            self._stores[key] = stores
        return self._stores[key]

    def _room(self, batch: State, rows: int) -> list[Tensor]:
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
        stores = []
        for i, (shape, size, part) in enumerate(zip(shapes, sizes, batch, strict=True)):
            file = folder / str(i)
            if not _take_room(file, size):
                raise no_room
            count = int(np.prod(shape))
            mapped = torch.from_file(str(file), shared=True, size=count, dtype=part.dtype)
            stores.append(mapped.view(shape))
        return stores


def _take_room(file: Path, size: int) -> bool:
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
