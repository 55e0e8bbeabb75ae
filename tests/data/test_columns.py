"""Columns are found by name, in any spelling, and it is said which are read."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from helpers import read_csv

from medept import InputError
from medept.data.dataset import read_dataset
from medept.files import write_table


def test_columns_of_flags_named_or_found(folder: Path) -> None:
    text = "image,mass,fluid,age\na.png,1,0,50\nb.png,0,1,61\n"
    named = read_csv(folder, text, label_column="fluid,mass")
    assert (named.classes, named.targets.tolist()) == (("fluid", "mass"), [[0, 1], [1, 0]])
    found = read_csv(folder, ",image,mass,fluid,mask\n0,a.png,1.0,0,m\n1,b.png,0.0,1,m\n")
    assert (found.classes, found.targets.tolist()) == (("mass", "fluid"), [[1, 0], [0, 1]])
    with pytest.raises(InputError, match="label_column="):
        read_csv(folder, text)  # which of the columns are labels is not for us to guess


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
    data = read_csv(folder, f"image,label,{name}\na.png,x,1\nb.png,y,2.0\nc.png,y,2\n")
    assert data.groups is not None
    assert data.groups.tolist() == ["1", "2", "2"], "and a number too"


def test_what_is_read_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "medept")
    read_csv(folder, "file,class,diagnosis,split\na.png,x,1,train\nb.png,y,2,test\n")
    assert caplog.messages == [
        "t.csv: images in column 'file', labels in 'class', no column of patients, split in 'split'"
    ]
    with pytest.warns(UserWarning, match="'set' looks like a split, and is not read"):
        read_csv(folder, "image,label,set\na.png,x,Train\nb.png,y,test\n")


def test_a_column_named_as_label_is_not_taken_as_group_or_split(folder: Path) -> None:
    rows = "a.png,yes,train\nb.png,no,test\n"
    assert read_csv(folder, "image,lesion,split\n" + rows, label_column="lesion").groups is None
    assert read_csv(folder, "image,x,Split\n" + rows, label_column="Split").splits is None


def test_splits_are_normalised(folder: Path) -> None:
    data = read_csv(folder, "image,label,split\na.png,x,Train\nb.png,y,validation\nc.png,x,TEST\n")
    assert data.splits is not None
    assert data.splits.tolist() == ["train", "val", "test"]


GOOD = "image,label\na.png,x\nb.png,y\n"


def test_columns_that_cannot_be_labels(folder: Path) -> None:
    text = "image,mass,fluid\na.png,1,0\nb.png,0,1\n"
    with pytest.raises(InputError, match="a label is named twice in mass, mass"):
        read_csv(folder, text, label_column="mass,mass")
    with pytest.raises(InputError, match="'mass' cannot be the label and something else"):
        read_csv(folder, text, label_column="mass", group_column="mass")
    with pytest.raises(InputError, match="no column 'air' for this label; add it"):
        read_csv(folder, text, label_column="mass,fluid", classes=["mass", "fluid", "air"])


@pytest.mark.parametrize("option", ["image_column", "label_column", "group_column"])
def test_a_column_that_is_not_there(folder: Path, option: str) -> None:
    with pytest.raises(InputError, match="nowhere"):
        read_csv(folder, GOOD, **{option: "nowhere"})
