"""A table as its file holds it: cells as text, with the row numbers that a spreadsheet shows."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pandas as pd

from medept.data.exports import EXPORT_SUFFIXES, read_export, recognise_table
from medept.data.spelling import clean
from medept.data.spreadsheet import SPREADSHEET_SUFFIXES, read_spreadsheet
from medept.errors import DataError, InputError
from medept.files import unescape_cell

TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", *SPREADSHEET_SUFFIXES, *EXPORT_SUFFIXES)


@dataclass(frozen=True)
class Table:
    """The cells of a table.

    Attributes:
        path: the file it was read from.
        frame: the cells; the index holds the row numbers (the header is row 1).
    """

    path: Path
    frame: pd.DataFrame

    @property
    def rows(self) -> list[int]:
        """Row numbers, as a spreadsheet shows them."""
        return self.frame.index.tolist()

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in NFC and without spaces at their ends."""
        return list(self.frame.columns)

    def texts(self, column: str) -> dict[int, str]:
        """The cells of a column as text in NFC, by row number; empty cells are ``""``.

        Raises:
            DataError: if a cell holds a file or a list.
        """
        texts = {}
        for row, value in zip(self.rows, self.frame[column], strict=True):
            if isinstance(value, bytes) or not pd.api.types.is_scalar(value):
                raise DataError(
                    f"{self.path}, row {row}: column {column!r} holds {type(value).__name__}, not "
                    "text or numbers; save images as files, and name another column or their "
                    "paths in this one"
                )
            texts[row] = _text(value)
        return texts

    def filled(self, column: str) -> dict[int, str]:
        """The cells of a column that may have no empty ones, as text, by row number.

        Raises:
            DataError: if a cell is empty, or holds a file or a list.
        """
        texts = self.texts(column)
        for row, text in texts.items():
            if not text:
                raise DataError(f"{self.path}, row {row}: column {column!r} is empty; fill it in")
        return texts


def _text(value: Any) -> str:
    if pd.isna(value):
        return ""
    text = str(int(value) if isinstance(value, bool | np.bool_) else value)
    return clean(unescape_cell(text))


def read_table(path: Path) -> Table:
    """Read a table: CSV (with commas, semicolons or tabs), Parquet, a spreadsheet or an export.

    Exports are those of :mod:`medept.data.exports`.

    Raises:
        DataError: if it cannot be read, has no rows, or has two columns of the same name.
        ResourceError: if it is a spreadsheet, and python-calamine is missing.

    >>> _ = Path("labels.csv").write_text("image;label\\na.png;benign\\n")
    >>> table = read_table(Path("labels.csv"))
    >>> table.columns, table.texts("label")
    (['image', 'label'], {2: 'benign'})
    """
    suffix = path.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise DataError(f"{path}: a table must be .csv, .tsv, .parquet or .xlsx; save it as one")
    try:
        if suffix in SPREADSHEET_SUFFIXES:
            frame = read_spreadsheet(path)
        elif suffix in EXPORT_SUFFIXES:
            frame = read_export(path)
        else:
            frame = _read_parquet(path) if suffix == ".parquet" else _read_csv(path)
    except InputError:
        raise
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 text; save it again, as 'CSV UTF-8' or as Parquet"
        ) from error
    except Exception as error:  # a damaged Parquet file may raise anything
        raise DataError(f"{path}: cannot be read as a table ({error}); save it again") from error
    frame.columns = [clean(str(name)) for name in frame.columns]
    if frame.empty:
        raise DataError(f"{path}: no rows; the table needs one row per image")
    repeated = frame.columns[frame.columns.duplicated()]
    if len(repeated):
        raise DataError(f"{path}: two columns are named {repeated[0]!r}; rename one")
    return Table(path, recognise_table(path, frame))


def _read_parquet(path: Path) -> pd.DataFrame:
    table = pd.read_parquet(path).astype(object)  # decodes all text: damage is found here
    return table.set_axis(pd.RangeIndex(2, len(table) + 2), axis="index")


def _find_separator(file: TextIO) -> str:
    """What separates cells, by a line ``sep=;``, after which the file stands, or by the header.

    A separator inside quotes counts as text.
    """
    for line in iter(file.readline, ""):
        if told := re.fullmatch(r'"?sep=([,;\t|])"?[,;\s]*', line, re.IGNORECASE):
            return told[1]
        if line.strip():
            file.seek(0)
            header = re.sub('"(?:[^"]|"")*("|$)', "", line)
            return max(",;\t", key=header.count)
    return ","


def _read_csv(path: Path) -> pd.DataFrame:
    with path.open(encoding="utf-8-sig", newline="") as file:
        separator = _find_separator(file)
        numbered = enumerate(csv.reader(file, delimiter=separator, strict=True), start=1)
        rows = {row: cells for row, cells in numbered if any(cell.strip() for cell in cells)}
    if not rows:
        raise DataError(f"{path}: cannot be read as a table (it is empty); give a header and rows")
    header = rows.pop(next(iter(rows)))
    for row, cells in rows.items():
        if len(cells) != len(header):
            raise DataError(
                f"{path}, row {row}: {len(cells)} cells, but the header has {len(header)}; "
                "add or remove separators, or quote a cell that holds one"
            )
    table = pd.DataFrame(list(rows.values()), index=list(rows), columns=header, dtype=object)
    used = [bool(name.strip()) or table.iloc[:, c].any() for c, name in enumerate(header)]
    return table.loc[:, used]
