"""One identity has one spelling, wherever a name, an id or a class is compared."""

from __future__ import annotations

import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medept import InputError
from medept.data.dataset import read_dataset
from medept.data.labelled_images import LabelledImages
from medept.data.labels import encode_labels
from medept.episodes.lists import read_episode


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


def draw(*files: Path) -> None:
    for number, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(file)


def read(folder: Path, text: str, **options: object) -> LabelledImages:
    table = folder / "t.csv"
    table.write_text(text, encoding="utf-8")
    return read_dataset(table, **options)


@pytest.mark.parametrize("disk", [nfc, nfd])
@pytest.mark.parametrize("table", [nfc, nfd])
@pytest.mark.parametrize("name", ["Größe/é1.png", "Größe\\é1.png", "Größe/é1"])
def test_a_file_is_found_in_either_form(tmp_path: Path, disk, table, name: str) -> None:  # type: ignore[no-untyped-def]
    draw(tmp_path / disk("Größe") / disk("é1.png"), tmp_path / "b.png")
    data = read(tmp_path, f"image,label\n{table(name)},x\nb.png,y\n")
    assert data.names[0] == nfc(name)
    assert Path(str(data.images[0])).is_file()


def test_a_frame_of_a_file_in_another_form(tmp_path: Path) -> None:
    file = tmp_path / nfd("ü.dcm")
    file.write_bytes(b"")
    draw(tmp_path / "b.png")
    with pytest.raises(InputError, match="damaged|not a DICOM file"):  # so it was found
        read(tmp_path, f"image,label\n{nfc('ü.dcm#2')},x\nb.png,y\n")


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    draw(tmp_path / nfc("ä.png"), tmp_path / nfd("ä.png"), tmp_path / "b.png")
    with pytest.raises(InputError, match=r"t.csv, row 2: .* there are 2 of this name.*rename"):
        read(tmp_path, "image,label\nä.png,x\nb.png,y\n")


def test_classes_groups_and_columns_in_either_form(tmp_path: Path) -> None:
    draw(*(tmp_path / f"{name}.png" for name in "abcd"))
    text = (
        f"image,{nfd('Läsion')},{nfd('Käufer')}\n"
        f"a.png,{nfc('Müll')},{nfc('é')}\nb.png,{nfd('Müll')} ,{nfd('é')}\nc.png,x,z\n"
    )
    data = read(tmp_path, text, label_column=nfc("Läsion"), group_column=f" {nfc('Käufer')}")
    assert data.classes == (nfc("Müll"), "x")
    assert data.groups is not None
    assert data.groups.tolist() == [nfc("é"), nfc("é"), "z"]
    given = read(tmp_path, text, label_column=nfd("Läsion"), classes=[nfd("Müll"), "x "])
    assert (given.classes, given.targets.tolist()) == (data.classes, [0, 0, 1])


def test_folders_of_a_class_in_two_forms_are_one_class(tmp_path: Path) -> None:
    for part, form in (("train", nfc), ("test", nfd)):
        draw(tmp_path / part / form("Läsion") / "1.png", tmp_path / part / "normal" / "1.png")
    assert read_dataset(tmp_path).classes == (nfc("Läsion"), "normal")
    draw(tmp_path / "test" / nfc("Läsion") / "2.png")
    data = read_dataset(tmp_path)
    assert data.classes == (nfc("Läsion"), "normal")
    assert len(data) == 5


def test_lists_name_images_in_either_form(tmp_path: Path) -> None:
    draw(tmp_path / nfd("ä.png"), tmp_path / "b.png", tmp_path / "c.png")
    data = read(tmp_path, f"image,label\n{nfd('ä.png')},x\nb.png,y\nc.png,x\n")
    for form in (nfc, nfd):
        (tmp_path / "list.txt").write_text(f"{form('ä.png')} 0\nb.png 1\n", encoding="utf-8")
        assert read_episode(data, tmp_path / "list.txt").support.tolist() == [0, 1]


@pytest.mark.parametrize("other", ["p 007", "P-7", "p7", "P_07"])
def test_patients_that_may_be_one_are_said_by_name(tmp_path: Path, other: str) -> None:
    draw(tmp_path / "a.png", tmp_path / "b.png")
    text = f"image,label,patient\na.png,x,P07\nb.png,y,{other}\n"
    with pytest.warns(UserWarning, match=rf"column 'patient' .*{other}.*write those alike"):
        data = read(tmp_path, text)
    assert len(set(data.groups.tolist())) == 2, "and are not made one"  # type: ignore[union-attr]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(tmp_path, text.replace(other, "P70"))


@pytest.mark.parametrize("labels", ["1,01", "grade 2,Grade-02", "a b,ab", "NEVUS,nevus"])
def test_classes_that_may_be_one_are_said_by_name(tmp_path: Path, labels: str) -> None:
    draw(tmp_path / "a.png", tmp_path / "b.png")
    one, other = labels.split(",")
    with pytest.warns(UserWarning, match=f"'({one}|{other})' and .* are different classes"):
        read(tmp_path, f"image,label\na.png,{one}\nb.png,{other}\n")


@pytest.mark.parametrize(
    "columns", ["image,Label,label", "Patient ID,patient_id,image,label", "image,Image,label"]
)
def test_two_columns_of_one_usual_name_are_refused(tmp_path: Path, columns: str) -> None:
    draw(tmp_path / "a.png", tmp_path / "b.png")
    rows = "\n".join(",".join([cell] * (columns.count(",") + 1)) for cell in ("a.png", "b.png"))
    with pytest.raises(InputError, match=r"t.csv: columns '.*' and '.*' are named alike; rename"):
        read(tmp_path, f"{columns}\n{rows}\n")


def test_labels_of_the_python_interface(tmp_path: Path) -> None:
    for one, other in (("ä", nfd("ä")), ("x", "x ")):
        with pytest.raises(InputError, match="differ only in spaces at their ends or in Unicode"):
            encode_labels(np.array([one, other, "z"]))
