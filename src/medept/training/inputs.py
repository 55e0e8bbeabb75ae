"""What each step of training is fed: as much as possible computed once, kept, and read again.

Of every random view are kept: its features, where the method trains a head alone; the tokens that
enter the first block that training changes (:mod:`medept.training.prefix`); or its pixels. They
are in memory, or in a file where they are large, and are gone when training ends.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

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

Feed = Callable[[int, Tensor], Tensor]
"""A view's number and rows (B,) -> what the model is called with."""

Encode = Callable[[Callable[[Tensor], Tensor], int], Iterator[Tensor]]
"""Applies a function to the first so many views of every image, in batches."""


@contextmanager
def open_inputs(
    model: AdaptedEncoder, views: Views, recipe: Recipe, accelerator: Accelerator, encode: Encode
) -> Iterator[Feed]:
    """What steps are fed. The encoder goes on from stored tokens while this is open."""
    count, device = min(recipe.views, recipe.epochs), accelerator.device
    with ExitStack() as stack:
        if not model.trains_encoder:
            features = _keep(encode(model.encoder, count), count, len(views), stack)
            yield lambda view, rows: features(view, rows).to(device)
        elif count == recipe.epochs:  # no view is seen twice
            yield lambda view, rows: torch.stack([views.random(i, view) for i in rows.tolist()]).to(
                device
            )
        elif prefix := find_prefix(model):
            tokens = _keep(encode(prefix.encode, count), count, len(views), stack)
            feed = stack.enter_context(prefix.resumed())
            yield lambda view, rows: feed(tokens(view, rows).to(device))
        else:
            pixels = _keep(encode(lambda x: x, count), count, len(views), stack)
            yield lambda view, rows: pixels(view, rows).to(device)


def _keep(batches: Iterable[Tensor], views: int, images: int, stack: ExitStack) -> Feed:
    """Store batches (B, ...), one after the other, of every view of every image.

    Raises:
        InputError: if there is no room for them on the disk.
    """
    store: np.ndarray | None = None
    start = 0
    for batch in batches:
        if store is None:
            store = _room((views * images, *batch.shape[1:]), stack)
        store[start : start + len(batch)] = batch.float().cpu().numpy()
        start += len(batch)
    if store is None:
        raise InputError("there are no images to train on")
    rows_of = store.reshape(views, images, *store.shape[1:])
    return lambda view, rows: torch.from_numpy(rows_of[view][rows.numpy()])


def _room(shape: tuple[int, ...], stack: ExitStack) -> np.ndarray:
    size = 4 * int(np.prod(shape))
    if size <= IN_MEMORY:
        return np.empty(shape, dtype=np.float32)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="medept-")))
    if size > shutil.disk_usage(folder).free:
        raise InputError(
            f"{size / 1e9:.1f} GB of encoded views do not fit into {folder.parent}: take fewer "
            "images or views, or set TMPDIR to a folder with more room"
        )
    logger.info("encoded views take %.1f GB in a temporary file", size / 1e9)
    return np.lib.format.open_memmap(folder / "views.npy", mode="w+", dtype=np.float32, shape=shape)
