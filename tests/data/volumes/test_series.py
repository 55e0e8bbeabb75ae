"""DICOM series: sorted by position, against SimpleITK; what is wrong with a folder is told."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from volume_files import smooth, write_series

from medept import InputError
from medept.data.dataset import read_dataset
from medept.data.images import read_image
from medept.data.volumes import Slicing, open_volume

WHOLE = Slicing(slices=None, window="600,2000")
CORONAL = (1, 0, 0, 0, 0, -1)
VALUES = smooth((9, 12, 10))


def slices(folder: Path) -> np.ndarray:
    found = [np.asarray(read_image(image)) for image in open_volume(folder, WHOLE).images]
    return np.stack(found)[..., 0]


@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), CORONAL, (-1, 0, 0, 0, 1, 0)])
def test_a_series_is_as_simpleitk_reads_it(tmp_path: Path, orientation) -> None:
    write_series(tmp_path / "s", VALUES, orientation=orientation, step=1.0)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "s")))
    other = sitk.GetArrayFromImage(sitk.DICOMOrient(reader.Execute(), "LPS")).astype(float)
    expected = np.round(np.clip((other + 400) / 2000, 0, 1) * 255)
    np.testing.assert_allclose(slices(tmp_path / "s"), expected, atol=1)


def test_gaps_copies_and_localisers_are_told(tmp_path: Path, caplog) -> None:
    folder = tmp_path / "s"
    files = write_series(folder, VALUES)
    uid = "1.2.3"
    files[4].unlink()
    (folder / "copy.dcm").write_bytes(files[2].read_bytes())
    write_series(folder, VALUES[:1], series=uid, prefix="loc", ImageType=["ORIGINAL", "LOCALIZER"])
    with caplog.at_level(logging.INFO):
        case = open_volume(folder, WHOLE)
    assert len(case) == 8
    for text in ("1 localisers are left out", "at the place of another", "1 gaps"):
        assert text in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"series": "1.2.3"}, "files of 2 series"),
        ({"orientation": CORONAL}, "different orientations"),
        ({"spacing": (2.0, 2.0)}, "differ in size or spacing"),
        ({"ImagePositionPatient": None}, "does not say where it lies"),
    ],
)
def test_files_that_are_no_one_stack_are_refused(tmp_path: Path, change, message: str) -> None:
    folder = tmp_path / "s"
    given = {"series": "1.2.9"} | change
    write_series(folder, VALUES, series="1.2.9")
    write_series(folder, VALUES[:2], prefix="x", **given)
    with pytest.raises(InputError, match=message) as error:
        open_volume(folder)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("damaged", [b"1.0\\1.0 ", b"-1024", b"1.2.840.10008.1.2.1\0"])
def test_a_damaged_file_of_a_series_is_named_and_its_bytes_are_not(
    tmp_path: Path, damaged: bytes
) -> None:
    first, *_ = write_series(tmp_path / "s", VALUES, PatientName="Doe^Jane")
    whole = first.read_bytes()
    assert damaged in whole
    first.write_bytes(whole.replace(damaged, b"p" + damaged[1:]))
    with pytest.raises(InputError, match=rf"{tmp_path / 's'}: {first.name}: damaged") as refused:
        open_volume(tmp_path / "s")
    assert "p" not in str(refused.value).partition("damaged")[2].replace("replace", "")


def test_a_table_may_name_folders_and_a_folder_of_folders_is_cases(tmp_path: Path) -> None:
    for label in ("ill", "well"):
        for number in range(2):
            folder = tmp_path / label
            folder.mkdir(exist_ok=True)
            write_series(folder / f"{label}-{number}", VALUES + number)
    rows = [f"{label}/{label}-{n},{label}" for label in ("ill", "well") for n in range(2)]
    (tmp_path / "t.csv").write_text("\n".join(["image,label", *rows]))
    data = read_dataset(tmp_path / "t.csv", slices="4")
    assert [len(case) for case in data.images] == [4] * 4
    assert data.groups is not None
    assert len(set(data.groups.tolist())) == 4
    (tmp_path / "t.csv").unlink()
    by_folder = read_dataset(tmp_path, case="folder", slices="4")
    assert [len(case) for case in by_folder.images] == [4] * 4
    first = [np.asarray(x.images[2].read()) for x in (data.images[0], by_folder.images[0])]
    np.testing.assert_array_equal(*first)
