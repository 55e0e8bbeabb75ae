"""Embed any number of images, and write their features, in parts as predictions are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from medept.data.cases import Item, sizes_of
from medept.data.find_images import FoundImages
from medept.files import whole_file, write_tables
from medept.progress import Progress, silent
from medept.training.inference import Unreadable
from medept.workflows.parts import (
    ROWS,
    UNREADABLE,
    Parts,
    Written,
    key_of,
    rows_of_parts,
    write_parts,
)
from medept.workflows.predict import BLACK, opened_items, refuse_output

Encode = Callable[[Sequence[Item], Progress, Unreadable | None], np.ndarray]
"""Images to features (n, D): NaN for those that it adds to ``Unreadable``, if that is given."""


def embed(
    encode: Encode,
    found: FoundImages,
    out: Path,
    *,
    identity: str,
    skip_unreadable: bool = False,
    part_rows: int = ROWS,
    progress: Progress = silent,
) -> Written:
    """Features of each image, written to ``out``.

    Args:
        encode: images to features (n, D).
        found: n images.
        out: a new file, .npy (n, D), or .csv or .parquet with the images' names; or a folder of
            Parquet files.
        identity: all that the features depend on, but for the images.
        skip_unreadable: an image that cannot be read has a row of NaN, and tables say why in the
            column ``unreadable``.
        part_rows: images that are computed before they are written.
        progress: called with ``"reading"``, the images done, and all of them.

    Raises:
        InputError: if ``out`` has another suffix or exists, or an image that is not skipped, or
            every one, cannot be read.
    """
    refuse_output(out, "features", ".npy", ".csv", ".parquet", "")
    rows = rows_of_parts(found, part_rows)
    identity = repr((identity, skip_unreadable))
    output = Parts(out, [key_of(found.subset(each), identity) for each in rows])

    def work(each: Sequence[int], report: Progress) -> list[pd.DataFrame]:
        return [_table(encode, found.subset(each), skip_unreadable, report)]

    write = partial(_write_npy, len(found)) if out.suffix == ".npy" else write_tables
    return write_parts([output], rows, work, progress, write=write)


def _table(
    encode: Encode, found: FoundImages, skip_unreadable: bool, progress: Progress
) -> pd.DataFrame:
    """The names, features and problems of a part's images."""
    opened, problems = opened_items(found, None, skip_unreadable)
    items = [opened.get(row, BLACK) for row in range(len(found))]
    unread: Unreadable = {}
    features = encode(items, progress, unread if skip_unreadable else None)
    owners = np.repeat(np.arange(len(items)), sizes_of(items))
    for number, error in sorted(unread.items()):
        problems.setdefault(int(owners[number]), error)
    features[list(problems)] = np.nan
    table = pd.DataFrame(features, columns=[f"f{i}" for i in range(features.shape[1])])
    table.insert(0, "image", found.names)
    if skip_unreadable:
        table[UNREADABLE] = [str(problems.get(row, "")) for row in range(len(items))]
    return table


def _write_npy(rows: int, file: Path, tables: Iterator[pd.DataFrame]) -> None:
    """An array of all features, of which one part is in memory at a time."""
    with whole_file(file) as partial_file:
        done = 0
        for table in tables:
            features = table.filter(regex=r"^f\d+$").to_numpy(dtype=np.float32)
            if not done:
                shape = (rows, features.shape[1])
                array = np.lib.format.open_memmap(partial_file, "w+", np.float32, shape)
            array[done : done + len(features)] = features
            done += len(features)
        array.flush()
