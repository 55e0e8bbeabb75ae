"""A long table that is computed in parts, which a later call finds and goes on from.

Each part is a Parquet file whose name ends in a hash of all that it depends on. Where the files of
images, the adapter or an option have changed since, the name is another, and the part is computed
again.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from medept.data.cases import rows_of_cases
from medept.data.dicom.files import split_frame
from medept.data.find_images import FoundImages
from medept.errors import DataError
from medept.files import PARTIAL, make_folder, write_table, write_tables
from medept.progress import Progress

ROWS = 1024
"""Images of a part: what is computed again at most, and what is in memory at once."""

UNREADABLE = "unreadable"
"""The column that says why there is no result for a row; empty where there is one."""

Work = Callable[[Sequence[int], Progress], Iterable[pd.DataFrame]]
"""Computes the rows of a part, which is one table for each of the outputs."""


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        rows: one an image or case.
        unreadable: how many of them say that an image could not be read.
    """

    rows: int
    unreadable: int


def rows_of_parts(found: FoundImages, rows: int = ROWS) -> list[Sequence[int]]:
    """The rows of each part: ``rows``, or more where the last of its cases has more.

    Cases stay whole, in the order of their first images.
    """
    if found.cases is None:
        count = len(found)
        return [range(first, min(first + rows, count)) for first in range(0, count, rows)]
    parts: list[list[int]] = [[]]
    for case in rows_of_cases(found.cases).values():
        if len(parts[-1]) >= rows:
            parts.append([])
        parts[-1].extend(case)
    return list(parts)


def key_of(found: FoundImages, identity: str) -> str:
    """A hash of images (their names, places, sizes and times), of their table, and of the rest.

    Args:
        identity: all else that a part depends on.
    """
    key = hashlib.sha256(identity.encode())
    cases = [""] * len(found) if found.cases is None else found.cases.tolist()
    cells = found.table.itertuples(index=False, name=None)
    for image, name, case, row in zip(found.images, found.names, cases, cells, strict=True):
        try:
            status = split_frame(image)[0].stat()
            state = (status.st_size, status.st_mtime_ns)
        except OSError:
            state = (-1, 0)
        key.update(repr((str(image), name, case, row, state)).encode("utf-8", "backslashreplace"))
    key.update(repr(list(found.table.columns)).encode("utf-8", "backslashreplace"))
    return key.hexdigest()[:16]


class Parts:
    """The parts of one table: a folder that stays, or files to be joined.

    Args:
        out: a folder (a name without a suffix), or a file, whose parts lie beside it in
            ``.parts-NAME`` until it is written.
        keys: of each part, a hash of what it depends on.

    Raises:
        DataError: if the folder holds anything else.
    """

    def __init__(self, out: Path, keys: Sequence[str]) -> None:
        self.out = out
        self.folder = out.with_name(f".parts-{out.name}") if out.suffix else out
        names = [f"part-{i:06d}-{key}.parquet" for i, key in enumerate(keys)]
        self._files = [self.folder / name for name in names]
        if not out.suffix and out.is_dir():
            there = {file.name for file in out.iterdir() if not file.name.startswith(PARTIAL)}
            if foreign := sorted(there - set(names)):
                raise DataError(
                    f"{out}: holds other files ({foreign[0]}); if they are parts of an earlier "
                    "run, the images, the adapter or an option have changed since: name a new "
                    "folder"
                )

    def has(self, part: int) -> bool:
        """Whether a part is there."""
        return self._files[part].exists()

    def write(self, part: int, table: pd.DataFrame) -> None:
        """Keep a part, whole or not at all."""
        make_folder(self.out.parent)
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.out)) from error
        write_table(self._files[part], table)

    def read(self) -> Iterator[pd.DataFrame]:
        """All parts in their order, one after the other."""
        return map(pd.read_parquet, self._files)

    def finish(self, write: Callable[[Path, Iterator[pd.DataFrame]], None] = write_tables) -> None:
        """Write the file, and remove the parts; a folder stays as it is.

        Args:
            write: writes a file from all tables.
        """
        if self.out.suffix:
            write(self.out, self.read())
            self.remove()

    def remove(self) -> None:
        """Remove the parts."""
        shutil.rmtree(self.folder, ignore_errors=True)


def write_parts(
    outputs: Sequence[Parts],
    rows: Sequence[Sequence[int]],
    work: Work,
    progress: Progress,
    *,
    seen: Callable[[pd.DataFrame], object] = lambda table: None,
    write: Callable[[Path, Iterator[pd.DataFrame]], None] = write_tables,
) -> Written:
    """Compute the parts that are not there yet, and write the outputs.

    Args:
        outputs: one or more.
        rows: of each part.
        work: computes a part.
        progress: called with ``"reading"``, the rows done, and all of them.
        seen: called with each part's table for the first output, in their order.
        write: as for :meth:`Parts.finish`.

    Raises:
        DataError: if nothing could be read; then the parts of files are removed.
    """
    total, done = sum(map(len, rows)), 0
    progress("reading", 0, total)
    for number, each in enumerate(rows):
        if not all(output.has(number) for output in outputs):
            tables = work(each, _shifted(progress, done, len(each), total))
            for output, table in zip(outputs, tables, strict=True):
                output.write(number, table)
        done += len(each)
        progress("reading", done, total)
    written, without = Written(0, 0), 0
    for table in outputs[0].read():
        seen(table)
        bad = (table[UNREADABLE] != "").sum() if UNREADABLE in table else 0
        written = Written(written.rows + len(table), written.unreadable + int(bad))
        without += int(table.select_dtypes("float").isna().all(axis=1).sum())
    if without == written.rows:
        first = next(iter(outputs[0].read()))[UNREADABLE].iloc[0]
        for output in outputs:
            output.remove()
        raise DataError(f"none of the {without} images can be read; the first: {first}")
    for output in outputs:
        output.finish(write)
    return written


def _shifted(report: Progress, done: int, part: int, total: int) -> Progress:
    """Reports of a part as those of the whole: ``done`` rows come before its ``part`` rows."""

    def of_whole(what: str, count: int, of: int) -> None:
        report(what, done + count * part // of, total)

    return of_whole
