"""Image lists are read as they were written, whatever the names."""

from __future__ import annotations

import tempfile
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medept import InputError
from medept.data.image_lists import read_list, write_list

NAMES = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "Zs")), min_size=1).filter(
    lambda name: name == name.strip() and len(name.splitlines()) == 1
)


@settings(max_examples=50)
@given(st.lists(st.tuples(NAMES, st.integers(0, 2)), min_size=1, max_size=5), st.booleans())
def test_a_list_is_read_as_it_was_written(rows: list[tuple[str, int]], multilabel: bool) -> None:
    targets = np.array([target for _, target in rows])
    if multilabel:
        targets = np.eye(3, dtype=np.uint8)[targets]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "list.txt"
        write_list(file, [name for name, _ in rows], targets)
        read = read_list(file, ("a", "b", "c"), multilabel=multilabel)
    assert list(read) == list(range(1, len(rows) + 1))
    normal = [normalize("NFC", name) for name, _ in rows]
    assert [name for name, _ in read.values()] == normal
    assert np.array_equal([target for _, target in read.values()], targets)


@pytest.mark.parametrize("name", ["two\nlines.png", " space.png", "space.png "])
def test_a_name_that_could_not_be_read_again_is_not_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="one line, without spaces at its ends"):
        write_list(tmp_path / "list.txt", [name], np.array([0]))
    assert not list(tmp_path.iterdir())
