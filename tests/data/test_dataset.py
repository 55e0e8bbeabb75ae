"""Data sets as users give them: what is understood, and what is refused, with the row."""

from __future__ import annotations

import csv
import shutil
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from helpers import read_csv, shared_data
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medept import InputError
from medept.data.dataset import read_dataset


def test_one_label_column(folder: Path) -> None:
    data = read_csv(folder, "image,label,patient\na.png,y,p1\nb.png,x,p2\nc.png,y,p1\n")
    assert (data.classes, data.targets.tolist()) == (("x", "y"), [1, 0, 1])
    assert data.groups is not None
    assert data.groups.tolist() == ["p1", "p2", "p1"]
    assert (data.task, data.names) == ("multiclass", ("a.png", "b.png", "c.png"))
    assert data.images[0] == folder / "a.png"


BAD = {
    "row without label": ("image,label\na.png,x\nb.png,\n", "row 3: no label"),
    "row without image": ("image,label\n,x\nb.png,y\n", "row 2: column 'image' is empty"),
    "no image column": ("picture,label\na.png,x\nb.png,y\n", "image_column="),
    "no label column": ("image,age\na.png,50\nb.png,51\n", "label_column="),
    "one class": ("image,label\na.png,x\nb.png,x\n", "only label is x"),
    "header alone": ("image,label\n", "no rows"),
    "empty file": ("", "cannot be read"),
    "too many cells": ("image,label\na.png,x\nb.png,y,z,w\n", "row 3: 4 cells, but the header"),
    "too few cells": ("image,label\na.png,x\nb.png\n", "row 3: 1 cells, but the header has 2"),
    "open quote": ('image,label\na.png,x\n"b.png,y\n', "cannot be read as a table"),
    "nan as label": ("image,label\na.png,x\nb.png,nan\n", "row 3: no label"),
    "NA as label": ("image,label\na.png,x\nb.png,NA\n", "row 3: no label .*'NA' stands for none"),
    "measurements": ("image,label\na.png,0.5\nb.png,3\n", "labels such as 0.5 are measurements"),
    "what Excel writes for an error": ("image,label\na.png,x\nb.png,#N/A\n", "row 3: no label"),
    "no group": ("image,label,patient\na.png,x,p\nb.png,y,\n", "row 3: column 'patient' is empty"),
    "long name": ("image,label\na.png,x\n" + "b" * 300 + ".png,y\n", "row 3: .*not a usable file"),
    "folder as image": ("image,label\na.png,x\nsub,y\n", "1 of 2 images are missing: sub"),
    "repeated by detour": ("image,label\na.png,x\nsub/../a.png,x\n", "rows 2 and 3: the same"),
    "label that is a number and a formula": ("image,label\na.png,-1+2\nb.png,y\n", "formula"),
    "every class empty": ("image,label\na.png,|\nb.png,|\n", "only label is none"),
    "missing images": ("image,label\na.png,x\nzz.png,y\n", r"1 of 2 images are missing: zz.png"),
    "parent folder": ("image,label\na.png,x\n../b.png,y\n", "row 3: ../b.png leads out"),
    "absolute path": ("image,label\na.png,x\n/etc/passwd,y\n", "row 3: /etc/passwd leads out"),
    "null byte": ("image,label\na.png,x\nb\0.png,y\n", "t.csv"),
    "repeated image": ("image,label\na.png,x\nb.png,y\na.png,y\n", "rows 2 and 4: the same image"),
    "unknown split": ("image,label,split\na.png,x,train\nb.png,y,tset\n", "row 3: unknown split"),
    "formula as label": ("image,label\na.png,=cmd()\nb.png,y\n", "formula"),
    "control character": ("image,label\na.png,x\x07\nb.png,y\n", "control character"),
    "two columns of one name": ("image,label,label\na.png,x,x\nb.png,y,y\n", r"label"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_bad_tables(folder: Path, kind: str) -> None:
    (folder / "sub").mkdir()
    text, message = BAD[kind]
    with pytest.raises(InputError, match=message) as caught:
        read_csv(folder, text)
    assert "t.csv" in str(caught.value)


def test_bad_sources(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing.csv: no such table or folder"):
        read_dataset(tmp_path / "nothing.csv")
    with pytest.raises(InputError, match="no subfolders"):
        read_dataset(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        read_dataset("x" * 5000)
    for name in ("Train", "test"):
        (tmp_path / name / "class").mkdir(parents=True)
    with pytest.raises(InputError, match="no image in this folder"):
        read_dataset(tmp_path)
    for name in ("Train", "test"):
        shutil.rmtree(tmp_path / name)
    (tmp_path / "empty_class").mkdir()
    with pytest.raises(InputError, match=r"empty_class: no image"):
        read_dataset(tmp_path)
    word = tmp_path / "t.docx"
    word.write_bytes(b"PK")
    with pytest.raises(InputError, match=r"must be \.csv"):
        read_dataset(word)
    latin = tmp_path / "latin.csv"
    latin.write_bytes("image,label\na.png,gr\xfcn\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin.csv: not UTF-8"):
        read_dataset(latin)
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 but not really")
    with pytest.raises(InputError, match=r"broken.parquet: cannot be read"):
        read_dataset(broken)


CELLS = st.text(max_size=5) | st.sampled_from(["a.png", "b.png", "", "1", "0.0", "x|y", "test"])


def _written(rows: list[tuple[str, str, str]]) -> bytes:
    file = StringIO()
    csv.writer(file).writerows([("image", "label", "split"), *rows])
    return file.getvalue().encode()


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None
)
@given(
    st.binary(max_size=200)
    | st.text(max_size=200).map(str.encode)
    | st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=6).map(_written)
)
def test_any_bytes_give_data_or_our_own_error(folder: Path, content: bytes) -> None:
    table = folder / "fuzzed.csv"
    table.write_bytes(content)
    try:
        read_dataset(table)
    except InputError as error:
        assert "fuzzed.csv" in str(error)  # noqa: PT017


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None
)
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=5))
def test_a_damaged_parquet_gives_data_or_our_own_error(
    folder: Path, changes: list[tuple[int, int]]
) -> None:
    table = folder / "fuzzed.parquet"
    pd.DataFrame({"image": ["a.png", "b.png"], "label": ["x", "y"]}).to_parquet(table)
    content = bytearray(table.read_bytes())
    for place, value in changes:
        content[place % len(content)] = value
    table.write_bytes(content)
    try:
        read_dataset(table)
    except InputError as error:
        assert "fuzzed.parquet" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("name", "images", "classes", "groups"),
    [("wbc", 300, 5, 300), ("brain-mri", 228, 2, 228), ("ham10000", 835, 7, None)],
)
def test_real_tables(name: str, images: int, classes: int, groups: int | None) -> None:
    data = read_dataset(shared_data("data", name, "labels.csv"))
    assert (len(data), len(data.classes), data.task) == (images, classes, "multiclass")
    assert (data.groups is None) == (groups is not None)
