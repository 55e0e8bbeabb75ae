"""Several labels in a cell are read as several, or a word is said; a class may hold a comma."""

from __future__ import annotations

import csv
import json
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medept import InputError
from medept.data.dataset import read_dataset
from medept.data.joined_labels import split_labels
from medept.data.labelled_images import LabelledImages, Task

TABLE = Path("t.csv")


def read(folder: Path, *cells: str, **options: object) -> LabelledImages:
    with (folder / "t.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(
            [
                ("image", "label"),
                *((f"{name}.png", c) for name, c in zip("abcdef", cells, strict=False)),
            ]
        )
    return read_dataset(folder / "t.csv", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "cell",
    ['["mass", "fluid"]', "['mass', ' fluid ']", '{"choices": ["mass", "fluid"]}',
     "[ 'mass','fluid',]",
     "{'labels': ('mass', 'fluid')}", "{'mass', 'fluid'}"],
)  # fmt: skip
def test_lists_of_json_and_python(folder: Path, cell: str) -> None:
    with pytest.warns(UserWarning, match="lists of labels; an image may have several"):
        data = read(folder, cell, "mass", "['air']", "[]", "")
    assert data.classes == ("air", "fluid", "mass")
    assert data.targets.tolist() == [[0, 1, 1], [0, 0, 1], [1, 0, 0], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    "cell", ["[mass, fluid]", "[0.5, 1]", '{"a": 1, "b": 0}', "[['a'], 'b']", "[__import__('os')]",
             "[" * 3000 + "]" * 3000, "[null]", '["a|b"]', "{'a': {'b': 'c'}}"]
)  # fmt: skip
def test_what_is_no_list_of_labels_is_refused(folder: Path, cell: str) -> None:
    with pytest.raises(InputError, match=r"t.csv, row 3: .*(joined by \||plain labels)"):
        read(folder, "mass", cell)


@pytest.mark.parametrize("separator", [";", ",", "; ", " , "])
def test_labels_that_are_also_alone_are_joined(folder: Path, separator: str) -> None:
    with pytest.warns(UserWarning, match="row 2: .* is read as 2 labels, joined by"):
        data = read(folder, f"mass{separator}fluid", "fluid", "mass")
    assert (data.classes, data.targets.tolist()) == (("fluid", "mass"), [[1, 1], [1, 0], [0, 1]])


def test_a_class_may_hold_a_comma_and_a_word_is_said(folder: Path) -> None:
    with pytest.warns(UserWarning, match="row 2: 'carcinoma, basal' is taken as one class"):
        data = read(folder, "carcinoma, basal", "nevus", "carcinoma, basal")
    assert data.classes == ("carcinoma, basal", "nevus")
    with pytest.warns(UserWarning, match="row 2: 'a/b' is taken as one class"):
        assert read(folder, "a/b", "a", "b").classes == ("a", "a/b", "b")


@pytest.mark.parametrize(
    "cells",
    [("a;b", "c"), ("a;b", "a"), ("a, b", "a", "c"), ("a,b", "b,c"), ("a,b;c", "a", "b", "c"),
     ("a;b;c", "a", "b"), ("x,a", "a;b", "a", "b", "x,y")],
)  # fmt: skip
def test_what_may_be_one_label_or_several_is_refused(folder: Path, cells: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=r"t.csv, row [23]: .*join labels by \|"):
        read(folder, *cells)


def test_the_task_and_the_classes_decide(folder: Path) -> None:
    assert read(folder, "a;b", "c", task="multiclass").classes == ("a;b", "c")
    assert read(folder, "a;b", "c", classes=["a;b", "c"]).targets.tolist() == [0, 1]
    with pytest.warns(UserWarning, match="read as 2 labels"):
        assert read(folder, "a;b", "c", task="multilabel").classes == ("a", "b", "c")
    with pytest.warns(UserWarning, match="read as 2 labels"):
        data = read(folder, "a;b", "c", classes=["a", "b", "c"])
    assert data.targets.tolist() == [[1, 1, 0], [0, 0, 1]]


NAMES = st.text(st.sampled_from("abcé 1"), min_size=1, max_size=4).map(str.strip).filter(bool)
LISTS = st.lists(st.lists(NAMES, min_size=1, max_size=3, unique=True), min_size=1, max_size=6)


@settings(deadline=None)
@given(LISTS, st.sampled_from([json.dumps, repr, "|".join, ";".join, ",".join]))
def test_every_way_to_write_labels_is_read_as_it_was_meant(rows: list[list[str]], write) -> None:  # type: ignore[no-untyped-def]
    names = sorted({name for row in rows for name in row})
    rows = rows + [[name] for name in names]
    task: Task = "multilabel"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = split_labels(TABLE, {i: write(row) for i, row in enumerate(rows)}, None, task)
    assert found == dict(enumerate(rows))
