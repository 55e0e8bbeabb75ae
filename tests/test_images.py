"""Every mode and file that hospitals produce, and every way in which a file can be bad."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from medept import InputError
from medept.data.images import read_image

RAMP = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


def saved(folder: Path, image: Image.Image, name: str, **options: object) -> Path:
    image.save(folder / name, **options)
    return folder / name


@pytest.mark.parametrize(
    ("mode", "name"),
    [("L", "a.png"), ("RGB", "a.png"), ("P", "a.png"), ("LA", "a.png"), ("RGBA", "a.png"),
     ("1", "a.png"), ("CMYK", "a.jpg"), ("L", "a.tif"), ("RGB", "a.bmp"), ("RGB", "a.webp"),
     ("P", "a.gif"), ("CMYK", "a.tif"), ("YCbCr", "a.jpg")],
)  # fmt: skip
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str, name: str) -> None:
    original = Image.fromarray(RAMP).convert(mode)
    image = read_image(saved(tmp_path, original, name))
    assert (image.mode, image.size) == ("RGB", (8, 6))
    if mode not in ("1",):
        difference = np.asarray(image.convert("L"), dtype=int) - RAMP
        assert abs(difference).mean() < 12


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_are_stretched_from_their_own_range(tmp_path: Path, name: str) -> None:
    values = (1000 + RAMP.astype(np.uint16) * 9).astype(np.uint16)
    image = np.asarray(read_image(saved(tmp_path, Image.fromarray(values), name)))
    expected = np.round((values - 1000) / (values.max() - 1000) * 255)
    assert np.abs(image[..., 0] - expected).max() <= 1
    assert (image[..., 0] == image[..., 2]).all()


def test_float_tiff_and_constant_image(tmp_path: Path) -> None:
    floats = np.linspace(-3, 7, 48, dtype=np.float32).reshape(6, 8)
    image = np.asarray(read_image(saved(tmp_path, Image.fromarray(floats), "a.tif")))
    assert (image.min(), image.max()) == (0, 255)
    constant = np.full((4, 4), 777, dtype=np.uint16)
    assert np.asarray(read_image(constant)).max() == 0


def test_transparency_is_laid_over_black() -> None:
    rgba = np.full((4, 4, 4), 200, dtype=np.uint8)
    rgba[:2, :, 3] = 0
    image = np.asarray(read_image(rgba))
    assert image[:2].max() == 0
    assert 150 <= image[2:].min() <= 160  # 200 * 200 / 255


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    path = saved(tmp_path, Image.fromarray(RAMP), "a.jpg", exif=exif)
    assert read_image(path).size == (6, 8)


@given(hnp.arrays(np.uint8, st.sampled_from([(3, 5), (3, 5, 1), (3, 5, 3)])))
def test_uint8_arrays_keep_their_values(array: np.ndarray) -> None:
    image = np.asarray(read_image(array))
    assert (image == array.reshape(3, 5, -1)).all()


def bad_file(folder: Path, kind: str) -> Path:
    path = folder / "scan_17.png"
    whole = saved(folder, Image.fromarray(RAMP).resize((64, 64)), "whole.png").read_bytes()
    if kind == "missing":
        return path
    if kind == "folder":
        path.mkdir()
    else:
        path.write_bytes({"empty": b"", "truncated": whole[: len(whole) // 2],
                          "text": b"not an image at all",
                          "broken": whole[:40] + b"\xff" * 30 + whole[70:]}[kind])  # fmt: skip
    return path


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "truncated", "text", "broken"])
def test_a_bad_file_is_named_with_a_reason(tmp_path: Path, kind: str) -> None:
    with pytest.raises(InputError, match="scan_17.png: .{8,}"):
        read_image(bad_file(tmp_path, kind))


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, Image.fromarray(RAMP), "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(InputError, match=r"bomb.png: more than 40 pixels; shrink"):
        read_image(path)


@pytest.mark.parametrize(
    "array",
    [np.zeros((3,)), np.zeros((0, 4)), np.zeros((4, 4, 7)), np.full((2, 2), np.nan),
     np.array([["a", "b"]])],
)  # fmt: skip
def test_an_array_that_is_no_image_is_refused(array: np.ndarray) -> None:
    with pytest.raises(InputError):
        read_image(array)
