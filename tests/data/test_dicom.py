"""DICOM against its own formulas in float64, against pydicom's VOI, and the patient's name."""

from __future__ import annotations

import io
import struct
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers import run
from PIL import Image

from medept import InputError
from medept.data.dataset import read_dataset
from medept.data.dicom.display import apply_window
from medept.data.dicom.files import is_dicom
from medept.data.dicom.frames import coded_size, read_frame
from medept.data.dicom.patients import dicom_groups
from medept.data.images import read_image

pydicom = pytest.importorskip("pydicom")

RAMP = np.arange(0, 4096, 64, dtype=np.uint16).reshape(8, 8)
NAME = "Planted^Rosalind"


def dicom_file(
    path: Path, pixels: np.ndarray = RAMP, frames: int = 1, **attributes: object
) -> Path:
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = pydicom.uid.CTImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    data.PatientName, data.PatientID = NAME, "4711"
    data.StudyInstanceUID = "1.2.3"
    colour = pixels.shape[-1] == 3
    data.SamplesPerPixel = 3 if colour else 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.Rows, data.Columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    data.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        data.PlanarConfiguration = 0
    data.BitsAllocated = 8 * pixels.dtype.itemsize
    data.BitsStored = {"uint16": 12}.get(pixels.dtype.name, 8 * pixels.dtype.itemsize)
    data.HighBit = data.BitsStored - 1
    if frames > 1:
        data.NumberOfFrames = frames
    for name, value in attributes.items():
        setattr(data, name, value)
    setattr(data, "FloatPixelData" if pixels.dtype == np.float32 else "PixelData", pixels.tobytes())
    data.save_as(path, enforce_file_format=True)
    return path


def frame_of(path: Path, frame: int | None = None) -> np.ndarray:
    with path.open("rb") as file:
        return read_frame(file, frame)


def example(name: str) -> Path:
    """A file that comes with pydicom."""
    path = pydicom.data.get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"{name} does not come with this pydicom")
    return Path(path)


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("centre", "width"), [(40, 400), (-600.5, 1500), (1000, 2), (0, 1.5)])
def test_ct_is_windowed_as_the_standard_and_pydicom_say(
    tmp_path: Path, function: str, centre: float, width: float
) -> None:
    window = {"WindowCenter": [centre, 7], "WindowWidth": [width, 9], "VOILUTFunction": function}
    path = dicom_file(tmp_path / "ct.dcm", RescaleSlope=2, RescaleIntercept=-1024, **window)
    values = RAMP.astype(np.float64) * 2 - 1024
    shown = frame_of(path)
    expected = np.array([[standard(x, centre, width, function) for x in row] for row in values])
    assert np.abs(shown - expected).max() <= 0.5 + 1e-9
    theirs = pydicom.pixels.apply_voi_lut(values, pydicom.dcmread(path))
    low, high = -1024, 4095 * 2 - 1024
    assert np.abs(shown - (theirs - low) / (high - low) * 255).max() <= 0.5 + 1e-6


def standard(x: float, c: float, w: float, function: str) -> float:
    """The pseudo-code of PS3.3 C.11.2.1.2 and C.11.2.1.3, for outputs from 0 to 255."""
    if function == "SIGMOID":
        return 255 / (1 + np.exp(-4 * (x - c) / w))
    shift, span = (0.5, w - 1) if function == "LINEAR" else (0, w)
    if x <= c - shift - span / 2:
        return 0
    return 255 if x > c - shift + span / 2 else ((x - (c - shift)) / span + 0.5) * 255


def test_monochrome1_is_the_negative(tmp_path: Path) -> None:
    window = {"WindowCenter": 2048, "WindowWidth": 3000}
    positive = frame_of(dicom_file(tmp_path / "a", **window))
    negative = dicom_file(tmp_path / "b", PhotometricInterpretation="MONOCHROME1", **window)
    assert np.abs(255.0 - frame_of(negative) - positive).max() <= 1


def test_without_a_window_percentiles_are_taken_and_padding_is_not_counted(tmp_path: Path) -> None:
    pixels = RAMP // 8 + 1000
    pixels[:2] = 0
    shown = frame_of(dicom_file(tmp_path / "mr.dcm", pixels, PixelPaddingValue=0))
    low, high = np.percentile(pixels[2:].astype(float), [1, 99])
    expected = np.clip((pixels.astype(float) - low) / (high - low), 0, 1) * 255
    assert np.abs(shown - expected).max() <= 0.5 + 1e-9


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


