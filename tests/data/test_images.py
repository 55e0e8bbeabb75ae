"""Every mode and file that hospitals produce, and every way in which a file can be bad."""

from __future__ import annotations

import os
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from medept import InputError
from medept.data import formats
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


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_a_tiff_whose_least_value_is_white_is_shown_so(
    tmp_path: Path, kind: type[np.generic]
) -> None:
    tifffile = pytest.importorskip("tifffile")
    values = np.linspace(0, 255, 48).reshape(6, 8).astype(kind)
    tifffile.imwrite(tmp_path / "film.tif", values, photometric="miniswhite")
    image = np.asarray(read_image(tmp_path / "film.tif"))
    assert np.abs(image[..., 0] - (255.0 - values)).max() <= 1


def test_sixteen_bit_colours_keep_their_upper_bits(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    values = np.random.default_rng(0).integers(0, 65536, (6, 8, 3)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "colour.tif", values, photometric="rgb")
    image = np.asarray(read_image(tmp_path / "colour.tif"))
    assert np.abs(image - values / 257.0).max() <= 1


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


def test_floats_from_0_to_1_are_the_same_picture_as_bytes() -> None:
    image = np.asarray(read_image(RAMP / 255.0))
    assert (image[..., 0] == RAMP).all()


def test_sixteen_bit_colours_are_stretched_together_and_alpha_is_not() -> None:
    array = np.zeros((2, 2, 4), dtype=np.uint16)
    array[0, :, 0], array[1, :, 1], array[..., 3] = 2000, 1000, 65535
    image = np.asarray(read_image(array))
    assert image[0, 0].tolist() == [255, 0, 0]
    assert image[1, 0, 1] in (127, 128)


def bad_file(folder: Path, kind: str) -> Path:
    path = folder / "scan_17.png"
    whole = saved(folder, Image.fromarray(RAMP).resize((64, 64)), "whole.png").read_bytes()
    if kind == "missing":
        return path
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "program":
        Image.fromarray(RAMP).save(path, format="eps")
    else:
        path.write_bytes({"empty": b"", "truncated": whole[: len(whole) // 2],
                          "text": b"not an image at all",
                          "broken": whole[:40] + b"\xff" * 30 + whole[70:]}[kind])  # fmt: skip
    return path


@pytest.mark.parametrize(
    "kind",
    ["missing", "folder", "pipe", "empty", "truncated", "text", "broken", "program"],
)
def test_a_bad_file_is_named_with_a_reason(tmp_path: Path, kind: str) -> None:
    with pytest.raises(InputError, match=rf"scan_17.png: {REASONS[kind]}") as caught:
        read_image(bad_file(tmp_path, kind))
    assert any(remedy in str(caught.value) for remedy in ("check", "give", "replace"))


REASONS = {"missing": "no such", "folder": "a folder", "pipe": ".*device", "empty": "empty file",
           "truncated": "damaged", "text": "not an image", "broken": "damaged|not an image",
           "program": "not an image"}  # fmt: skip


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = saved(tmp_path, Image.fromarray(RAMP), "locked.png")
    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(InputError, match=r"locked.png: permission denied; check its permissions"):
        read_image(path)


def test_damage_in_an_image_opened_elsewhere_is_named(tmp_path: Path) -> None:
    with (
        Image.open(bad_file(tmp_path, "truncated")) as image,
        pytest.raises(InputError, match=r"scan_17.png: damaged"),
    ):
        read_image(image)


@pytest.mark.parametrize("excess", [1.5, 3])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_both_bounds_of_pillow_are_errors_and_warnings_stay_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, excess: float
) -> None:
    path = saved(tmp_path, Image.fromarray(RAMP), "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(RAMP.size / excess))
    before = list(warnings.filters)
    with pytest.raises(InputError, match=r"bomb.png: more than \d+ pixels; make a smaller copy"):
        read_image(path)
    assert warnings.filters == before


def _encoded(format: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif} if format in ("JPEG", "PNG", "WEBP") else {}
    file = BytesIO()
    Image.fromarray(RAMP).resize((40, 30)).convert("RGB").save(file, format, **options)
    return file.getvalue()


WHOLE = {format: _encoded(format) for format in ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF")}


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None
)
@given(
    st.sampled_from(sorted(WHOLE)),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=6),
    st.integers(0, 10_000) | st.none(),
)
@pytest.mark.filterwarnings("ignore")
def test_any_damage_gives_an_image_or_our_own_error(
    tmp_path: Path, format: str, changes: list[tuple[int, int]], length: int | None
) -> None:
    content = bytearray(WHOLE[format])
    for place, value in changes:
        content[place % len(content)] = value
    path = tmp_path / "fuzzed.png"
    path.write_bytes(content[: None if length is None else length % len(content)])
    try:
        assert read_image(path).mode == "RGB"
    except InputError as error:
        assert "fuzzed.png" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    "array",
    [np.zeros((3,)), np.zeros((0, 4)), np.zeros((4, 4, 7)), np.full((2, 2), np.nan),
     np.full((2, 2), 1.5), np.full((2, 2), -200, dtype=np.int16), np.array([["a", "b"]]),
     np.array([[None, 1]])],
)  # fmt: skip
def test_an_array_that_is_no_image_is_refused(array: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"array of shape .*(use|rescale)"):
        read_image(array)


def test_what_is_no_image_at_all_is_refused() -> None:
    with pytest.raises(InputError, match="PIL image: no pixels"):
        read_image(Image.new("RGB", (0, 5)))
    with pytest.raises(InputError, match="NoneType is not an image: give a path"):
        read_image(None)  # type: ignore[arg-type]


@pytest.mark.skipif(not formats.AVIF, reason="this Pillow cannot read AVIF")
def test_avif_is_read_whatever_its_name(tmp_path: Path) -> None:
    pixels = np.full((16, 16, 3), (200, 100, 50), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.avif", quality=100)
    (tmp_path / "b").write_bytes((tmp_path / "a.avif").read_bytes())
    for name in ("a.avif", "b"):
        found = np.asarray(read_image(tmp_path / name)).astype(int)
        assert np.abs(found - pixels).max() <= 4
        assert formats.why_no_image(tmp_path / name) is None
