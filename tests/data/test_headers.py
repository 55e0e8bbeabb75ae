"""Headers and cells as spreadsheets and public data sets write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from medept import InputError
from medept.data.dataset import read_dataset
from medept.data.labelled_images import LabelledImages
from medept.data.table import read_table


def read(folder: Path, text: str, **options: object) -> LabelledImages:
    (folder / "t.csv").write_text(text, encoding="utf-8", newline="")
    return read_dataset(folder / "t.csv", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;", "\ufeffsep=;", "\n\nsep=;"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_line_that_tells_the_separator(folder: Path, first: str, end: str) -> None:
    lines = [first, "image;label;a, b, c, d", "a.png;x;", "b.png;y;", "c.png;;"]
    with pytest.raises(InputError, match="row 4: no label"):  # as a spreadsheet counts
        read(folder, end.join(lines))
    assert read(folder, end.join(lines[:-1])).classes == ("x", "y")


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_any_separator_that_is_told(folder: Path, separator: str) -> None:
    text = f"sep={separator}\nimage|label\na.png|x\nb.png|y\n".replace("|", separator)
    assert read(folder, text).classes == ("x", "y")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("comment", ['"a, b; c; d, e\t\t"', '"say ""a,b;c,d;"", please"'])
def test_separators_inside_quotes_are_text(folder: Path, separator: str, comment: str) -> None:
    lines = ['"image"|"label"|' + comment, '"a.png"|"x"|""', '"b.png"|"y"|"1|2"']
    assert read(folder, "\n".join(lines).replace("|", separator)).classes == ("x", "y")


def test_a_column_called_sep_is_a_column(folder: Path) -> None:
    (folder / "t.csv").write_text("sep,image,label\n1,a.png,x\n")
    assert read_table(folder / "t.csv").columns == ["sep", "image", "label"]


@pytest.mark.parametrize(("yes", "no"), [("True", "False"), ("TRUE", "FALSE"), ("true", "0.0")])
def test_flags_may_be_true_and_false(folder: Path, yes: str, no: str) -> None:
    text = f"image,nevus,melanoma\na.png,{yes},{no}\nb.png,{yes},{yes}\n"
    for options in ({}, {"label_column": "nevus,melanoma"}):
        data = read(folder, text, **options)
        assert (data.classes, data.targets.tolist()) == (("nevus", "melanoma"), [[1, 0], [1, 1]])


@pytest.mark.parametrize("cell", ["-1", "", "yes", "-1.0", "nan"])
def test_a_flag_that_is_uncertain_or_empty_is_refused_with_the_remedy(
    folder: Path, cell: str
) -> None:
    text = f"image,mass,fluid\na.png,1,0\nb.png,0,{cell}\n"
    with pytest.raises(InputError, match="row 3: .* in column 'fluid'; .* write 0 or 1 where"):
        read(folder, text, label_column="mass,fluid")


def test_the_form_of_nih_chest_x_rays(folder: Path) -> None:
    data = read(
        folder,
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age\n"
        "a.png,Cardiomegaly|Emphysema,0,1,58\nb.png,No Finding,0,2,81\nc.png,Mass,1,2,82\n",
    )
    assert data.classes == ("Cardiomegaly", "Emphysema", "Mass", "No Finding")
    assert data.targets.tolist() == [[1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]
    assert data.groups is not None
    assert data.groups.tolist() == ["1", "2", "2"]


def test_the_form_of_padchest(folder: Path) -> None:
    with pytest.warns(UserWarning, match="lists of labels"):
        data = read(
            folder,
            ",ImageID,ImageDir,StudyID,PatientID,Labels\n"
            "0,a.png,0,s1,p1,\"['normal']\"\n"
            "1,b.png,0,s2,p2,\"['pleural effusion', ' cardiomegaly']\"\n",
        )
    assert data.classes == ("cardiomegaly", "normal", "pleural effusion")
    assert data.groups is not None
    assert data.groups.tolist() == ["p1", "p2"]
