"""Phantoms of cases: few images of a positive case show it, and the files say which."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from medept import InputError
from medept.data.cases import decode_items, sizes_of
from medept.data.dataset import read_dataset
from medept.phantoms.cases import LUNG, draw_ct, make_bags, write_bags, write_ct


@pytest.mark.parametrize("number", range(6))
def test_a_nodule_is_in_three_to_ten_slices_of_every_second_chest(number: int) -> None:
    values, shown = draw_ct(number, size=48, difficulty=0.0, seed=3)
    assert (3 <= shown.sum() <= 10) if number % 2 == 0 else shown.sum() == 0
    assert values.min() < -900
    assert values.max() > 500
    assert abs(np.median(values[(values > -950) & (values < -700)]) - LUNG) < 30
    np.testing.assert_array_equal(values, draw_ct(number, size=48, difficulty=0.0, seed=3)[0])


def test_the_files_are_read_as_cases(tmp_path: Path) -> None:
    table = write_ct(tmp_path / "ct", patients=4, size=48, difficulty=0.2)
    data = read_dataset(table, window="lung", slices="all")
    assert data.labels.tolist() == ["nodule", "none"] * 2
    assert sizes_of(data.images).tolist() == [60] * 4
    truth = set(pd.read_csv(tmp_path / "ct" / "slices.csv")["image"])
    assert truth <= set(data.by_image().names)
    image = nibabel.load(tmp_path / "ct" / "chest-000.nii.gz")
    np.testing.assert_array_equal(image.dataobj, draw_ct(0, size=48, difficulty=0.2)[0])
    bags = make_bags(patients=4, tiles=6, size=32)
    again = read_dataset(write_bags(bags, tmp_path / "bags"), case_column="slide")
    assert again.names == bags.names
    np.testing.assert_array_equal(again.targets, bags.targets)
    for wrong in ({"patients": 1}, {"tiles": 1}, {"size": 8}, {"difficulty": 2.0}):
        with pytest.raises(InputError, match="="):
            make_bags(**wrong)


def test_a_series_shows_what_the_nifti_file_shows(tmp_path: Path) -> None:
    options = {"patients": 2, "slices": 12, "size": 48, "difficulty": 0.2}
    nifti = read_dataset(write_ct(tmp_path / "nifti", **options), window="lung", slices="all")
    series = write_ct(tmp_path / "series", dicom=True, **options)
    assert len(list((tmp_path / "series" / "chest-000").iterdir())) == 12
    found = read_dataset(series, window="lung", slices="all")
    assert sizes_of(found.images).tolist() == [12, 12]
    truth = set(pd.read_csv(tmp_path / "series" / "slices.csv")["image"])
    assert truth <= set(found.by_image().names)
    pairs = zip(decode_items(nifti.images, 2**30), decode_items(found.images, 2**30), strict=True)
    for one, other in pairs:
        np.testing.assert_array_equal(np.stack(one.images), np.stack(other.images))
