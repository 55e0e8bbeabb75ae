"""Tables as files: CSV in its variants, and Parquet."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from helpers import read_csv
from pyarrow import parquet

from medept import InputError
from medept.data.dataset import read_dataset


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_separators_and_byte_order_mark(folder: Path, separator: str) -> None:
    text = "\ufeffpath,diagnosis\na.png,x\nb.png,y\n".replace(",", separator)
    assert read_csv(folder, text).classes == ("x", "y")


def test_parquet_and_numeric_labels(folder: Path) -> None:
    table = folder / "t.parquet"
    pd.DataFrame({"image": ["a.png", "b.png", "c.png"], "label": [10.0, 9.0, 10.0]}).to_parquet(
        table
    )
    assert read_dataset(table).classes == ("9", "10")


def test_empty_lines_and_columns_do_not_matter(folder: Path) -> None:
    text = "\nimage;label;;\n\na.png;x;;\n;;;\nb.png;y;;\n"
    assert read_csv(folder, text).targets.tolist() == [0, 1]
    with pytest.raises(InputError, match="row 6: no label"):
        read_csv(folder, text.replace(";y;", ";;"))


@pytest.mark.parametrize("cells", [[b"RIFF", b"RIFF"], [["a.png"], ["b.png", "c.png"]]])
def test_images_inside_of_a_table_are_refused(folder: Path, cells: list[object]) -> None:
    table = folder / "t.parquet"
    pd.DataFrame({"image": cells, "label": ["x", "y"]}).to_parquet(table)
    with pytest.raises(InputError, match=r"t.parquet, row 2: column 'image' holds .*save images"):
        read_dataset(table)


def test_parquet_with_damaged_text_is_refused(folder: Path) -> None:
    cells = pa.array([b"\xaa\xff", b"y"], pa.binary()).view(pa.string())
    parquet.write_table(
        pa.table({"image": ["a.png", "b.png"], "label": cells}), folder / "t.parquet"
    )
    with pytest.raises(InputError, match=r"t.parquet: .*; save it again"):
        read_dataset(folder / "t.parquet")
