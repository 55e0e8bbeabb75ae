"""Tables and folders of labelled images: what is understood, and what is refused, with the row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import shared_data
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from medept import InputError
from medept.data.table import LabelledImages, read_dataset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "abcdef":
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    return tmp_path


def read(folder: Path, text: str, **options: object) -> LabelledImages:
    table = folder / "t.csv"
    table.write_text(text, encoding="utf-8")
    return read_dataset(table, **options)


def test_one_label_column(folder: Path) -> None:
    data = read(folder, "image,label,patient\na.png,y,p1\nb.png,x,p2\nc.png,y,p1\n")
    assert (data.classes, data.targets.tolist()) == (("x", "y"), [1, 0, 1])
    assert data.groups is not None
    assert data.groups.tolist() == ["p1", "p2", "p1"]
    assert (data.task, data.names) == ("multiclass", ("a.png", "b.png", "c.png"))
    assert data.images[0] == folder / "a.png"


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_separators_and_byte_order_mark(folder: Path, separator: str) -> None:
    text = "\ufeffpath,diagnosis\na.png,x\nb.png,y\n".replace(",", separator)
    assert read(folder, text).classes == ("x", "y")


def test_joined_labels_are_multi_label_and_may_be_empty(folder: Path) -> None:
    data = read(folder, "image,findings\na.png,mass|fluid\nb.png,\nc.png,mass\n")
    assert data.classes == ("fluid", "mass")
    assert data.targets.tolist() == [[1, 1], [0, 0], [0, 1]]


def test_columns_of_flags_named_or_found(folder: Path) -> None:
    text = "image,mass,fluid,age\na.png,1,0,50\nb.png,0,1,61\n"
    named = read(folder, text, label_column="fluid,mass")
    assert (named.classes, named.targets.tolist()) == (("fluid", "mass"), [[0, 1], [1, 0]])
    found = read(folder, text)
    assert found.classes == ("mass", "fluid")


def test_parquet_and_numeric_labels(folder: Path) -> None:
    table = folder / "t.parquet"
    pd.DataFrame({"image": ["a.png", "b.png", "c.png"], "label": [10.0, 9.0, 10.0]}).to_parquet(
        table
    )
    assert read_dataset(table).classes == ("9", "10")


def test_classes_given_keep_their_order_and_refuse_others(folder: Path) -> None:
    text = "image,label\na.png,y\nb.png,y\n"
    data = read(folder, text, classes=["z", "y"])
    assert (data.classes, data.targets.tolist()) == (("z", "y"), [1, 1])
    with pytest.raises(InputError, match=r"row 2: unknown label 'y'; the classes are x, z"):
        read(folder, text, classes=["x", "z"])


def test_splits_are_normalised(folder: Path) -> None:
    data = read(folder, "image,label,split\na.png,x,Train\nb.png,y,validation\nc.png,x,TEST\n")
    assert data.splits is not None
    assert data.splits.tolist() == ["train", "val", "test"]


def test_a_folder_per_class(tmp_path: Path) -> None:
    for name in ("benign/one.png", "benign/deep/two.JPG", "malignant/three.png", ".git/x.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path, format="png")
    (tmp_path / "benign" / "notes.txt").write_text("not an image")
    data = read_dataset(tmp_path)
    assert data.classes == ("benign", "malignant")
    assert data.names == ("benign/deep/two.JPG", "benign/one.png", "malignant/three.png")


GOOD = "image,label\na.png,x\nb.png,y\n"
BAD = {
    "row without label": ("image,label\na.png,x\nb.png,\n", "row 3: no label"),
    "row without image": ("image,label\n,x\nb.png,y\n", "row 2: column 'image' is empty"),
    "no image column": ("picture,label\na.png,x\nb.png,y\n", "--image-column"),
    "no label column": ("image,age\na.png,50\nb.png,51\n", "--label-column"),
    "one class": ("image,label\na.png,x\nb.png,x\n", "only label is x"),
    "header alone": ("image,label\n", "no rows"),
    "empty file": ("", "cannot be read"),
    "ragged": ("image,label\na.png,x\nb.png,y,z,w\n", "cannot be read as a table"),
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
    text, message = BAD[kind]
    with pytest.raises(InputError, match=message) as caught:
        read(folder, text)
    assert "t.csv" in str(caught.value)


def test_a_flag_that_is_neither_0_nor_1(folder: Path) -> None:
    with pytest.raises(InputError, match=r"row 3: 'maybe' in column 'fluid'"):
        read(folder, "image,mass,fluid\na.png,1,0\nb.png,0,maybe\n", label_column="mass,fluid")


@pytest.mark.parametrize("option", ["image_column", "label_column", "group_column"])
def test_a_column_that_is_not_there(folder: Path, option: str) -> None:
    with pytest.raises(InputError, match="nowhere"):
        read(folder, GOOD, **{option: "nowhere"})


def test_bad_sources(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing.csv: no such table or folder"):
        read_dataset(tmp_path / "nothing.csv")
    with pytest.raises(InputError, match="no subfolders"):
        read_dataset(tmp_path)
    (tmp_path / "empty_class").mkdir()
    with pytest.raises(InputError, match=r"empty_class: no image"):
        read_dataset(tmp_path)
    excel = tmp_path / "t.xlsx"
    excel.write_bytes(b"PK")
    with pytest.raises(InputError, match=r"must be \.csv"):
        read_dataset(excel)
    latin = tmp_path / "latin.csv"
    latin.write_bytes("image,label\na.png,gr\xfcn\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin.csv: not UTF-8"):
        read_dataset(latin)
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 but not really")
    with pytest.raises(InputError, match=r"broken.parquet: cannot be read"):
        read_dataset(broken)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside.png"
    Image.new("RGB", (8, 8)).save(outside)
    inside = tmp_path / "data"
    inside.mkdir()
    (inside / "a.png").symlink_to(outside)
    Image.new("RGB", (8, 8)).save(inside / "b.png")
    with pytest.raises(InputError, match=r"row 2: a.png leads out"):
        read(inside, "image,label\na.png,x\nb.png,y\n")
    for name in ("x", "y"):
        (inside / name).mkdir()
        (inside / name / "linked.png").symlink_to(outside)
    with pytest.raises(InputError, match=r"linked.png: a link that leads out"):
        read_dataset(inside)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None
)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_give_data_or_our_own_error(folder: Path, content: bytes) -> None:
    table = folder / "fuzzed.csv"
    table.write_bytes(content)
    try:
        read_dataset(table)
    except InputError as error:
        assert "fuzzed.csv" in str(error)  # noqa: PT017


def test_subset_keeps_rows_together(folder: Path) -> None:
    data = read(folder, "image,label,patient\na.png,y,p1\nb.png,x,p2\nc.png,y,p3\n")
    part = data.subset(np.array([2, 0]))
    assert (part.names, part.targets.tolist()) == (("c.png", "a.png"), [1, 1])
    assert part.groups is not None
    assert part.groups.tolist() == ["p3", "p1"]


@pytest.mark.parametrize(
    ("name", "images", "classes", "groups"),
    [("wbc", 300, 5, 300), ("brain-mri", 228, 2, 228), ("ham10000", 835, 7, None)],
)
def test_real_tables(name: str, images: int, classes: int, groups: int | None) -> None:
    data = read_dataset(shared_data("data", name, "labels.csv"))
    assert (len(data), len(data.classes), data.task) == (images, classes, "multiclass")
    assert (data.groups is None) == (groups is not None)
