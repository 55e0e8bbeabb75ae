"""What in a folder is an image, and how what is left out is told."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import run
from PIL import Image

from medept import InputError
from medept.checks.check import check_dataset
from medept.data.dataset import read_dataset
from medept.data.find_images import find_images
from medept.data.formats import register_heif
from medept.data.images import read_image


def draw(root: Path, *names: str, format: str | None = "PNG") -> None:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (16, 16, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(path, format=format)


def names_below(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_images([folder]).images]


@pytest.mark.parametrize(
    ("picture", "companion", "told"),
    [
        ("benign (1).png", "benign (1)_mask.png", "1 mask (..._mask.png)"),
        ("benign (1).png", "benign (1)_mask_1.png", "1 mask (..._mask_1.png)"),
        ("benign (1).png", "benign (1) (mask).png", "1 mask (... (mask).png)"),
        ("ISIC_1.jpg", "ISIC_1_segmentation.png", "1 segmentation (..._segmentation.png)"),
        ("ISIC_1.jpg", "isic_1_Superpixels.PNG", "1 annotation (..._Superpixels.PNG)"),
        ("im0001.ppm", "im0001-GT.gif", "1 mask (...-GT.gif)"),
        ("7.jpg", "7.jpg_overlay.png", "1 overlay (..._overlay.png)"),
        ("7.jpg", "7.overlay.jpg", "1 overlay (....overlay.jpg)"),
        ("7.jpg", "thumb_7.jpg", "1 thumbnail (thumb_....jpg)"),
        ("7.jpg", "7-150x150.jpg", "1 thumbnail (...-150x150.jpg)"),
        ("7.png", "masks/7.png", "1 mask (masks/...)"),
        ("images/7.png", "masks/7.png", "1 mask (masks/...)"),
        ("images/7.png", "Labels/7_label.png", "1 annotation (Labels/...)"),
        ("7.heic", "7_mask.png", "1 mask (..._mask.png)"),
        ("7.nii.gz", "7_overlay.png", "1 overlay (..._overlay.png)"),
        ("7.nii.gz", "7_seg.nii.gz", "1 segmentation (..._seg.nii.gz)"),
        ("7.png", "@eaDir/7.png/SYNOPHOTO_THUMB_M.jpg", "1 file in @eaDir"),
        ("7.png", "__MACOSX/._7.png", "1 file in __MACOSX"),
        ("7.png", "#recycle/8.png", "1 file in #recycle"),
        ("7.png", ".thumbnails/7.png", "1 file in .thumbnails"),
        ("7.png", "._7.png", "1 hidden file (._7.png)"),
        ("7.png", ".DS_Store", "1 .DS_Store"),
        ("7.png", "Thumbs.db", "1 Thumbs.db"),
    ],
)
def test_what_belongs_to_a_picture_or_a_system_is_left_out_and_named(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    picture: str,
    companion: str,
    told: str,
) -> None:
    caplog.set_level(logging.INFO, "medept")
    draw(tmp_path, "other.png", picture, companion)
    found = names_below(tmp_path)
    assert companion not in found
    assert "other.png" in found
    assert told in caplog.text
    assert ("a table that names files uses them" in caplog.text) == ("..." in told)


@pytest.mark.parametrize(
    "names",
    [
        ("mask/1.png", "mask/2.png", "no_mask/1.png", "no_mask/2.png"),
        ("thumb/1.png", "index finger/1.png"),
        ("label/a/1.png", "blank/a/1.png"),
        ("overlay/1_mask.png", "plain/1.png"),
    ],
)
def test_classes_called_like_companions_stay_classes(tmp_path: Path, names: tuple[str]) -> None:
    draw(tmp_path, *names)
    assert list(read_dataset(tmp_path).names) == sorted(names)
    assert names_below(tmp_path) == sorted(names)


def test_a_mask_without_its_picture_is_used_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    draw(tmp_path, "a/1.png", "a/2_mask.png", "b/3.png")
    assert len(read_dataset(tmp_path)) == 3
    assert "1 of its images are named like masks" in caplog.text
    assert "2_mask.png" in caplog.text


def test_a_table_may_name_a_mask_and_loses_no_row(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    draw(tmp_path, "1.png", "1_mask.png")
    (tmp_path / "t.csv").write_text("image,label\n1.png,a\n1_mask.png,b\n")
    assert read_dataset(tmp_path / "t.csv").names == ("1.png", "1_mask.png")
    assert len(find_images([tmp_path / "t.csv"])) == 2
    assert find_images([tmp_path / "1_mask.png"]).images == [tmp_path / "1_mask.png"]
    assert caplog.text.count("1 of its images are named like masks") == 2


def test_folders_of_pictures_and_masks_are_no_two_classes_without_a_word(tmp_path: Path) -> None:
    draw(tmp_path, "images/1.png", "images/2.png", "masks/1.png", "masks/2.png")
    with pytest.warns(UserWarning, match="class masks holds files of the same names as the class"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("parts", ["", "train/", "train/a/"])
def test_folders_of_systems_are_no_classes_and_no_parts(tmp_path: Path, parts: str) -> None:
    draw(
        tmp_path, "train/a/1.png", "train/b/2.png", f"{parts}@eaDir/1.png", f"{parts}__MACOSX/1.png"
    )
    data = read_dataset(tmp_path)
    assert data.names == ("train/a/1.png", "train/b/2.png")


@pytest.mark.parametrize(
    ("name", "format"),
    [("photo", "JPEG"), ("photo", "PNG"), ("a.jfif", "JPEG"), ("a.jp2", "JPEG2000"),
     ("a.j2k", "JPEG2000"), ("a.bak", "TIFF"), ("a.1", "BMP"), ("a.x", "WEBP"), ("a.img", "GIF"),
     ("a.pgm2", "PPM"), ("IMG.PNG", "PNG"), ("1.2.840.5", "JPEG")],
)  # fmt: skip
def test_formats_are_found_by_content(tmp_path: Path, name: str, format: str) -> None:
    draw(tmp_path, name, format=format)
    draw(tmp_path, "reference.png")
    assert sorted(names_below(tmp_path)) == sorted([name, "reference.png"])
    if format in ("PNG", "TIFF", "BMP", "PPM"):
        found = np.asarray(read_image(tmp_path / name)).astype(int)
        expected = np.asarray(Image.open(tmp_path / "reference.png"))
        assert (found == expected).all()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.mha", b"ObjectType", "1 .mha (save the volume as NIfTI)"),
        ("a.NRRD", b"NRRD0004", "1 .nrrd (save the volume as NIfTI)"),
        ("a.svs", b"II*\0", "1 .svs (whole slides: `medept tiles`)"),
        ("a.dng", b"II*\0", "1 .dng (camera raw is not read"),
        ("a.mp4", b"\0\0\0\x18ftypmp42", "1 .mp4 (video is not read"),
        ("a.zip", b"PK\3\4", "1 .zip (unpack it)"),
        ("a.jxl", b"\xff\x0a\0\0", "1 .jxl (not read; save it as PNG)"),
        ("a.json", b"{}", "1 .json"),
        ("bmi.csv", b"BMI,label,patient and more", "1 .csv"),
        ("P1", b"P1 is a patient", "1 file without a suffix"),
        ("README", b"text", "1 file without a suffix"),
    ],
)
def test_what_is_not_read_is_counted_by_suffix_with_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, content: bytes, told: str
) -> None:
    caplog.set_level(logging.INFO, "medept")
    draw(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "b" / name).write_bytes(content)
    data = read_dataset(tmp_path)
    assert told in data.left_out
    assert f"{tmp_path}: 2 images; left out: {told}" in caplog.text
    found = {finding.kind: finding for finding in check_dataset(data).findings}
    assert told in found["left-out"].title
    assert not found["left-out"].flatters
    assert "left-out" not in {f.kind for f in check_dataset(data.subset([0, 1])).findings}


def test_a_class_of_files_that_are_not_read_says_which(tmp_path: Path) -> None:
    draw(tmp_path, "a/1.png")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1.nrrd").write_bytes(bytes(400))
    with pytest.raises(InputError, match=r"b: no image .*\(but 1 .nrrd \(save the volume as"):
        read_dataset(tmp_path)
    with pytest.raises(InputError, match=r"b: no image .*\(but 1 .nrrd"):
        find_images([tmp_path / "b"])


def test_a_link_to_a_folder_is_not_followed_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    draw(tmp_path, "data/a/1.png", "data/b/2.png", "elsewhere/3.png")
    (tmp_path / "data" / "a" / "more").symlink_to(tmp_path / "elsewhere")
    assert len(read_dataset(tmp_path / "data")) == 2
    assert "1 link to a folder (more is not followed)" in caplog.text


def test_heic_is_read_under_any_name_or_told_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    draw(tmp_path, "1.png", "2.png")
    smooth = np.tile(np.linspace(0, 255, 64).round().astype(np.uint8)[:, None, None], (1, 64, 3))
    pillow_heif.from_pillow(Image.fromarray(smooth)).save(tmp_path / "3.heic", quality=95)
    (tmp_path / "photo.jpg").write_bytes((tmp_path / "3.heic").read_bytes())
    assert len(names_below(tmp_path)) == 4
    for name in ("3.heic", "photo.jpg"):
        shown = np.asarray(read_image(tmp_path / name)).astype(int)
        assert np.abs(shown - smooth).mean() < 3
    (tmp_path / "4.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    assert len(names_below(tmp_path)) == 4
    assert "1 .heic (damaged)" in caplog.text
    register_heif.cache_clear()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(InputError, match=r"photo.jpg: HEIC needs pillow-heif: pip install 'medept"):
        read_image(tmp_path / "photo.jpg")
    assert len(names_below(tmp_path)) == 3  # photo.jpg too: its name is that of an image
    assert "2 .heic (pip install 'medept[heic]')" in caplog.text


def test_check_tells_masks_beside_their_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"{c}/{c} ({i}){end}.png" for c in "ab" for i in range(3) for end in ("", "_mask")]
    draw(tmp_path, *names)
    data = read_dataset(tmp_path)
    assert len(data) == 6
    assert data.left_out == "6 masks (..._mask.png)"
    assert run("check", str(tmp_path), "--json") == 0
    assert "6 masks (..._mask.png)" in capsys.readouterr().out
