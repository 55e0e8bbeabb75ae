"""Files and folders appear whole or not at all, and tables hold nothing that a spreadsheet runs."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medept import InputError
from medept.files import (
    claim_folder,
    read_csv,
    require_new_folder,
    whole_file,
    whole_folder,
    write_table,
)


def test_a_file_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / "new" / "result.txt"
    with whole_file(file) as partial:
        partial.write_text("old")
    with suppress(RuntimeError), whole_file(file) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert file.read_text() == "old"
    assert list(file.parent.iterdir()) == [file]


def test_a_folder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with suppress(RuntimeError), whole_folder(tmp_path / "out") as partial:
        (partial / "half.txt").write_text("half")
        assert not (tmp_path / "out").exists()
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with whole_folder(tmp_path / "out") as partial:
        (partial / "whole.txt").write_text("whole")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["whole.txt"]


def test_what_is_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    require_new_folder(tmp_path / "folder")
    (tmp_path / "folder" / "notes").write_text("mine")
    with pytest.raises(InputError, match="folder: exists already and is not an empty folder"):
        require_new_folder(tmp_path / "folder")
    with (
        pytest.raises(InputError, match="folder: a folder; name a file"),
        whole_file(tmp_path / "folder"),
    ):
        pass
    with (
        pytest.raises(InputError, match="part of this path is a file"),
        whole_folder(tmp_path / "file" / "out"),
    ):
        pass


def test_an_error_of_the_system_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space") as caught, whole_file(tmp_path / "result.txt"):
        raise OSError(28, "No space left on device")
    assert caught.value.filename == str(tmp_path / "result.txt")


def test_a_folder_is_claimed_once(tmp_path: Path) -> None:
    claim_folder(tmp_path / "out", "mark.json", {"pixels": 10}, "other copies")
    claim_folder(tmp_path / "out", "mark.json", {"pixels": 10}, "other copies")
    with pytest.raises(InputError, match="out: holds other copies; name another folder"):
        claim_folder(tmp_path / "out", "mark.json", {"pixels": 20}, "other copies")


CELLS = st.text(st.characters(codec="utf-8", exclude_categories=("C",)), max_size=6) | (
    st.sampled_from(["=1+1", "+5", "-1.5", "@x", "-P01", "1e5"])
)


@settings(max_examples=100)
@given(st.lists(CELLS.filter(lambda text: not text.startswith("'")), min_size=1))
def test_a_table_is_read_as_it_was_written_and_runs_nothing(cells: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "table.csv"
        write_table(file, pd.DataFrame({"group": cells, "row": range(len(cells))}))
        written = pd.read_csv(file, dtype=str, keep_default_na=False)["group"]
        assert read_csv(file)["group"].tolist() == cells
    for text in written:
        if text.startswith(("=", "+", "-", "@")):
            float(text)  # a number is no formula
