"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medept.errors import DataError, ResourceError

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

PARTIAL = ".partial-"
"""The prefix of the name of a file or folder that is still being written."""

WRITER = ".writer"
"""The file in a folder that is still being written which holds the id of the writing process."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters of cells that a spreadsheet may run as formulas (OWASP's list)."""

_NUMBER = re.compile(r"[+-]?[0-9]*\.?[0-9]+(e[+-]?[0-9]+)?", re.IGNORECASE)


@contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """A temporary path beside ``file``, which is renamed to it if the block ends without error.

    Raises:
        DataError: if ``file`` is a folder, or part of its path is a file.
        OSError: if it cannot be written; the error names ``file``.

    >>> with whole_file(Path("result.txt")) as partial:
    ...     _ = partial.write_text("done")
    >>> Path("result.txt").read_text()
    'done'
    """
    if file.is_dir():
        raise DataError(f"{file}: a folder; name a file to write")
    make_folder(file.parent)
    partial = file.with_name(f"{PARTIAL}{file.name}")
    try:
        with _naming(file):
            yield partial
            partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder, which is renamed to ``folder`` if the block ends without error.

    Raises:
        DataError: if ``folder`` exists and is not an empty folder, part of its path is a file, or
            another process is writing it.
        OSError: if something cannot be written; the error names a file or ``folder``.
    """
    require_new_folder(folder)
    partial = folder.with_name(f"{PARTIAL}{folder.name}")
    writer = partial / WRITER
    if writer.exists() and _runs_elsewhere(writer.read_text(encoding="utf-8")):
        raise DataError(
            f"{folder}: is being written by another medept process; wait for it, name another "
            f"folder, or, if none is running, remove {partial}"
        )
    shutil.rmtree(partial, ignore_errors=True)
    make_folder(partial)
    try:
        with _naming(folder):
            writer.write_text(str(os.getpid()), encoding="utf-8")
            yield partial
            writer.unlink()
            if folder.exists():
                folder.rmdir()
            partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def require_new_folder(folder: Path) -> None:
    """Check, before long work, that :func:`whole_folder` will be able to write ``folder``.

    Raises:
        DataError: if ``folder`` exists and is not an empty folder.
    """
    if _is_taken(folder):
        raise DataError(
            f"{folder}: exists already and is not an empty folder; name another or remove it"
        )
    if not folder.name:
        raise DataError(f"{folder}: name a new folder to write")


def _is_taken(folder: Path) -> bool:
    """Whether ``folder`` exists and is not an empty folder."""
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def _runs_elsewhere(process: str) -> bool:
    """Whether a process with that id is running, and is not this one."""
    import psutil

    return process.isdecimal() and int(process) != os.getpid() and psutil.pid_exists(int(process))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Make an ``OSError`` that names no file name this one."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def make_folder(folder: Path) -> None:
    """Make a folder, and those that it is in, if they are not there.

    Raises:
        DataError: if part of the path is a file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        shown = str(folder).replace(PARTIAL, "")
        raise DataError(f"{shown}: part of this path is a file; name another folder") from error


def write_text(file: Path, text: str) -> None:
    """Write a whole text file, or nothing."""
    with whole_file(file) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def claim_folder(folder: Path, mark: str, content: dict[str, Any], other: str) -> None:
    """Mark a folder, new or empty, as belonging to a kind of output that a later call may add to.

    Args:
        mark: name of the file in the folder that says so.
        content: what that file holds; a later call has to give the same.
        other: what the folder holds otherwise, for the message.

    Raises:
        DataError: if the folder has another mark, or has none and is not empty.
    """
    file, text = folder / mark, json.dumps(content)
    if file.exists() and file.read_text(encoding="utf-8") == text:
        return
    if _is_taken(folder):
        raise DataError(f"{folder}: holds {other}; name another folder")
    write_text(file, text)


