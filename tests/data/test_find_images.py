"""Images without labels, from files, folders and tables in the order in which they are given."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from medept import InputError
from medept.data.find_images import find_images


def test_files_folders_and_tables_keep_their_order(folder: Path) -> None:
    (folder / "deep" / "er").mkdir(parents=True)
    for name in ("deep/er/z.png", "deep/y.jpg", "deep/.hidden.png"):
        Image.new("RGB", (8, 8)).save(folder / name)
    (folder / "t.csv").write_text("path,age\nb.png,50\na.png,61\n")
    found = find_images([folder / "f.png", folder / "t.csv", folder / "deep"])
    names = [image.relative_to(folder).as_posix() for image in found.images]
    assert names == ["f.png", "b.png", "a.png", "deep/er/z.png", "deep/y.jpg"]


def test_columns_of_a_table_may_be_named_and_frames_are_read(folder: Path) -> None:
    (folder / "t.csv").write_text("image,scan,frame\nx,a.png,3\ny,b.png,1\n")
    found = find_images([folder / "t.csv"], image_column="scan", image_root=folder)
    assert [image.name for image in found.images] == ["a.png#3", "b.png#1"]


def test_what_is_no_image_is_named(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "t.csv").write_text("age\n50\n")
    for path, message in {
        folder / "none.png": "none.png: no such file or folder",
        folder / "empty": "empty: no image in this folder",
        folder / "t.csv": "t.csv: none of its columns",
    }.items():
        with pytest.raises(InputError, match=message):
            find_images([path])