@pytest.mark.parametrize("dtype", [np.int16, np.int8, np.float32, np.uint8])
def test_signed_and_float_pixels_are_windowed_by_their_values(
    tmp_path: Path, dtype: type[np.generic]
) -> None:
    pixels = np.linspace(0 if dtype is np.uint8 else -100, 100, 64).astype(dtype).reshape(8, 8)
    window = {"WindowCenter": 0, "WindowWidth": 150, "VOILUTFunction": "LINEAR_EXACT"}
    shown = frame_of(dicom_file(tmp_path / "x.dcm", pixels, **window))
    expected = np.clip(pixels.astype(np.float64) / 150 + 0.5, 0, 1) * 255
    assert np.abs(shown - expected).max() <= 0.5 + 1e-6


def lut(first: int, values: np.ndarray, bits: int = 16) -> pydicom.Sequence:
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "US", [len(values), first, bits])
    item.add_new("LUTData", "OW", values.astype("<u2").tobytes())
    item.ModalityLUTType = "US"
    return pydicom.Sequence([item])


def test_modality_and_voi_tables_are_looked_up_one_after_the_other(tmp_path: Path) -> None:
    modality = 3000 - 2 * np.arange(1000)
    voi = np.minimum(np.arange(2000) ** 2 // 100, 4095)
    path = dicom_file(
        tmp_path / "dx.dcm",
        ModalityLUTSequence=lut(500, modality),
        VOILUTSequence=lut(1200, voi, bits=12),
        WindowCenter=1,  # a table goes before a window
        WindowWidth=2,
    )
    values = modality[np.clip(RAMP.astype(int) - 500, 0, 999)]
    expected = voi[np.clip(values - 1200, 0, 1999)] / 4095 * 255
    assert np.abs(frame_of(path) - expected).max() <= 0.5 + 1e-9


def group(**macros: dict[str, float]) -> pydicom.Dataset:
    """A functional group: the name of a macro's sequence, and its attributes."""
    functional = pydicom.Dataset()
    for name, attributes in macros.items():
        item = pydicom.Dataset()
        for attribute, value in attributes.items():
            setattr(item, attribute, value)
        setattr(functional, name, pydicom.Sequence([item]))
    return functional


def test_each_frame_of_an_enhanced_file_has_its_own_rescale_and_window(tmp_path: Path) -> None:
    pixels = np.stack([RAMP, RAMP // 2, RAMP // 3])
    windows = [(500, 900), (2000, 3000), (-40, 100)]
    frames = [
        group(
            PixelValueTransformationSequence={"RescaleSlope": slope, "RescaleIntercept": -100},
            FrameVOILUTSequence={"WindowCenter": centre, "WindowWidth": width},
        )
        for slope, (centre, width) in enumerate(windows, start=1)
    ]
    path = dicom_file(
        tmp_path / "own.dcm",
        pixels,
        frames=3,
        PerFrameFunctionalGroupsSequence=pydicom.Sequence(frames),
        SharedFunctionalGroupsSequence=pydicom.Sequence([group()]),
    )
    for i, (centre, width) in enumerate(windows):
        values = pixels[i].astype(np.float64) * (i + 1) - 100
        expected = [[standard(x, centre, width, "LINEAR") for x in row] for row in values]
        assert np.abs(frame_of(path, i + 1) - np.array(expected)).max() <= 0.5 + 1e-9


def test_what_frames_share_is_used_where_they_have_nothing_of_their_own(tmp_path: Path) -> None:
    shared = group(
        PixelValueTransformationSequence={"RescaleSlope": 2, "RescaleIntercept": -1024},
        FrameVOILUTSequence={"WindowCenter": 40, "WindowWidth": 400},
    )
    path = dicom_file(
        tmp_path / "shared.dcm",
        np.stack([RAMP, RAMP]),
        frames=2,
        SharedFunctionalGroupsSequence=pydicom.Sequence([shared]),
        PerFrameFunctionalGroupsSequence=pydicom.Sequence([group(), group()]),
    )
    plain = {"RescaleSlope": 2, "RescaleIntercept": -1024, "WindowCenter": 40, "WindowWidth": 400}
    assert (frame_of(path, 2) == frame_of(dicom_file(tmp_path / "plain.dcm", **plain))).all()


def test_a_palette_gives_its_colours(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    table = random.integers(0, 65536, (3, 64), dtype=np.uint16)
    attributes: dict[str, object] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, column in zip(("Red", "Green", "Blue"), table, strict=True):
        attributes[f"{name}PaletteColorLookupTableDescriptor"] = [64, 0, 16]
        attributes[f"{name}PaletteColorLookupTableData"] = column.tobytes()
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    shown = frame_of(dicom_file(tmp_path / "p.dcm", pixels, **attributes))
    expected = np.moveaxis(table[:, pixels], 0, -1) / 65535 * 255
    assert np.abs(shown - expected).max() <= 0.5 + 1e-9


def test_uncompressed_ybr_becomes_rgb_as_the_standard_says(tmp_path: Path) -> None:
    ybr = np.random.default_rng(0).integers(64, 192, (6, 8, 3), dtype=np.uint8)
    y, cb, cr = np.moveaxis(ybr.astype(np.float64), -1, 0)
    rgb = np.stack(
        [y + 1.402 * (cr - 128),
         y - 0.114 * 1.772 / 0.587 * (cb - 128) - 0.299 * 1.402 / 0.587 * (cr - 128),
         y + 1.772 * (cb - 128)],
        axis=-1,
    )  # fmt: skip
    shown = frame_of(dicom_file(tmp_path / "y.dcm", ybr, PhotometricInterpretation="YBR_FULL"))
    assert np.abs(shown - np.clip(rgb, 0, 255)).max() <= 1


@pytest.mark.parametrize(
    "name",
    ["RLE", "bigendian", "implicit", "expb", "padded", "jp2klossless", "jpeg_ls_lossless"],
)
def test_lossless_transfer_syntaxes_change_nothing(name: str) -> None:
    plain = read_image(example("MR_small.dcm"))
    packed = read_image(example(f"MR_small_{name}.dcm"))
    assert (np.asarray(plain) == np.asarray(packed)).all()


@pytest.mark.parametrize(
    ("name", "most"),
    [("SC_rgb_jpeg_gdcm.dcm", 0), ("SC_rgb_rle_16bit.dcm", 0), ("SC_rgb_jls_lossy_line.dcm", 4),
     ("SC_rgb_gdcm_KY.dcm", 8), ("SC_rgb_dcmtk_+eb+cr.dcm", 8), ("SC_rgb_jpeg_dcmtk.dcm", 8),
     ("SC_rgb_dcmtk_+eb+cy+n1.dcm", 8), ("SC_rgb_jpeg_lossy_gdcm.dcm", 8)],
)  # fmt: skip
def test_colours_are_the_same_in_every_compression(name: str, most: int) -> None:
    """JPEG Lossless, JPEG-LS, JPEG 2000 and JPEG in RGB and YBR, beside one run-length encoded."""
    plain = np.asarray(read_image(example("SC_rgb_rle.dcm"))).astype(int)
    packed = np.asarray(read_image(example(name))).astype(int)
    assert np.median(np.abs(plain - packed), axis=(0, 1)).max() <= most
    assert np.abs(plain - packed).mean() <= most


@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "JPEG2000.dcm", "GDCMJ2K_TextGBR.dcm", "examples_ybr_color.dcm",
             "examples_palette.dcm", "rtdose.dcm", "liver_1frame.dcm", "image_dfl.dcm"]
)  # fmt: skip
def test_other_files_of_pydicoms_show_something(name: str) -> None:
    image = np.asarray(read_image(example(name)))
    data = pydicom.dcmread(example(name))
    assert image.shape == (data.Rows, data.Columns, 3)
    assert image.max() > image.min()


@pytest.mark.parametrize("syntax", ["ExplicitVRLittleEndian", "ImplicitVRLittleEndian"])
@pytest.mark.parametrize("keep_meta", [True, False])
def test_a_file_without_preamble_is_recognised(
    tmp_path: Path, syntax: str, keep_meta: bool
) -> None:
    whole = dicom_file(tmp_path / "whole.dcm", WindowCenter=2048, WindowWidth=3000)
    data = pydicom.dcmread(whole)
    data.file_meta.TransferSyntaxUID = getattr(pydicom.uid, syntax)
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    content = file.getvalue()[132:]
    if not keep_meta:
        content = content[12 + int.from_bytes(content[8:12], "little") :]
    (tmp_path / "bare").write_bytes(content)
    assert is_dicom(tmp_path / "bare")
    assert (frame_of(tmp_path / "bare") == frame_of(whole)).all()
    groups = dicom_groups([tmp_path / "bare", whole])
    assert groups is not None
    assert groups[0] == groups[1]


def test_a_file_is_opened_once_for_its_group_and_once_for_its_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        dicom_file(tmp_path / name / "scan.dcm")
    opened = []
    original = Path.open

    def counting(self: Path, *args: object, **kwargs: object) -> object:
        opened.append(self.parent.name)
        return original(self, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", counting)
    data = read_dataset(tmp_path)
    assert opened == ["a", "b"]
    read_image(data.images[0])
    assert opened == ["a", "b", "a"]


def test_patients_are_groups_and_their_ids_and_names_are_not_told(tmp_path: Path) -> None:
    for i, (patient, study) in enumerate([("4711", "1.2"), ("4711", "1.3"), ("anonymous", "1.4"),
                                          ("", "1.4"), ("4712", "1.5")]):  # fmt: skip
        folder = tmp_path / "ab"[i % 2]
        folder.mkdir(exist_ok=True)
        dicom_file(folder / f"{i}", PatientID=patient, StudyInstanceUID=study)
    data = read_dataset(tmp_path)
    groups = dict(zip((Path(n).name for n in data.names), data.groups, strict=True))
    assert groups["0"] == groups["1"] != groups["4"]
    assert groups["2"] == groups["3"]
    assert groups["2"].startswith("study-")
    assert "4711" not in " ".join(groups.values())


def test_no_output_holds_the_name_or_the_id(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for i in range(12):
        folder = tmp_path / "data" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = RAMP // (1 + i % 2) + np.uint16(i)
        dicom_file(
            folder / f"{i}.dcm",
            RAMP if i in (2, 4) else pixels,  # a copy, for the check to tell of
            PatientID=f"PLANTED{i}",
            OtherPatientNames=NAME,
            ReferringPhysicianName=NAME,
            PatientComments="Planted",
        )
    broken = tmp_path / "data" / "a" / "broken.dcm"
    broken.write_bytes((tmp_path / "data" / "a" / "0.dcm").read_bytes()[:-20])
    data, out = str(tmp_path / "data"), tmp_path / "out"
    assert run("check", data, "--out", str(out / "check")) == 1
    broken.unlink()
    options = ["--method", "linear", "--epochs", "1", "--device", "cpu", "--shots", "2"]
    assert run("fit", data, "--out", str(out / "fit"), *options) == 0
    assert run("predict", str(out / "fit"), data, "--out", str(out / "predictions.csv")) == 0
    assert run("evaluate", str(out / "fit"), data, "--json") == 0
    assert run("report", str(out / "fit")) == 0
    assert run("episodes", data, "--out", str(out / "lists"), "--shots", "1") == 0
    files = [path for path in out.rglob("*") if path.is_file()]
    assert {"check.html", "report.html", "predictions.csv"} <= {path.name for path in files}
    assert any(b"patient-" in path.read_bytes() for path in files)
    told = [path.read_bytes() for path in files] + [text.encode() for text in capfd.readouterr()]
    for secret in (b"Planted", b"Rosalind", b"PLANTED"):
        assert not any(secret in content for content in told), secret


def test_bad_files_and_a_missing_extra_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = dicom_file(tmp_path / "scan.dcm").read_bytes()
    for content in (b"text", whole[:400], whole[:-40]):
        (tmp_path / "bad.dcm").write_bytes(content)
        with pytest.raises(InputError, match=r"bad.dcm: .*(replace|remove)"):
            read_image(tmp_path / "bad.dcm")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(InputError, match=r"scan.dcm: more than 10 pixels"):
        read_image(tmp_path / "scan.dcm")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(InputError, match=r"scan.dcm: .*pip install 'medept\[dicom\]'"):
        read_image(tmp_path / "scan.dcm")
    with pytest.raises(InputError, match=r"scan.dcm: .*pip install 'medept\[dicom\]'"):
        dicom_groups([tmp_path / "scan.dcm"])


def enlarged(name: str, marker: bytes, side: int = 60000) -> bytes:
    """One of pydicom's files, in which the header of the compressed frame gives another size."""
    content = bytearray(example(name).read_bytes())
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
    folder = example("JPEG2000.dcm").parent
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
    data = pydicom.dcmread(example("MR_small_jp2klossless.dcm"))
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
    data = pydicom.dcmread(example(f"MR_small_{name}.dcm"))
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
        read_image(example("JPGExtended.dcm"))
    monkeypatch.undo()
    pytest.importorskip("libjpeg")
    shown = np.asarray(read_image(example("JPGExtended.dcm")))
    assert shown.max() > shown.min()


def test_a_compression_that_nothing_decodes_is_told_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = example("SC_rgb_jpeg_gdcm.dcm")  # JPEG Lossless
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


def test_a_deflated_file_is_not_inflated_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = example("image_dfl.dcm").read_bytes()
    start = 144 + int.from_bytes(whole[140:144], "little")
    plain = zlib.decompress(whole[start:], -15)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(plain + bytes(2**24)) + packer.flush()
    (tmp_path / "bomb.dcm").write_bytes(whole[:start] + packed)
    monkeypatch.setattr("medept.data.dicom.files.MAX_INFLATED", len(plain))
    assert read_image(example("image_dfl.dcm")).size == (512, 512)
    with pytest.raises(InputError, match=r"bomb.dcm: inflates to more than"):
        read_image(tmp_path / "bomb.dcm")


def test_a_window_of_no_width_is_refused() -> None:
    with pytest.raises(InputError, match="window width of 0"):
        apply_window(np.zeros((2, 2)), 0, 0, "LINEAR")


def test_the_index_of_a_medium_is_no_image(tmp_path: Path) -> None:
    marked = bytes(128) + b"DICM"
    (tmp_path / "DICOMDIR").write_bytes(marked)
    (tmp_path / "IM0001").write_bytes(marked)
    assert not is_dicom(tmp_path / "DICOMDIR")
    assert is_dicom(tmp_path / "IM0001")
