"""The cells of a spreadsheet: Excel's and OpenDocument's."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from medept.errors import DataError, ResourceError

SPREADSHEET_SUFFIXES = (".xlsx", ".xlsm", ".xls", ".ods")


def read_spreadsheet(path: Path) -> pd.DataFrame:
    """The cells of the only sheet that holds any, with the row numbers that a spreadsheet shows.

    A cell with a formula holds its value when the file was saved.

    Raises:
        DataError: if several sheets hold cells, or none does.
        ResourceError: if python-calamine is missing.
    """
    try:
        import python_calamine  # noqa: F401
    except ImportError as error:
        raise ResourceError(
            f"{path}: spreadsheets need python-calamine: pip install 'medept[excel]'; or save it "
            "as CSV UTF-8"
        ) from error
    sheets = pd.read_excel(
        path, sheet_name=None, header=None, dtype=object, keep_default_na=False, engine="calamine"
    )
    filled = {name: rows for name, sheet in sheets.items() if len(rows := _without_empty(sheet))}
    if len(filled) != 1:
        raise DataError(
            f"{path}: {len(filled)} of its sheets hold cells ({', '.join(filled) or 'none'}); keep "
            "one, or save the one with the images as CSV UTF-8"
        )
    (rows,) = filled.values()
    frame = rows.iloc[1:].set_axis(rows.index[1:] + 1, axis="index")
    frame.columns = pd.Index(["" if cell is None else str(cell) for cell in rows.iloc[0]])
    return frame.loc[:, [bool(name.strip()) or _has_cells(frame.iloc[:, c])
                         for c, name in enumerate(frame.columns)]]  # fmt: skip


def _without_empty(sheet: pd.DataFrame) -> pd.DataFrame:
    return sheet.loc[[_has_cells(row) for _, row in sheet.iterrows()]]


def _has_cells(cells: pd.Series) -> bool:
    return any(not pd.isna(cell) and str(cell).strip() != "" for cell in cells)
