"""Tables and folders of labelled images: what is understood, and what is refused, with the row."""

from __future__ import annotations

import csv
import shutil
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from helpers import shared_data
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from medept import InputError
from medept.data.dataset import read_dataset
from medept.data.labelled_images import LabelledImages
from medept.files import write_table


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
    found = read(folder, ",image,mass,fluid,mask\n0,a.png,1.0,0,m\n1,b.png,0.0,1,m\n")
    assert (found.classes, found.targets.tolist()) == (("mass", "fluid"), [[1, 0], [0, 1]])
    with pytest.raises(InputError, match="--label-column"):
        read(folder, text)  # which of the columns are labels is not for us to guess


def test_the_task_may_be_given(folder: Path) -> None:
    text = "image,finding\na.png,mass\nb.png,\n"
    data = read(folder, text, classes=["fluid", "mass"], task="multilabel")
    assert data.targets.tolist() == [[0, 1], [0, 0]]
    for name in ("fluid", "mass"):
        (folder / "sorted" / name).mkdir(parents=True)
        shutil.copy(folder / "a.png", folder / "sorted" / name)
    data = read_dataset(folder / "sorted", classes=["mass", "other", "fluid"], task="multilabel")
    assert data.targets.tolist() == [[0, 0, 1], [1, 0, 0]]


def test_a_group_that_was_made_harmless_is_what_it_was(folder: Path) -> None:
    file = folder / "written.csv"
    groups = ["-P01", "@12"]
    table = pd.DataFrame({"image": ["a.png", "b.png"], "label": ["x", "y"], "group": groups})
    write_table(file, table)
    assert "'-P01" in file.read_text()
    assert read_dataset(file).groups.tolist() == groups


@pytest.mark.parametrize(
    "name", ["patient", "Patient ID", "PatientID", "patient-id", "pat_id", "MRN", "Subject ID"]
)
def test_patients_are_known_in_any_spelling(folder: Path, name: str) -> None:
    data = read(folder, f"image,label,{name}\na.png,x,1\nb.png,y,2.0\nc.png,y,2\n")
    assert data.groups is not None
    assert data.groups.tolist() == ["1", "2", "2"], "and a number too"


def test_what_is_read_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "medept")
    read(folder, "file,class,diagnosis,split\na.png,x,1,train\nb.png,y,2,test\n")
    assert caplog.messages == [
        "t.csv: images in column 'file', labels in 'class', no column of patients, split in 'split'"
    ]
    with pytest.warns(UserWarning, match="'set' looks like a split, and is not read"):
        read(folder, "image,label,set\na.png,x,Train\nb.png,y,test\n")


def test_one_of_several_flags_may_be_a_class(folder: Path) -> None:
    with pytest.warns(UserWarning, match="just one of mel, nv"):
        data = read(folder, "image,mel,nv\na.png,1,0\nb.png,0,1\n")
    assert data.task == "multilabel"


def test_a_table_that_was_written_on_windows(folder: Path) -> None:
    (folder / "in").mkdir()
    (folder / "a.png").rename(folder / "in" / "a.png")
    data = read(folder, "image,label\nin\\a.png,x\nb.png,y\n")
    assert data.images[0] == folder / "in" / "a.png"


