"""Frames in every compression, and frames that are larger than their file says."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from samples import dicom_file, pydicom_example

from medept import InputError
from medept.data.dataset import read_dataset
from medept.data.dicom.frames import coded_size
from medept.data.images import read_image

pydicom = pytest.importorskip("pydicom")


def test_frames_are_chosen_and_the_middle_one_is_the_default(tmp_path: Path) -> None:
    pixels = np.stack([np.full((4, 4, 3), 50 * i, dtype=np.uint8) for i in range(1, 6)])
    dicom_file(tmp_path / "cine.dcm", pixels, frames=5)
    assert np.asarray(read_image(tmp_path / "cine.dcm")).max() == 150
    assert np.asarray(read_image(tmp_path / "cine.dcm#5")).max() == 250
    with pytest.raises(InputError, match=r"cine.dcm#6: has no frame 6; give one from 1 to 5"):
        read_image(tmp_path / "cine.dcm#6")
    (tmp_path / "t.csv").write_text("image,frame,label\ncine.dcm,1,a\ncine.dcm,4,b\n")
    data = read_dataset(tmp_path / "t.csv")
    assert [np.asarray(read_image(image)).max() for image in data.images] == [50, 200]
    assert data.groups is not None
    assert len(set(data.groups)) == 1


@pytest.mark.parametrize(
    "name",
    ["RLE", "bigendian", "implicit", "expb", "padded", "jp2klossless", "jpeg_ls_lossless"],
)
def test_lossless_transfer_syntaxes_change_nothing(name: str) -> None:
    plain = read_image(pydicom_example("MR_small.dcm"))
    packed = read_image(pydicom_example(f"MR_small_{name}.dcm"))
    assert (np.asarray(plain) == np.asarray(packed)).all()


@pytest.mark.parametrize(
    ("name", "most"),
    [("SC_rgb_jpeg_gdcm.dcm", 0), ("SC_rgb_rle_16bit.dcm", 0), ("SC_rgb_jls_lossy_line.dcm", 4),
     ("SC_rgb_gdcm_KY.dcm", 8), ("SC_rgb_dcmtk_+eb+cr.dcm", 8), ("SC_rgb_jpeg_dcmtk.dcm", 8),
     ("SC_rgb_dcmtk_+eb+cy+n1.dcm", 8), ("SC_rgb_jpeg_lossy_gdcm.dcm", 8)],
)  # fmt: skip
def test_colours_are_the_same_in_every_compression(name: str, most: int) -> None:
    """JPEG Lossless, JPEG-LS, JPEG 2000 and JPEG in RGB and YBR, beside one run-length encoded."""
    plain = np.asarray(read_image(pydicom_example("SC_rgb_rle.dcm"))).astype(int)
    packed = np.asarray(read_image(pydicom_example(name))).astype(int)
    assert np.median(np.abs(plain - packed), axis=(0, 1)).max() <= most
    assert np.abs(plain - packed).mean() <= most


@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "JPEG2000.dcm", "GDCMJ2K_TextGBR.dcm", "examples_ybr_color.dcm",
             "examples_palette.dcm", "rtdose.dcm", "liver_1frame.dcm", "image_dfl.dcm"]
)  # fmt: skip
def test_other_files_of_pydicoms_show_something(name: str) -> None:
    image = np.asarray(read_image(pydicom_example(name)))
    data = pydicom.dcmread(pydicom_example(name))
    assert image.shape == (data.Rows, data.Columns, 3)
    assert image.max() > image.min()


def enlarged(name: str, marker: bytes, side: int = 60000) -> bytes:
    """One of pydicom's files, in which the header of the compressed frame gives another size."""
    content = bytearray(pydicom_example(name).read_bytes())
    place = content.index(marker, content.index(b"\xe0\x7f\x10\x00"))
    if marker == b"\xff\x4f\xff\x51":  # the picture's, and its tiles'
        for start in (place + 8, place + 24):
            content[start : start + 8] = struct.pack(">II", side, side)
    else:
        content[place + 5 : place + 9] = struct.pack(">HH", side, side)
    return bytes(content)


@pytest.mark.parametrize(
    ("name", "marker"),
    [("JPEG2000.dcm", b"\xff\x4f\xff\x51"), ("MR_small_jp2klossless.dcm", b"\xff\x4f\xff\x51"),
     ("MR_small_jpeg_ls_lossless.dcm", b"\xff\xf7"), ("SC_rgb_jls_lossy_line.dcm", b"\xff\xf7"),
     ("SC_rgb_jpeg_gdcm.dcm", b"\xff\xc3"), ("SC_rgb_jpeg_dcmtk.dcm", b"\xff\xc0"),
     ("JPGExtended.dcm", b"\xff\xc1")],
)  # fmt: skip
def test_a_compressed_frame_larger_than_the_file_says_is_not_decoded(
    tmp_path: Path, name: str, marker: bytes
) -> None:
    (tmp_path / "bomb.dcm").write_bytes(enlarged(name, marker))
    with pytest.raises(InputError, match=r"bomb.dcm: more than [0-9,]+ pixels"):
        read_image(tmp_path / "bomb.dcm")


