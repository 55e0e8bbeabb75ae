"""ISIC 2018, read from a folder in its layout."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from samples import draw_images

from medept import InputError
from medept.data.sources import open_dataset


def isic(folder: Path) -> Path:
    classes = ["MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"]
    for part, count in {"Training": 21, "Validation": 7, "Test": 7}.items():
        stem = f"ISIC2018_Task3_{part}"
        names = [f"ISIC_{part}_{i:04}" for i in range(count)]
        table = pd.DataFrame(np.eye(7)[np.arange(count) % 7], columns=classes)
        table.insert(0, "image", names)
        (folder / f"{stem}_GroundTruth").mkdir(parents=True)
        table.to_csv(folder / f"{stem}_GroundTruth" / f"{stem}_GroundTruth.csv", index=False)
        draw_images(folder / f"{stem}_Input", [f"{name}.jpg" for name in names])
        if part == "Training":
            lesions = pd.DataFrame(
                {"image": names, "lesion_id": [f"L{i // 14}" for i in range(21)]}
            )
            lesions.to_csv(folder / f"{stem}_LesionGroupings.csv", index=False)
    return folder


def test_isic_2018_has_lesions_as_groups(tmp_path: Path) -> None:
    data = open_dataset(f"isic2018:{isic(tmp_path)}")
    assert len(data) == 35
    assert data.classes[:2] == ("MEL", "NV")
    assert data.targets.tolist() == [i % 7 for i in range(35)]
    assert data.groups is not None
    assert data.groups[:21].tolist() == [f"L{i // 14}" for i in range(21)]
    assert data.splits is not None
    assert data.splits.tolist() == ["train"] * 21 + ["val"] * 7 + ["test"] * 7
    shutil.rmtree(tmp_path / "ISIC2018_Task3_Test_GroundTruth")
    assert open_dataset(f"isic2018:{tmp_path}").splits is None


def test_a_wrong_isic_table_names_its_row(tmp_path: Path) -> None:
    isic(tmp_path)
    file = (
        tmp_path / "ISIC2018_Task3_Training_GroundTruth" / "ISIC2018_Task3_Training_GroundTruth.csv"
    )
    table = pd.read_csv(file)
    table.loc[4, "MEL"] = 1
    table.to_csv(file, index=False)
    with pytest.raises(InputError, match="row 6: exactly one class"):
        open_dataset(f"isic2018:{tmp_path}")
    (tmp_path / "ISIC2018_Task3_Training_LesionGroupings.csv").unlink()
    table.loc[4, "MEL"] = 0
    table.to_csv(file, index=False)
    with pytest.raises(InputError, match="LesionGroupings"):
        open_dataset(f"isic2018:{tmp_path}")