def test_folders_of_a_split_with_a_folder_per_class(tmp_path: Path) -> None:
    for name in ("train/cat/1.png", "train/dog/1.png", "Test/dog/2.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    data = read_dataset(tmp_path)
    assert data.splits is not None
    rows = sorted(zip(data.names, data.splits, np.array(data.classes)[data.targets], strict=True))
    assert rows == [("Test/dog/2.png", "test", "dog"), ("train/cat/1.png", "train", "cat"),
                    ("train/dog/1.png", "train", "dog")]  # fmt: skip
    (tmp_path / "extra").mkdir()
    with pytest.raises(InputError, match="some of its subfolders"):
        read_dataset(tmp_path)


def test_parquet_and_numeric_labels(folder: Path) -> None:
    table = folder / "t.parquet"
    pd.DataFrame({"image": ["a.png", "b.png", "c.png"], "label": [10.0, 9.0, 10.0]}).to_parquet(
        table
    )
    assert read_dataset(table).classes == ("9", "10")


def test_a_number_is_one_label_in_any_spelling(folder: Path) -> None:
    data = read(folder, "image,label\na.png,1.0\nb.png,0\nc.png,1\n", classes=["0", "1"])
    assert data.targets.tolist() == [1, 0, 1]


def test_a_column_named_as_label_is_not_taken_as_group_or_split(folder: Path) -> None:
    rows = "a.png,yes,train\nb.png,no,test\n"
    assert read(folder, "image,lesion,split\n" + rows, label_column="lesion").groups is None
    assert read(folder, "image,x,Split\n" + rows, label_column="Split").splits is None


def test_flags_in_parquet_may_be_booleans(folder: Path) -> None:
    table = folder / "t.parquet"
    pd.DataFrame({"image": ["a.png", "b.png"], "m": [True, False], "f": [0.0, 1.0]}).to_parquet(
        table
    )
    assert read_dataset(table).targets.tolist() == [[1, 0], [0, 1]]


def test_empty_lines_and_columns_do_not_matter(folder: Path) -> None:
    text = "\nimage;label;;\n\na.png;x;;\n;;;\nb.png;y;;\n"
    assert read(folder, text).targets.tolist() == [0, 1]
    with pytest.raises(InputError, match="row 6: no label"):
        read(folder, text.replace(";y;", ";;"))


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
    (tmp_path / "benign" / "folder.png").mkdir()
    (tmp_path / "benign" / ".thumbnails").mkdir()
    (tmp_path / "benign" / ".thumbnails" / "one.png").write_bytes(b"")
    data = read_dataset(tmp_path)
    assert data.classes == ("benign", "malignant")
    assert data.names == ("benign/deep/two.JPG", "benign/one.png", "malignant/three.png")


def test_folders_named_by_numbers_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    for name in ("10", "9"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "a.png")
    assert read_dataset(tmp_path).classes == ("9", "10")


def test_folders_beside_a_table_are_read_with_a_warning(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "a.png")
    (tmp_path / "labels.csv").write_text("image,label\n")
    with pytest.warns(UserWarning, match=r"classes images, masks; to read labels.csv instead"):
        read_dataset(tmp_path)


GOOD = "image,label\na.png,x\nb.png,y\n"
BAD = {
    "row without label": ("image,label\na.png,x\nb.png,\n", "row 3: no label"),
    "row without image": ("image,label\n,x\nb.png,y\n", "row 2: column 'image' is empty"),
    "no image column": ("picture,label\na.png,x\nb.png,y\n", "--image-column"),
    "no label column": ("image,age\na.png,50\nb.png,51\n", "--label-column"),
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
    "long name": ("image,label\na.png,x\n" + "b" * 300 + ".png,y\n", "row 3: .*no usable file"),
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
        read(folder, text)
    assert "t.csv" in str(caught.value)


def test_a_flag_that_is_neither_0_nor_1(folder: Path) -> None:
    with pytest.raises(InputError, match=r"row 3: 'maybe' in column 'fluid'"):
        read(folder, "image,mass,fluid\na.png,1,0\nb.png,0,maybe\n", label_column="mass,fluid")


def test_a_column_is_no_label_that_reads_as_two(folder: Path) -> None:
    with pytest.raises(InputError, match=r"'fluid\|mass' holds a \|"):
        read(folder, "image,fluid|mass,air\na.png,1,0\nb.png,0,1\n", label_column="fluid|mass,air")


def test_columns_that_cannot_be_labels(folder: Path) -> None:
    text = "image,mass,fluid\na.png,1,0\nb.png,0,1\n"
    with pytest.raises(InputError, match="a label is named twice in mass, mass"):
        read(folder, text, label_column="mass,mass")
    with pytest.raises(InputError, match="'mass' cannot be the label and something else"):
        read(folder, text, label_column="mass", group_column="mass")
    with pytest.raises(InputError, match="no column 'air' for this label; add it"):
        read(folder, text, label_column="mass,fluid", classes=["mass", "fluid", "air"])


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


@pytest.mark.parametrize("option", ["image_column", "label_column", "group_column"])
def test_a_column_that_is_not_there(folder: Path, option: str) -> None:
    with pytest.raises(InputError, match="nowhere"):
        read(folder, GOOD, **{option: "nowhere"})


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


def test_images_may_be_elsewhere_than_the_table(folder: Path, tmp_path: Path) -> None:
    (folder / "tables").mkdir()
    text = f"image,label\na.png,x\n{folder / 'b.png'},y\n"
    data = read(folder / "tables", text, image_root=folder)
    assert data.images == (folder / "a.png", folder / "b.png")
    with pytest.raises(InputError, match=r"missing: a.png \(row 2\).* --image-root"):
        read(folder / "tables", "image,label\na.png,x\nb.png,y\n")
    with pytest.raises(InputError, match=r"row 3: .* leads out of .* --image-root"):
        read(folder / "tables", text.replace("a.png", "t.csv"))
    up = "image,label\na.png,x\n../b.png,y\n"
    with pytest.raises(InputError, match=rf"row 3: .* --image-root, such as {folder}$"):
        read(folder / "tables", up)
    assert read(folder / "tables", up, image_root=folder).images[1].resolve() == folder / "b.png"
    with pytest.raises(InputError, match=r"row 3: ../../up.png leads out"):
        read(folder / "tables", up.replace("../b", "../../up"), image_root=folder)
    with pytest.raises(InputError, match="nowhere: no such folder; check --image-root"):
        read(folder / "tables", text, image_root=folder / "nowhere")
    with pytest.raises(InputError, match="leave --image-root out"):
        read_dataset(folder, image_root=folder)


def test_classes_that_may_be_one_are_said(folder: Path) -> None:
    with pytest.warns(UserWarning, match="'Nevus' and 'nevus' are two classes"):
        data = read(folder, "image,label\na.png,Nevus\nb.png,nevus\n")
    assert data.classes == ("Nevus", "nevus")


def test_a_name_without_a_suffix_finds_its_one_image(folder: Path) -> None:
    data = read(folder, "image_id,dx\na,x\nb,y\n")
    assert (data.names, data.images) == (("a", "b"), (folder / "a.png", folder / "b.png"))
    with pytest.raises(InputError, match="rows 2 and 3: the same image a.png"):
        read(folder, "image_id,dx\na,x\na.png,y\n")
    (folder / "a.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="1 of 2 images are missing: a "):
        read(folder, "image_id,dx\na,x\nb,y\n")


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
    outside.unlink()
    with pytest.raises(InputError, match=r"linked.png: a broken link or a device; remove it"):
        read_dataset(inside)
    (inside / "b.png").unlink()
    (inside / "b.png").symlink_to("b.png")
    with pytest.raises(InputError, match=r"row 2: 'b.png' is no usable|b.png .row 2."):
        read(inside, "image,label\nb.png,x\nc.png,y\n")


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
    ("targets", "classes"),
    [([0, 2], ("x", "y")), ([-1, 0], ("x", "y")), ([[0, 1, 0], [1, 0, 0]], ("x", "y")),
     ([[0, 2], [1, 0]], ("x", "y")), ([[[0]], [[1]]], ("x",))],
)  # fmt: skip
def test_targets_must_fit_the_classes(targets: list[object], classes: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="targets of shape .*: give 2 class indices"):
        LabelledImages(("a", "b"), ("a", "b"), np.array(targets), classes)


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
