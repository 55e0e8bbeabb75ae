"""Elements without a value, padding in the pixels' own type, kinds of pixels: beside NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import dicom_file

from medept import InputError
from medept.data.dataset import read_dataset
from medept.data.images import read_image

pydicom = pytest.importorskip("pydicom")

RAMP = np.arange(0, 4096, 64, dtype=np.uint16).reshape(8, 8)
WINDOW = {"WindowCenter": 2048, "WindowWidth": 4096}


def shown(path: Path) -> np.ndarray:
    return np.asarray(read_image(path))[..., 0].astype(float)


def windowed(values: np.ndarray) -> np.ndarray:
    """The window ``WINDOW``, by PS3.3 C.11.2.1.2.1, from 0 to 255."""
    return np.clip((values.astype(float) - 2047.5) / 4095 + 0.5, 0, 1) * 255


def stretched(values: np.ndarray, padding: np.ndarray) -> np.ndarray:
    low, high = np.percentile(values[~padding].astype(float), [1, 99])
    return np.clip((values - low) / (high - low), 0, 1) * 255


def changed(path: Path, *elements: tuple[int, str, Any], syntax: str = "Explicit") -> Path:
    data = pydicom.dcmread(path)
    for element in elements:
        data.add_new(*element)
    data.file_meta.TransferSyntaxUID = getattr(pydicom.uid, f"{syntax}VRLittleEndian")
    data.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("syntax", ["Explicit", "Implicit"])
@pytest.mark.parametrize(
    "empty",
    [("RescaleSlope",), ("RescaleIntercept",), ("RescaleSlope", "RescaleIntercept"),
     ("VOILUTFunction",), ("VOILUTSequence",), ("ModalityLUTSequence",), ("PixelPaddingValue",),
     ("NumberOfFrames",), ("PlanarConfiguration",), ("SharedFunctionalGroupsSequence",),
     ("PerFrameFunctionalGroupsSequence",), ("PatientID", "StudyInstanceUID")],
)  # fmt: skip
def test_an_element_without_a_value_counts_as_absent(
    tmp_path: Path, syntax: str, empty: tuple[str, ...]
) -> None:
    path = dicom_file(tmp_path / "a.dcm", RAMP, **WINDOW)
    data = pydicom.dcmread(path)
    for name in empty:
        vr = pydicom.datadict.dictionary_VR(name)
        data.add_new(name, "US" if vr == "US or SS" else vr, None)
    data.file_meta.TransferSyntaxUID = getattr(pydicom.uid, f"{syntax}VRLittleEndian")
    data.save_as(path, enforce_file_format=True)
    assert np.abs(shown(path) - windowed(RAMP)).max() <= 0.5 + 1e-9


def test_a_slope_or_an_intercept_alone_is_applied(tmp_path: Path) -> None:
    path = dicom_file(tmp_path / "a.dcm", RAMP, RescaleSlope=None, RescaleIntercept=-1024, **WINDOW)
    assert np.abs(shown(path) - windowed(RAMP.astype(int) - 1024)).max() <= 0.5 + 1e-9
    path = dicom_file(tmp_path / "b.dcm", RAMP, RescaleSlope=2, **WINDOW)
    assert np.abs(shown(path) - windowed(RAMP.astype(int) * 2)).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("centre", [None, ["", "2048"], [" ", "2048"]])
def test_windows_without_a_value(tmp_path: Path, centre: list[str] | None) -> None:
    width = None if centre is None else ["", "4096"]
    path = dicom_file(tmp_path / "a.dcm", RAMP, WindowCenter=centre, WindowWidth=width)
    none = np.zeros(RAMP.shape, bool)
    expected = stretched(RAMP, none) if centre is None else windowed(RAMP)
    assert np.abs(shown(path) - expected).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(
    ("dtype", "bits", "padding", "element"),
    [
        (np.int16, 16, -2000, ("SS", -2000)),
        (np.int16, 16, -2000, ("US", 63536)),
        (np.int16, 12, -2000, ("US", 63536)),
        (np.int16, 12, -2000, ("US", 2096)),
        (np.uint16, 16, 63536, ("US", 63536)),
        (np.uint16, 16, 63536, ("SS", -2000)),
        (np.uint16, 12, 4095, ("US", 4095)),
        (np.uint16, 12, 0, ("SS", 0)),
        (np.int8, 8, -128, ("SS", -128)),
        (np.int8, 8, -128, ("US", 128)),
        (np.uint8, 8, 255, ("US", 255)),
    ],
)
def test_padding_is_compared_in_the_type_of_the_pixels(
    tmp_path: Path, dtype: type, bits: int, padding: int, element: tuple[str, int]
) -> None:
    pixels = np.linspace(5, 100, 64).round().astype(dtype).reshape(8, 8)
    pixels[:2] = padding
    path = dicom_file(tmp_path / "a.dcm", pixels, BitsStored=bits, HighBit=bits - 1)
    changed(path, (0x00280120, *element))
    expected = stretched(pixels.astype(float), np.arange(64).reshape(8, 8) < 16)
    assert np.abs(shown(path) - expected).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("limit", [("US", 63546), ("SS", -1990)])
def test_a_range_of_padding_ends_at_its_limit(tmp_path: Path, limit: tuple[str, int]) -> None:
    pixels = np.linspace(0, 1000, 64).round().astype(np.int16).reshape(8, 8)
    pixels[0], pixels[1] = -2000, -1990
    path = changed(
        dicom_file(tmp_path / "a.dcm", pixels), (0x00280120, "SS", -2000), (0x00280121, *limit)
    )
    expected = stretched(pixels, np.arange(64).reshape(8, 8) < 16)
    assert np.abs(shown(path) - expected).max() <= 0.5 + 1e-9


def test_padding_of_floats_has_an_element_of_its_own(tmp_path: Path) -> None:
    pixels = np.linspace(0, 7, 64, dtype=np.float32).reshape(8, 8)
    pixels[:2] = -9999.5
    path = dicom_file(tmp_path / "a.dcm", pixels, FloatPixelPaddingValue=-9999.5)
    expected = stretched(pixels, np.arange(64).reshape(8, 8) < 16)
    assert np.abs(shown(path) - expected).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32"])
def test_whole_numbers_of_every_size(tmp_path: Path, dtype: str) -> None:
    info = np.iinfo(dtype)
    pixels = np.linspace(info.min, info.max, 64).clip(info.min, info.max).astype(dtype)
    bits = info.bits
    path = dicom_file(tmp_path / "a.dcm", pixels.reshape(8, 8), BitsStored=bits, HighBit=bits - 1)
    expected = stretched(pixels.astype(float), np.zeros(64, bool)).reshape(8, 8)
    assert np.abs(shown(path) - expected).max() <= 0.5 + 1e-9


def test_overlays_in_unused_bits_are_not_shown(tmp_path: Path) -> None:
    overlay = np.where(np.eye(8, dtype=bool), 0xF000, 0).astype(np.uint16)
    path = dicom_file(tmp_path / "a.dcm", RAMP | overlay, **WINDOW)
    assert np.abs(shown(path) - windowed(RAMP)).max() <= 0.5 + 1e-9
    signed = (RAMP.astype(np.int16) - 2048) & 0x0FFF  # the sign is in bit 11
    path = dicom_file(
        tmp_path / "b.dcm", signed, BitsStored=12, HighBit=11, RescaleSlope=1,
        RescaleIntercept=2048, **WINDOW,
    )  # fmt: skip
    assert np.abs(shown(path) - windowed(RAMP)).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(
    ("attributes", "told"),
    [
        ({"PhotometricInterpretation": "YBR_PARTIAL_420"}, "kind YBR_PARTIAL_420 with 3 samples"),
        ({"PhotometricInterpretation": "HSV"}, "kind HSV with 3 samples"),
        ({"PhotometricInterpretation": None}, "kind unknown with 3 samples"),
        ({"PhotometricInterpretation": "MONOCHROME2"}, "kind MONOCHROME2 with 3 samples"),
        ({"PixelRepresentation": 1}, "signed colours"),
    ],
)
def test_kinds_of_pixels_that_are_not_read_are_named(
    tmp_path: Path, attributes: dict[str, Any], told: str
) -> None:
    path = dicom_file(tmp_path / "a.dcm", np.zeros((4, 4, 3), np.uint8), **attributes)
    with pytest.raises(InputError, match=rf"a.dcm: .*{told}"):
        read_image(path)


@pytest.mark.parametrize("ids", [("1", "1", "1"), ("1", "2", "1"), ("1", "1", " 1")])
def test_files_of_one_patient_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, ids: tuple[str, ...]
) -> None:
    for i, patient in enumerate(ids):
        folder = tmp_path / "ab"[i % 2]
        folder.mkdir(exist_ok=True)
        dicom_file(folder / f"{i}.dcm", RAMP, PatientID=patient)
    read_dataset(tmp_path)
    told = "all 3 DICOM images have one patient id, and so are one group" in caplog.text
    assert told == (len({patient.strip() for patient in ids}) == 1)
    assert ("a column `patient`" in caplog.text) == told
