"""Spreadsheets, written with another library, are read as the same table in CSV is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medept import InputError
from medept.data.dataset import read_dataset
from medept.data.table import read_table

openpyxl = pytest.importorskip("openpyxl")
pytest.importorskip("python_calamine")


def write(file: Path, *sheets: list[list[Any]]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for rows in sheets:
        sheet = book.create_sheet()
        for row in rows:
            sheet.append(row)
    book.save(file)
    return file


ROWS: list[list[Any]] = [["image", "label", "patient"], ["a.png", 1, "001"],
                         ["b.png", 2.0, "2"], ["c.png", 1, "002x"]]  # fmt: skip


def test_a_sheet_is_a_table(folder: Path) -> None:
    data = read_dataset(write(folder / "t.xlsx", ROWS, []))
    assert (data.classes, data.targets.tolist()) == (("1", "2"), [0, 1, 0])
    assert data.groups is not None
    assert data.groups.tolist() == ["001", "2", "002x"], "text keeps its zeros"


def test_rows_are_numbered_as_shown_and_empty_ones_left_out(folder: Path) -> None:
    rows = [[], ["", "image", "label", None], [], [None, "a.png", "x"], [None, "b.png", None]]
    with pytest.raises(InputError, match=r"t.xlsx, row 5: no label in column 'label'"):
        read_dataset(write(folder / "t.xlsx", rows))


def test_flags_may_be_booleans(folder: Path) -> None:
    rows = [["image", "mass", "fluid"], ["a.png", True, False], ["b.png", True, True]]
    assert read_dataset(write(folder / "t.xlsx", rows)).targets.tolist() == [[1, 0], [1, 1]]


def test_which_of_several_sheets_is_not_guessed(folder: Path) -> None:
    with pytest.raises(InputError, match=r"t.xlsx: 2 of its sheets hold cells .*; keep one"):
        read_dataset(write(folder / "t.xlsx", ROWS, ROWS))
    with pytest.raises(InputError, match=r"t.xlsx: 0 of its sheets hold cells"):
        read_dataset(write(folder / "t.xlsx", []))
    with pytest.raises(InputError, match=r"t.xlsx: no rows"):
        read_dataset(write(folder / "t.xlsx", ROWS[:1]))


def test_without_the_reader_the_remedy_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "python_calamine", None)
    with pytest.raises(InputError, match=r"medept\[excel\]"):
        read_dataset(write(folder / "t.xlsx", ROWS))


TEXTS = st.text(st.sampled_from("aé1 ,;"), max_size=3)
CELLS = TEXTS | st.integers(-9, 9) | st.booleans() | st.none()
ONE_FOLDER = [HealthCheck.function_scoped_fixture]


@settings(suppress_health_check=ONE_FOLDER, max_examples=30, deadline=None)
@given(st.lists(st.lists(CELLS, min_size=2, max_size=2), min_size=1, max_size=4))
def test_any_cells_are_read_as_they_are(tmp_path: Path, rows: list[list[Any]]) -> None:
    table = read_table(write(tmp_path / "t.xlsx", [["a", "b"], ["x", "y"], *rows]))
    for c, name in enumerate("ab"):
        cells = table.texts(name)
        for number, row in enumerate(rows, start=3):
            value = int(row[c]) if isinstance(row[c], bool) else row[c]
            assert cells.get(number, "") == ("" if value is None else str(value).strip())


@settings(suppress_health_check=ONE_FOLDER, max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=5))
def test_a_damaged_spreadsheet_gives_data_or_our_own_error(
    folder: Path, changes: list[tuple[int, int]]
) -> None:
    content = bytearray(write(folder / "fuzzed.xlsx", ROWS).read_bytes())
    for place, value in changes:
        content[place % len(content)] = value
    (folder / "fuzzed.xlsx").write_bytes(content)
    try:
        read_dataset(folder / "fuzzed.xlsx")
    except InputError as error:
        assert "fuzzed.xlsx" in str(error)  # noqa: PT017
