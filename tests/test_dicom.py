"""DICOM against its own formulas in float64, against pydicom's VOI, and the patient's name."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medept import InputError
from medept.data.dicom import groups_of, is_dicom, read_frame, windowed
from medept.data.images import read_image
from medept.data.table import read_dataset

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
    data.SamplesPerPixel, data.PixelRepresentation = (3 if colour else 1), 0
    data.Rows, data.Columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    data.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        data.PlanarConfiguration = 0
    data.BitsAllocated = 8 * pixels.dtype.itemsize
    data.BitsStored = 8 if pixels.dtype == np.uint8 else 12
    data.HighBit = data.BitsStored - 1
    if frames > 1:
        data.NumberOfFrames = frames
    for name, value in attributes.items():
        setattr(data, name, value)
    data.PixelData = pixels.tobytes()
    data.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("centre", "width"), [(40, 400), (-600.5, 1500), (1000, 2), (0, 1.5)])
def test_ct_is_windowed_as_the_standard_and_pydicom_say(
    tmp_path: Path, function: str, centre: float, width: float
) -> None:
    window = {"WindowCenter": [centre, 7], "WindowWidth": [width, 9], "VOILUTFunction": function}
    path = dicom_file(tmp_path / "ct.dcm", RescaleSlope=2, RescaleIntercept=-1024, **window)
    values = RAMP.astype(np.float64) * 2 - 1024
    shown = read_frame(path)
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
    positive = read_frame(dicom_file(tmp_path / "a", **window))
    negative = dicom_file(tmp_path / "b", PhotometricInterpretation="MONOCHROME1", **window)
    assert np.abs(255.0 - read_frame(negative) - positive).max() <= 1


def test_without_a_window_percentiles_are_taken_and_padding_is_not_counted(tmp_path: Path) -> None:
    pixels = RAMP // 8 + 1000
    pixels[:2] = 0
    shown = read_frame(dicom_file(tmp_path / "mr.dcm", pixels, PixelPaddingValue=0))
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


@pytest.mark.parametrize(
    "name",
    ["CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "JPEG2000.dcm",
     "JPGExtended.dcm", "SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_rle.dcm", "examples_palette.dcm",
     "MR_small_jp2klossless.dcm"],
)  # fmt: skip
def test_pydicoms_own_files_compressed_or_not(name: str) -> None:
    path = pydicom.data.get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"{name} does not come with this pydicom")
    image = np.asarray(read_image(path))
    data = pydicom.dcmread(path)
    assert image.shape == (data.Rows, data.Columns, 3)
    assert image.max() > image.min()


def test_lossless_compression_changes_nothing() -> None:
    plain = read_image(pydicom.data.get_testdata_file("MR_small.dcm", download=False))
    packed = read_image(pydicom.data.get_testdata_file("MR_small_RLE.dcm", download=False))
    assert (np.asarray(plain) == np.asarray(packed)).all()


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


def test_no_file_of_a_fit_holds_the_name_or_the_id(tmp_path: Path) -> None:
    from medept import jobs
    from medept.classifier import FewShotClassifier

    for i in range(8):
        folder = tmp_path / "data" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        dicom_file(folder / f"{i}.dcm", RAMP // (1 + i % 2), PatientID=f"PLANTED{i}")
    classifier = FewShotClassifier("embedded", "linear", epochs=1, device="cpu")
    jobs.fit(read_dataset(tmp_path / "data"), tmp_path / "out", classifier, shots=2)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert any(b"patient-" in path.read_bytes() for path in files)
    for path in files:
        assert not any(s in path.read_bytes() for s in (b"Planted", b"Rosalind", b"PLANTED")), path


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
        groups_of([tmp_path / "scan.dcm"])


def test_a_window_of_no_width_is_refused() -> None:
    with pytest.raises(InputError, match="window width of 0"):
        windowed(np.zeros((2, 2)), 0, 0, "LINEAR")


def test_the_index_of_a_medium_is_no_image(tmp_path: Path) -> None:
    marked = bytes(128) + b"DICM"
    (tmp_path / "DICOMDIR").write_bytes(marked)
    (tmp_path / "IM0001").write_bytes(marked)
    assert not is_dicom(tmp_path / "DICOMDIR")
    assert is_dicom(tmp_path / "IM0001")
