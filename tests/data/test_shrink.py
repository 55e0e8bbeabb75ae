"""A small copy of a data set: the same images, labels, groups and splits."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import run
from PIL import Image

from medept import InputError
from medept.data.dataset import read_dataset
from medept.data.images import read_image
from medept.data.labelled_images import LabelledImages
from medept.data.shrink import write_shrunk


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Four images of four kinds, in folders, of three patients."""
    (tmp_path / "data" / "a").mkdir(parents=True)
    rng, folder = np.random.default_rng(0), tmp_path / "data"
    colours = rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(colours).save(folder / "a" / "large.png")
    Image.fromarray(colours[:20, :20]).save(folder / "a" / "small.jpg")
    deep = rng.integers(0, 2**12, (50, 40)).astype(np.uint16)
    Image.fromarray(deep).save(folder / "deep.tif")
    Image.fromarray(colours[..., 0]).rotate(90, expand=True).save(folder / "grey.bmp")
    pd.DataFrame(
        {
            "image": ["a/large.png", "a/small.jpg", "deep.tif", "grey.bmp"],
            "label": ["x", "y|x", "", "y"],
            "patient": ["p1", "p1", "p2", "p3"],
            "split": ["train", "train", "test", "test"],
        }
    ).to_csv(folder / "labels.csv", index=False)
    return folder / "labels.csv"


def test_the_copy_is_read_as_the_original_is(table: Path, tmp_path: Path) -> None:
    before = read_dataset(table)
    assert run("shrink", table, "--out", tmp_path / "out", "--pixels", 30) == 0
    after = read_dataset(tmp_path / "out" / "labels.csv")
    assert after.classes == before.classes == ("x", "y")
    assert after.targets.tolist() == before.targets.tolist() == [[1, 0], [1, 1], [0, 0], [0, 1]]
    assert list(after.groups) == list(before.groups)
    assert list(after.splits) == list(before.splits)
    assert after.names[0] == "images/a/large.png.png"
    sizes = [read_image(image).size for image in after.images]
    assert sizes == [(45, 30), (20, 20), (30, 38), (30, 45)]
    small = (np.asarray(read_image(part.images[1])) for part in (before, after))
    assert np.array_equal(*small), "what is small enough is not resampled"
    ours, whole = (np.asarray(read_image(part.images[2])).astype(float) for part in (after, before))
    assert ours.mean() == pytest.approx(whole.mean(), abs=3), "16 bits are stretched once"


def test_it_goes_on_where_it_stopped_and_sees_what_changed(table: Path, tmp_path: Path) -> None:
    data, out = read_dataset(table), tmp_path / "out"
    write_shrunk(data, out, pixels=10)
    kept, lost, changed = (out / "images" / name for name in
                           ("a/large.png.png", "a/small.jpg.png", "deep.tif.png"))  # fmt: skip
    before = kept.stat().st_mtime_ns
    lost.unlink()
    Image.new("L", (5, 5), 7).save(table.parent / "deep.tif")
    late = changed.stat().st_mtime_ns + 10**9
    os.utime(table.parent / "deep.tif", ns=(late, late))
    write_shrunk(data, out, pixels=10)
    assert lost.exists()
    assert kept.stat().st_mtime_ns == before
    assert Image.open(changed).size == (5, 5)


def test_a_copy_whose_original_is_gone_is_removed(table: Path, tmp_path: Path) -> None:
    data, out = read_dataset(table), tmp_path / "out"
    write_shrunk(data, out, pixels=10)
    write_shrunk(data.subset([1, 2, 3]), out, pixels=10)
    assert not (out / "images/a/large.png.png").exists()
    assert len(read_dataset(out / "labels.csv")) == len(list(out.rglob("*.png"))) == 3


def test_nothing_of_the_users_is_overwritten(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = table.read_bytes()
    assert run("shrink", table, "--out", table.parent) == 2
    assert "holds something other than copies" in capsys.readouterr().err
    assert table.read_bytes() == before
    assert run("shrink", table, "--out", tmp_path / "out", "--pixels", 10) == 0
    assert run("shrink", table, "--out", tmp_path / "out", "--pixels", 20) == 2, "of another size"
    for name in ("x", "y"):
        (tmp_path / "classes" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "classes" / name / "1.png")
    assert run("shrink", tmp_path / "classes", "--out", tmp_path / "classes" / "small") == 2
    assert "inside the folder that is copied" in capsys.readouterr().err


def test_one_label_an_image_stays_multilabel(tmp_path: Path) -> None:
    images = tuple(np.full((4, 4, 3), value, dtype=np.uint8) for value in (0, 9))
    targets = np.array([[1, 0], [0, 1]], dtype=np.uint8)
    data = LabelledImages(images, ("a.png", "b.png"), targets, ("x", "y"))
    again = read_dataset(write_shrunk(data, tmp_path / "out"))
    assert again.task == "multilabel"
    assert np.array_equal(again.targets, targets)


def test_bad_input_is_named(table: Path, tmp_path: Path) -> None:
    data = read_dataset(table)
    with pytest.raises(InputError, match="pixels=0"):
        write_shrunk(data, tmp_path / "out", pixels=0)
    (table.parent / "grey.bmp").write_bytes(b"BM nothing")
    with pytest.raises(InputError, match=r"grey\.bmp"):
        write_shrunk(data, tmp_path / "out")
    assert not (tmp_path / "out" / "labels.csv").exists(), "the table is written last"
    for name in ("../a.png", "/a.png", "\\a.png", "..\\a.png", "C:\\a.png", "C:/a.png"):
        outside = LabelledImages(data.images[:1], (name,), data.targets[:1], data.classes)
        with pytest.raises(InputError, match="out of the folder"):
            write_shrunk(outside, tmp_path / "out")
