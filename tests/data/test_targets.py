"""Targets from columns of classes, of joined labels, and of 0 and 1."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from helpers import read_csv

from medept import InputError
from medept.data.dataset import read_dataset


def test_joined_labels_are_multi_label_and_may_be_empty(folder: Path) -> None:
    data = read_csv(folder, "image,findings\na.png,mass|fluid\nb.png,\nc.png,mass\n")
    assert data.classes == ("fluid", "mass")
    assert data.targets.tolist() == [[1, 1], [0, 0], [0, 1]]


def test_the_task_may_be_given(folder: Path) -> None:
    text = "image,finding\na.png,mass\nb.png,\n"
    data = read_csv(folder, text, classes=["fluid", "mass"], task="multilabel")
    assert data.targets.tolist() == [[0, 1], [0, 0]]
    for name in ("fluid", "mass"):
        (folder / "sorted" / name).mkdir(parents=True)
        shutil.copy(folder / "a.png", folder / "sorted" / name)
    data = read_dataset(folder / "sorted", classes=["mass", "other", "fluid"], task="multilabel")
    assert data.targets.tolist() == [[0, 0, 1], [1, 0, 0]]


def test_one_of_several_flags_may_be_a_class(folder: Path) -> None:
    with pytest.warns(UserWarning, match="just one of mel, nv"):
        data = read_csv(folder, "image,mel,nv\na.png,1,0\nb.png,0,1\n")
    assert data.task == "multilabel"


def test_a_number_is_one_label_in_any_spelling(folder: Path) -> None:
    data = read_csv(folder, "image,label\na.png,1.0\nb.png,0\nc.png,1\n", classes=["0", "1"])
    assert data.targets.tolist() == [1, 0, 1]


def test_flags_in_parquet_may_be_booleans(folder: Path) -> None:
    table = folder / "t.parquet"
    pd.DataFrame({"image": ["a.png", "b.png"], "m": [True, False], "f": [0.0, 1.0]}).to_parquet(
        table
    )
    assert read_dataset(table).targets.tolist() == [[1, 0], [0, 1]]


def test_classes_given_keep_their_order_and_refuse_others(folder: Path) -> None:
    text = "image,label\na.png,y\nb.png,y\n"
    data = read_csv(folder, text, classes=["z", "y"])
    assert (data.classes, data.targets.tolist()) == (("z", "y"), [1, 1])
    with pytest.raises(InputError, match=r"row 2: unknown label 'y'; the classes are x, z"):
        read_csv(folder, text, classes=["x", "z"])


def test_a_flag_that_is_neither_0_nor_1(folder: Path) -> None:
    with pytest.raises(InputError, match=r"row 3: 'maybe' in column 'fluid'"):
        read_csv(folder, "image,mass,fluid\na.png,1,0\nb.png,0,maybe\n", label_column="mass,fluid")
