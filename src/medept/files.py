"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from medept.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


@contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """A temporary path beside ``file`` that becomes it when the block ends well."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".partial-{file.name}")
    try:
        yield partial
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``folder`` when the block ends well.

    Raises:
        InputError: if ``folder`` is there already and is not an empty folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: exists already; name another or remove it")
    partial = folder.with_name(f".partial-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if folder.exists():
            folder.rmdir()
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text(file: Path, text: str) -> None:
    """Write a whole text file, or nothing."""
    with whole_file(file) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def write_table(file: Path, table: pd.DataFrame) -> None:
    """Write a whole CSV (or, by its suffix, Parquet) file, or nothing."""
    with whole_file(file) as partial:
        if file.suffix == ".parquet":
            table.to_parquet(partial, index=False)
        else:
            table.to_csv(partial, index=False, float_format="%.6g", lineterminator="\n")