def write_tensors(
    file: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write a whole safetensors file, or nothing."""
    from safetensors.torch import save  # files of its save_file are readable by their owner only

    on_cpu = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    with whole_file(file) as partial:
        partial.write_bytes(save(on_cpu, metadata))


def write_table(file: Path, table: pd.DataFrame) -> None:
    """Write a whole CSV (or, by its suffix, Parquet or Excel) file, or nothing."""
    if file.suffix != ".xlsx":
        write_tables(file, [table])
        return
    with whole_file(file) as partial:
        table.apply(_escape_formulas).to_excel(partial, index=False)


def write_tables(file: Path, tables: Iterable[pd.DataFrame]) -> None:
    """Write the rows of one or more tables with the same columns as one CSV or Parquet file."""
    with whole_file(file) as partial:
        if file.suffix == ".parquet":
            _write_parquet(partial, tables)
            return
        for i, table in enumerate(tables):
            table.apply(_escape_formulas).to_csv(
                partial, mode="a" if i else "w", header=i == 0, index=False,
                float_format="%.6g", lineterminator="\n",
            )  # fmt: skip


def _write_parquet(file: Path, tables: Iterable[pd.DataFrame]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rest = iter(tables)
    first = pa.Table.from_pandas(next(rest), preserve_index=False)
    with pq.ParquetWriter(file, first.schema) as writer:
        writer.write_table(first)
        for table in rest:
            writer.write_table(pa.Table.from_pandas(table, first.schema, preserve_index=False))


def append_table(file: Path, table: pd.DataFrame) -> None:
    """Append rows to a CSV file, which is made with a header if it is missing, and flush the disk.

    The rows are written by one call, whole or not at all; cells are those of :func:`write_table`.

    Raises:
        OSError: if they cannot be written; the file is then as it was.
    """
    escaped = table.apply(_escape_formulas)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab", buffering=0) as opened:
        size = opened.seek(0, os.SEEK_END)
        text = escaped.to_csv(index=False, header=size == 0, lineterminator="\n").encode()
        try:
            if opened.write(text) < len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
            os.fsync(opened.fileno())
        except OSError:
            opened.truncate(size)
            raise


def refuse_unreadable(file: Path, times: int = 10) -> None:
    """Refuse a file that would not fit into memory, and a pipe or a device, which may never end.

    Args:
        file: may be missing.
        times: how much more memory it takes than it has bytes, about; of text 10.

    Raises:
        DataError: if it is no file.
        ResourceError: if it is too large.
    """
    import psutil

    if not file.exists():
        return
    if not file.is_file():
        raise DataError(f"{file}: not a file; copy the adapter again")
    size, room = file.stat().st_size, psutil.virtual_memory().available
    if times * size > room:
        raise ResourceError(
            f"{file}: {size / 1e9:.1f} GB, and {room / 1e9:.1f} GB of memory are free; an adapter "
            "takes kilobytes to megabytes, so copy it again"
        )


def read_csv(file: Path) -> pd.DataFrame:
    """Read a CSV file that :func:`write_table` wrote: every cell as text, and as it was given.

    Raises:
        OSError, ValueError: if it is missing or damaged.

    >>> import pandas as pd
    >>> write_table(Path("patients.csv"), pd.DataFrame({"patient": ["=1+1", "P02"]}))
    >>> Path("patients.csv").read_text().split()
    ['patient', "'=1+1", 'P02']
    >>> read_csv(Path("patients.csv"))["patient"].tolist()
    ['=1+1', 'P02']
    """
    import pandas as pd

    return pd.read_csv(file, dtype=str, keep_default_na=False).map(unescape_cell)


def unescape_cell(cell: str) -> str:
    """A cell as it was before :func:`write_table` escaped it."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA) else cell


def _escape_formulas(column: pd.Series) -> pd.Series:
    """The column without cells that a spreadsheet would run as formulas.

    Such a cell gets an apostrophe as prefix, or ``./`` if it names an image, so that it remains a
    path. Numbers stay as they are.
    """
    prefix = "./" if column.name == "image" else "'"

    def cell(value: Any) -> Any:
        if not isinstance(value, str) or not value.startswith(_FORMULA):
            return value
        return value if _NUMBER.fullmatch(value) else prefix + value

    return column.map(cell) if column.dtype == object or column.dtype == "str" else column
