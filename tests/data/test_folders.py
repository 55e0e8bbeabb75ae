"""Folders with a subfolder per class, or with the parts of a split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medept import InputError
from medept.data.dataset import read_dataset


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