def test_the_size_in_a_compressed_frame_is_that_of_the_file() -> None:
    """For every compressed file that comes with pydicom, but one whose header was overwritten."""
    folder = pydicom_example("JPEG2000.dcm").parent
    seen = set()
    for path in sorted(folder.glob("*.dcm")):
        if path.name == "JPEG2000-embedded-sequence-delimiter.dcm":
            continue
        data = pydicom.dcmread(path, force=True)
        syntax = data.file_meta.get("TransferSyntaxUID") if hasattr(data, "file_meta") else None
        jpeg = syntax and syntax.is_encapsulated and syntax != pydicom.uid.RLELossless
        if not jpeg or "PixelData" not in data:
            continue
        frames = int(data.get("NumberOfFrames") or 1)
        frame = pydicom.encaps.get_frame(data.PixelData, 0, number_of_frames=frames)
        assert coded_size(frame) == (data.Columns, data.Rows, data.SamplesPerPixel), path.name
        seen.add(syntax.name)
    assert len(seen) >= 5


def wrapped(path: Path, boxes: bytes = b"") -> Path:
    """A file of pydicom's whose JPEG 2000 codestream is in a JP2 file, which is not allowed."""
    data = pydicom.dcmread(pydicom_example("MR_small_jp2klossless.dcm"))
    stream = pydicom.encaps.get_frame(data.PixelData, 0)
    frame = b"\x00\x00\x00\x0cjP  \r\n\x87\n" + boxes + b"\x00\x00\x00\x00jp2c" + stream
    data.PixelData = pydicom.encaps.encapsulate([frame])
    data.save_as(path)
    return path


def test_a_frame_in_a_wrapper_is_bounded_too(tmp_path: Path) -> None:
    data = pydicom.dcmread(wrapped(tmp_path / "a.dcm", b"\x00\x00\x00\x0cfreejp2c"))
    assert coded_size(pydicom.encaps.get_frame(data.PixelData, 0)) == (64, 64, 1)
    path = wrapped(tmp_path / "endless.dcm", b"\x00\x00\x00\x00free")  # pydicom reads on for ever
    with pytest.raises(InputError, match=r"endless.dcm: damaged .*; remove or replace"):
        read_image(path)


@pytest.mark.parametrize("lie", [{"Rows": 60000, "Columns": 60000}, {"Rows": 9000, "Columns": 9000},
                                 {"NumberOfFrames": 2**31 - 1}])  # fmt: skip
@pytest.mark.parametrize("name", ["RLE", "jp2klossless", "jpeg_ls_lossless"])
def test_a_file_that_says_it_is_larger_than_it_is_is_refused(
    tmp_path: Path, name: str, lie: dict[str, int]
) -> None:
    data = pydicom.dcmread(pydicom_example(f"MR_small_{name}.dcm"))
    for attribute, value in lie.items():
        setattr(data, attribute, value)
    data.save_as(tmp_path / "liar.dcm")
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"liar.dcm: .*(shrink|replace)"):
            read_image(tmp_path / "liar.dcm")
        assert tracemalloc.get_traced_memory()[1] < 2**29
    finally:
        tracemalloc.stop()


def test_twelve_bits_of_jpeg_need_a_decoder_that_is_not_in_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("medept.data.dicom.frames.PLUGINS", ("pillow",))
    with pytest.raises(InputError, match=r"JPGExtended.dcm: .*pylibjpeg-libjpeg.* the GPL-3.0"):
        read_image(pydicom_example("JPGExtended.dcm"))
    monkeypatch.undo()
    pytest.importorskip("libjpeg")
    shown = np.asarray(read_image(pydicom_example("JPGExtended.dcm")))
    assert shown.max() > shown.min()


def test_a_compression_that_nothing_decodes_is_told_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pydicom_example("SC_rgb_jpeg_gdcm.dcm")  # JPEG Lossless
    decoder = pydicom.pixels.get_decoder(pydicom.uid.JPEGLosslessSV1)
    monkeypatch.setattr(decoder, "_available", {})
    with pytest.raises(
        InputError, match=r"JPEG Lossless.*installed: pip install 'medept\[dicom\]'"
    ):
        read_image(path)
    video = tmp_path / "video.dcm"
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = pydicom.uid.MPEG2MPML
    data.save_as(video)
    with pytest.raises(InputError, match=r"video.dcm: MPEG2.* not a compression that is read here"):
        read_image(video)
