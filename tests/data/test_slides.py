"""A small pyramid written by tifffile, cut by OpenSlide."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import run
from PIL import Image

from medept import InputError
from medept.data.dataset import read_dataset
from medept.data.slides import find_slides, write_tiles

pytest.importorskip("openslide")
tifffile = pytest.importorskip("tifffile")


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    """512 x 512 of glass at 0.25 micrometres, tissue in one quarter, and a second level."""
    pixels = np.full((512, 512, 3), 240, dtype=np.uint8)
    pixels[256:, :256] = (180, 60, 140)
    options = {"tile": (128, 128), "photometric": "rgb", "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(tmp_path / "s1.tif") as file:
        file.write(pixels, resolution=(40000, 40000), **options)
        file.write(pixels[::2, ::2], subfiletype=1, resolution=(20000, 20000), **options)
    return tmp_path / "s1.tif"


def test_tissue_is_cut_and_glass_is_not(slide: Path, tmp_path: Path) -> None:
    table = write_tiles(slide, tmp_path / "out", size=64, mpp=0.5)
    assert {(x, y) for x, y in zip(table["x"], table["y"], strict=True)} == {
        (0, 256), (128, 256), (0, 384), (128, 384)}  # fmt: skip
    assert set(table["group"]) == {"s1"}
    assert set(table["level"]) == {1}
    for name in table["path"]:
        tile = Image.open(tmp_path / "out" / name)
        assert tile.size == (64, 64)
        assert (np.asarray(tile) == (180, 60, 140)).all()


def test_it_goes_on_where_it_stopped(slide: Path, tmp_path: Path) -> None:
    first = write_tiles(slide, tmp_path / "out", size=64, mpp=0.5)
    kept, lost = (tmp_path / "out" / name for name in first["path"][:2])
    before = kept.stat().st_mtime_ns
    lost.unlink()
    assert write_tiles(slide, tmp_path / "out", size=64, mpp=0.5).equals(first)
    assert lost.exists()
    assert kept.stat().st_mtime_ns == before


def test_another_slide_of_the_same_name_is_refused(slide: Path, tmp_path: Path) -> None:
    write_tiles(slide, tmp_path / "out", size=64, mpp=0.5)
    moved = tmp_path / "patient-a" / slide.name
    moved.parent.mkdir()
    slide.rename(moved)
    write_tiles(moved, tmp_path / "out", size=64, mpp=0.5)
    other = np.full((512, 512, 3), (60, 60, 200), dtype=np.uint8)
    said = {"resolution": (40000, 40000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(slide, other, tile=(128, 128), photometric="rgb", **said)
    before = (tmp_path / "out" / "s1.csv").read_bytes()
    with pytest.raises(InputError, match=r"s1: holds something other than these tiles"):
        write_tiles(moved, tmp_path / "out", size=32, mpp=0.5)
    with pytest.raises(InputError, match=r"s1: holds something other than these tiles of .*s1.tif"):
        write_tiles(slide, tmp_path / "out", size=64, mpp=0.5)
    assert (tmp_path / "out" / "s1.csv").read_bytes() == before


def test_labels_added_to_its_table_stay(slide: Path, tmp_path: Path) -> None:
    first = write_tiles(slide, tmp_path, size=64, mpp=0.5)
    labelled = first.assign(label=[f"class {i % 2}" for i in range(len(first))])
    file = tmp_path / f"{slide.stem}.csv"
    labelled[1:].to_csv(file, index=False)
    again = write_tiles(slide, tmp_path, size=64, mpp=0.5)
    assert again["label"].tolist() == ["", *labelled["label"][1:]]
    assert pd.read_csv(file, keep_default_na=False)["label"].tolist() == again["label"].tolist()
    assert again.drop(columns="label").equals(first)


def test_the_command_cuts_tissue(
    slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--size", 64, "--mpp", 0.5]
    assert run("tiles", slide, *options, "--out", tmp_path / "out", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"out": str(tmp_path / "out"), "tiles": 4}
    assert run("tiles", slide, *options, "--out", tmp_path / "fine", "--slide-mpp", 0.5) == 0
    assert len(pd.read_csv(tmp_path / "fine" / "s1.csv")) == 16, "a tile is half as wide"


def test_several_slides_have_one_table(slide: Path, tmp_path: Path) -> None:
    """Which `fit` reads, and in which labels stay; each slide has its own beside it."""
    second, out = slide.with_name("s2.tif"), tmp_path / "out"
    second.write_bytes(slide.read_bytes())
    for _ in range(2):
        assert run("tiles", slide, second, "--size", 64, "--out", out) == 0
        table = pd.read_csv(out / "slides.csv")
        table.assign(label=table["slide"]).to_csv(out / "slides.csv", index=False)
    data = read_dataset(out / "slides.csv")
    assert data.groups is not None
    assert data.groups.tolist() == [*["s1"] * 4, *["s2"] * 4]
    assert data.classes == ("s1", "s2")
    assert len(pd.read_csv(out / "s2.csv")) == 4


def test_bad_slides_and_numbers(slide: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such slide"):
        write_tiles(tmp_path / "none.svs", tmp_path / "out")
    (tmp_path / "bad.svs").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"bad.svs: OpenSlide cannot read"):
        write_tiles(tmp_path / "bad.svs", tmp_path / "out")
    with pytest.raises(InputError, match="mpp= above 0"):
        write_tiles(slide, tmp_path / "out", mpp=0)


def test_a_folder_of_slides_is_told_what_is_left_out(
    slide: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "s1.xml").write_text("<annotations/>")
    with caplog.at_level("INFO"):
        assert find_slides([tmp_path]) == [slide]
        write_tiles(slide, tmp_path / "out", size=72, mpp=0.5, tissue=0.5)
    told = caplog.text
    assert "1 slides; left out: " in told
    assert "1 .txt" in told
    assert "1 .xml" in told
    assert "s1.tif: 2 tiles; left out: 7 with less than 50 % of tissue" in caplog.text
    assert "a margin of 80 x 80 pixels" in caplog.text
    with pytest.raises(InputError, match="no slide in this folder"):
        find_slides([tmp_path / "out"])
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "s1.tif").write_bytes(slide.read_bytes())
    with pytest.raises(InputError, match="two slides of one name"):
        find_slides([tmp_path, tmp_path / "b"])
