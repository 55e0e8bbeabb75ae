"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medept.errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

PARTIAL = ".partial-"
"""Before the name of what is not yet whole."""

WRITER = ".writer"
"""In a folder that is not yet whole: the number of the process that writes it."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a cell begins with that a spreadsheet may run (OWASP's list)."""

_NUMBER = re.compile(r"[+-]?[0-9]*\.?[0-9]+(e[+-]?[0-9]+)?", re.IGNORECASE)


@contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """A temporary path beside ``file`` that becomes it when the block ends well.

    Raises:
        InputError: if ``file`` is a folder, or below a file.
        OSError: that names ``file``, if it cannot be written.
    """
    if file.is_dir():
        raise DataError(f"{file}: a folder; name a file to write")
    _make_folder(file.parent)
    partial = file.with_name(f"{PARTIAL}{file.name}")
    try:
        with _naming(file):
            yield partial
            partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``folder`` when the block ends well.

    Raises:
        InputError: if ``folder`` is there already and is not an empty folder, is below a file, or
            is being written by another process.
        OSError: that names a file or ``folder``, if something cannot be written.
    """
    refuse_folder(folder)
    partial = folder.with_name(f"{PARTIAL}{folder.name}")
    writer = partial / WRITER
    if writer.exists() and _runs_elsewhere(writer.read_text(encoding="utf-8")):
        raise DataError(
            f"{folder}: is being written by another medept; wait for it, name another folder, or "
            f"remove {partial} if there is none"
        )
    shutil.rmtree(partial, ignore_errors=True)
    _make_folder(partial)
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


def refuse_folder(folder: Path) -> None:
    """Before long work: what :func:`whole_folder` would refuse after it.

    Raises:
        InputError: if ``folder`` is there already and is not an empty folder.
    """
    if _is_taken(folder):
        raise DataError(
            f"{folder}: exists already and is not an empty folder; name another or remove it"
        )
    if not folder.name:
        raise DataError(f"{folder}: name a new folder to write")


def _is_taken(folder: Path) -> bool:
    """Whether there is something of that name, and it is no empty folder."""
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def _runs_elsewhere(process: str) -> bool:
    """Whether a process of that number is there, and is another than this."""
    import psutil

    return process.isdecimal() and int(process) != os.getpid() and psutil.pid_exists(int(process))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """An error of the system that names no file names this one."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def _make_folder(folder: Path) -> None:
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
    """Mark a folder as one of what ``content`` says, in a file named ``mark``.

    Raises:
        InputError: that it holds ``other``, if it is marked differently, or is not empty.
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
    from safetensors.torch import save  # its save_file makes files that others may not read

    on_cpu = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    with whole_file(file) as partial:
        partial.write_bytes(save(on_cpu, metadata))


def write_table(file: Path, table: pd.DataFrame) -> None:
    """Write a whole CSV (or, by its suffix, Parquet) file, or nothing."""
    with whole_file(file) as partial:
        if file.suffix == ".parquet":
            table.to_parquet(partial, index=False)
        else:
            harmless = table.apply(_harmless)
            harmless.to_csv(partial, index=False, float_format="%.6g", lineterminator="\n")


def read_written(file: Path) -> pd.DataFrame:
    """A CSV file of :func:`write_table`: every cell as text, and as it was given.

    Raises:
        OSError, ValueError: if it is missing or damaged.
    """
    import pandas as pd

    return pd.read_csv(file, dtype=str, keep_default_na=False).map(as_given)


def as_given(cell: str) -> str:
    """A cell as it was before :func:`write_table` made it harmless."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA) else cell


def _harmless(column: pd.Series) -> pd.Series:
    """The column with no cell that a spreadsheet would run as a formula.

    Such a cell gets an apostrophe before it, or, where it names an image, ``./``, so that it
    remains a path. Numbers stay as they are.
    """
    before = "./" if column.name == "image" else "'"

    def cell(value: Any) -> Any:
        if not isinstance(value, str) or not value.startswith(_FORMULA):
            return value
        return value if _NUMBER.fullmatch(value) else before + value

    return column.map(cell) if column.dtype == object or column.dtype == "str" else column
