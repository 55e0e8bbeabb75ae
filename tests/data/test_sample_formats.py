"""Each sample format is shown as the values that were written say, or refused by its name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from medept import InputError
from medept.data.images import read_image

RAMP = np.linspace(0, 1, 24 * 40).reshape(24, 40)
RGB = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], axis=-1)


def shown(path: Path) -> np.ndarray:
    return np.asarray(read_image(path)).astype(float)


def in_range(values: np.ndarray, dtype: str) -> np.ndarray:
    """Values from 0 to 1 over the whole range of a type."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return (values * 1000 - 300).astype(kind)
    info = np.iinfo(kind)
    span = float(info.max) - float(info.min)
    return np.clip(values * span + info.min, info.min, np.nextafter(float(info.max), 0)).astype(
        kind
    )


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize(
    "dtype", ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"]
)
def test_grey_tiffs_of_8_to_64_bits(
    tmp_path: Path, dtype: str, photometric: str, compression: str | None, order: str
) -> None:
    values = in_range(RAMP, dtype)
    tifffile.imwrite(
        tmp_path / "a.tif", values, photometric=photometric, compression=compression,
        byteorder=order,
    )  # fmt: skip
    there = tifffile.imread(tmp_path / "a.tif").astype(float)
    expected = there if dtype == "u1" else (there - there.min()) / np.ptp(there) * 255
    expected = 255 - expected if photometric == "miniswhite" else expected
    assert np.abs(shown(tmp_path / "a.tif") - expected[..., None]).max() <= 1


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize("alpha", [None, "unassalpha", "assocalpha"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "u4"])
def test_colour_tiffs_in_any_layout(
    tmp_path: Path, dtype: str, alpha: str | None, planes: str, order: str
) -> None:
    values, expected = in_range(RGB, dtype), RGB * 255
    if alpha:
        opaque = in_range(np.clip(2 * RAMP, 0, 1), dtype)[..., None]
        top = np.iinfo(dtype).max
        if alpha == "assocalpha":
            values = np.minimum(values, opaque)
            expected = values / top * 255
        else:
            expected = values / top * (opaque / top) * 255
        values = np.concatenate([values, opaque], axis=-1)
    tifffile.imwrite(
        tmp_path / "a.tif", values if planes == "contig" else np.moveaxis(values, -1, 0),
        photometric="rgb", planarconfig=planes, byteorder=order,
        extrasamples=[alpha] if alpha else None,
    )  # fmt: skip
    assert np.abs(shown(tmp_path / "a.tif") - expected).max() <= (3 if alpha else 1)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_grey_with_transparency(tmp_path: Path, dtype: str) -> None:
    top = np.iinfo(dtype).max
    grey, opaque = in_range(RAMP, dtype), in_range(RAMP[::-1], dtype)
    tifffile.imwrite(
        tmp_path / "a.tif", np.stack([grey, opaque], -1), photometric="minisblack",
        planarconfig="contig", extrasamples=["unassalpha"],
    )  # fmt: skip
    expected = grey / top * (opaque / top) * 255
    assert np.abs(shown(tmp_path / "a.tif") - expected[..., None]).max() <= 2


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_inks_are_subtracted_from_white(tmp_path: Path, dtype: str, order: str) -> None:
    inks = np.concatenate([RGB, np.zeros_like(RGB[..., :1])], axis=-1)
    tifffile.imwrite(
        tmp_path / "a.tif", in_range(inks, dtype), photometric="separated", planarconfig="contig",
        byteorder=order,
    )  # fmt: skip
    assert np.abs(shown(tmp_path / "a.tif") - (1 - RGB) * 255).max() <= 2


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_few_bits_are_as_pillow_wrote_them(tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(np.round(RAMP * 255).astype(np.uint8)).convert(mode)
    expected = np.asarray(picture.convert("RGB")).astype(float)
    for name in ("a.tif", "a.png", "a.bmp", "a.gif"):
        picture.save(tmp_path / name)
        assert np.abs(shown(tmp_path / name) - expected).max() == 0


def test_colours_in_floats_are_from_0_to_1(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", RGB.astype(np.float32), photometric="rgb")
    assert np.abs(shown(tmp_path / "a.tif") - RGB * 255).max() <= 0.5 + 1e-4
    tifffile.imwrite(tmp_path / "b.tif", 300 * RGB.astype(np.float64), photometric="rgb")
    with pytest.raises(InputError, match=r"b.tif: floats of colours must be from 0 to 1"):
        read_image(tmp_path / "b.tif")


@pytest.mark.parametrize(
    ("values", "options", "told"),
    [
        (RGB.astype("i2"), {"photometric": "rgb"}, "3 x 16 bits, signed, RGB"),
        (np.zeros((8, 8), "c8"), {}, "1 x 64 bits, unusual, MINISBLACK"),
        (np.zeros((8, 8, 5), "u2"), {"photometric": "minisblack", "planarconfig": "contig"},
         "5 x 16 bits, unsigned, MINISBLACK"),
        (np.zeros((4, 8, 8), "u4"), {"photometric": "separated", "planarconfig": "separate"},
         "4 x 32 bits, unsigned, SEPARATED, separate planes"),
        (np.zeros((8, 8, 3), "u2"), {"photometric": "cielab"}, "3 x 16 bits, unsigned, CIELAB"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_refused_by_its_kind(
    tmp_path: Path, values: np.ndarray, options: dict[str, str], told: str
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", values, **options)
    with pytest.raises(InputError, match=rf"a.tif: a TIFF of {told}.* not read.*save it as PNG"):
        read_image(tmp_path / "a.tif")


def test_an_unusual_tiff_is_turned_and_bounded_and_its_damage_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, in_range(RAMP, "u4"), extratags=[(274, 3, 1, 6, True)])
    assert read_image(path).size == (24, 40)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"a.tif: .*(damaged|not an image)"):
        read_image(path)
    path.write_bytes(whole)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match=r"a.tif: more than 100 pixels"):
        read_image(path)


@pytest.mark.parametrize(
    ("name", "most"), [("a.webp", 0), ("a.jp2", 0), ("a.png", 0), ("a.jpg", 8)]
)
def test_colours_of_other_formats_beside_the_array(tmp_path: Path, name: str, most: int) -> None:
    colours = np.round(RGB * 255).astype(np.uint8)
    lossless = {"lossless": True} if name == "a.webp" else {}
    Image.fromarray(colours).save(tmp_path / name, **lossless)
    assert np.abs(shown(tmp_path / name) - colours).mean() <= most


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["a.jp2", "a.j2k"])
def test_jpeg_2000_of_many_bits_is_as_openjpeg_wrote_it(
    tmp_path: Path, bits: int, channels: int, name: str
) -> None:
    """Colours of more than 8 bits are refused: Pillow shows their brightest values as black."""
    openjpeg = pytest.importorskip("openjpeg.utils")
    ramp = np.linspace(0, 1, 48 * 64).reshape(48, 64)
    grey = np.round(ramp * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)
    values = grey if channels == 1 else np.stack([grey] * 3, axis=-1)
    written = openjpeg.encode_array(
        values, bits_stored=bits, photometric_interpretation=2 if channels == 1 else 1,
        codec_format=int(name == "a.jp2"),
    )  # fmt: skip
    (tmp_path / name).write_bytes(written)
    if channels == 3 and bits > 8:
        with pytest.raises(InputError, match=rf"{name}: JPEG 2000 of 3 x {bits} bits"):
            read_image(tmp_path / name)
        return
    expected = np.round(grey / grey.max() * 255)[..., None]
    assert np.abs(shown(tmp_path / name) - expected).max() <= 1


@pytest.mark.parametrize("name", ["a.tif", "a.jpg"])
def test_black_ink_darkens_the_others(tmp_path: Path, name: str) -> None:
    inks = np.zeros((48, 64, 4), np.uint8)
    inks[..., 0] = np.linspace(0, 200, 64)
    inks[..., 3] = np.linspace(0, 255, 48)[:, None]
    Image.fromarray(inks, mode="CMYK").save(tmp_path / name, quality=100, subsampling=0)
    light = 255 - inks.astype(float)
    expected = light[..., :3] * light[..., 3:] / 255
    assert np.abs(shown(tmp_path / name) - expected).max() <= 2


CODECS = "no second reader of JPEG in four inks or 12 bits: pip install imagecodecs"


@pytest.mark.parametrize("stored", ["CMYK", "YCCK"])
def test_inks_in_jpeg_are_as_another_reader_has_them(tmp_path: Path, stored: str) -> None:
    """With Adobe's marker, what is stored is light, and not ink."""
    codecs = pytest.importorskip("imagecodecs", reason=CODECS)
    light = np.round(np.concatenate([RGB, RGB[::-1, :, :1]], axis=-1) * 255).astype(np.uint8)
    written = codecs.jpeg8_encode(
        light, level=100, colorspace="CMYK", outcolorspace=stored, subsampling="444"
    )
    (tmp_path / "a.jpg").write_bytes(written)
    read = codecs.jpeg8_decode(written).astype(float)
    assert np.abs(read - light).max() <= 10
    assert np.abs(shown(tmp_path / "a.jpg") - read[..., :3] * read[..., 3:] / 255).max() <= 2


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_of_12_bits_is_refused_by_name(tmp_path: Path, channels: int) -> None:
    codecs = pytest.importorskip("imagecodecs", reason=CODECS)
    values = np.round(RGB[..., :channels].squeeze() * 4095).astype(np.uint16)
    written = codecs.jpeg8_encode(values, level=95, bitspersample=12)
    (tmp_path / "a.jpg").write_bytes(written)
    with pytest.raises(InputError, match=r"a.jpg: JPEG of 12 bits is not read; save it as PNG"):
        read_image(tmp_path / "a.jpg")


def test_jpeg_whose_header_is_cut_anywhere_gives_pixels_or_our_own_error(tmp_path: Path) -> None:
    Image.fromarray(np.round(RGB * 255).astype(np.uint8)).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    for end in range(3, 200):
        (tmp_path / "b.jpg").write_bytes(whole[:end])
        with pytest.raises(InputError, match=r"b.jpg"):
            read_image(tmp_path / "b.jpg")
    (tmp_path / "b.jpg").write_bytes(whole.replace(b"\xff\xdb", b"\xff" * 5 + b"\xdb"))
    assert np.array_equal(shown(tmp_path / "b.jpg"), shown(tmp_path / "a.jpg"))
