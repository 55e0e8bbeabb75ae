"""What each step of training is fed: as much as possible computed once, kept, and read again.

Of every random view are kept: its features, where the method trains a head alone; what enters the
first thing that training changes (:mod:`medept.training.prefix`); or its pixels. They are in
memory, or in a file where they are large, and are gone when the fit ends; the folds of one fit
share them.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from medept.encoders import fingerprint
from medept.errors import InputError
from medept.methods import AdaptedEncoder
from medept.training.prefix import find_prefix
from medept.training.recipes import Recipe
from medept.training.views import Views

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)

IN_MEMORY = 2**31
"""Bytes that are kept in memory; beyond them they are in a temporary file."""

State = Sequence[Tensor]
"""What the model goes on from: tensors (B, ...)."""

Encode = Callable[[Callable[[Tensor], State], int], Iterator[State]]
"""Applies a function to the first so many views of every image of the whole set, in batches."""


class Kept:
    """What was computed once, by what determines it; a context, at whose end files are removed."""

    def __init__(self) -> None:
        self.fits = 1
        """That read it, one after the other."""
        self._files = ExitStack()
        self._stores: dict[Hashable, list[Tensor]] = {}

    def __enter__(self) -> Kept:
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
        no_room = InputError(
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


@dataclass(frozen=True)
class Plan:
    """What is kept of each view, and how the model goes on from it.

    Attributes:
        what: its name among what other fits keep.
        keep: pixels (B, 3, H, W) -> what is kept; None where no view is seen twice.
        resumed: a context in which the model goes on from it; gives a function from what was kept
            (or from the pixels, where nothing was) to what the model is called with.
    """

    what: Hashable
    keep: Callable[[Tensor], State] | None
    resumed: Callable[[], AbstractContextManager[Callable[[State], Tensor]]]


def make_plan(
    model: AdaptedEncoder, recipe: Recipe, accelerator: Accelerator, fits: int = 1
) -> Plan:
    """As much as the method leaves unchanged, where it is needed more than once.

    Views that a fit sees once are kept for other ``fits`` if whole blocks are saved thereby.
    """

    def as_it_is() -> AbstractContextManager[Callable[[State], Tensor]]:
        return nullcontext(lambda state: state[0])

    if not model.trains_encoder:
        by = (model.name, model.settings.model_dump_json()) if model.alters_features else ()
        return Plan(
            ("features", *by, fingerprint(model.inserted_state())),
            lambda pixels: [model.encoder(pixels)],
            as_it_is,
        )
    again = recipe.views < recipe.epochs
    prefix = None
    if again or (fits > 1 and model.first_changed_block()):
        with accelerator.autocast():
            prefix = find_prefix(model)
    if prefix is not None:
        what = ("state", model.first_changed_block(), model.first_changed_prompt() is not None)
        return Plan(what, prefix.encode, prefix.resumed)
    if again:
        return Plan("pixels", lambda pixels: [pixels], as_it_is)
    return Plan("nothing", None, as_it_is)


class Inputs:
    """What steps are fed, in two parts, of which the first may run in another thread."""

    def __init__(
        self, read: Callable[[int, Tensor], State], enter: Callable[[State], Tensor]
    ) -> None:
        self.read, self.enter = read, enter
        """A view's number and rows (B,) -> a state; a state -> what the model is called with."""


@contextmanager
def open_inputs(
    model: AdaptedEncoder,
    views: Views,
    recipe: Recipe,
    accelerator: Accelerator,
    kept: Kept,
    encode: Encode,
) -> Iterator[Inputs]:
    """What steps are fed. The encoder goes on from what is kept while this is open."""
    plan = make_plan(model, recipe, accelerator, kept.fits)
    count = min(recipe.views, recipe.epochs)

    def drawn(view: int, rows: Tensor) -> State:
        return [views.random_batch(rows, view)]

    def stored(keep: Callable[[Tensor], State]) -> Callable[[int, Tensor], State]:
        frozen = (model.encoder_identity["sha256"], accelerator.mixed_precision, views.seed)
        key = (plan.what, count, recipe.crop_scale, *frozen)
        stores = kept.get(key, count * views.total, lambda: encode(keep, count))
        return lambda view, rows: [s[count * views.numbers[rows] + view] for s in stores]

    read = stored(plan.keep) if plan.keep else drawn
    with plan.resumed() as feed:
        yield Inputs(read, lambda state: feed([part.to(accelerator.device) for part in state]))
