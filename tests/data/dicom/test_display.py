"""DICOM display against the standard's formulas in float64, and against pydicom."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from samples import RAMP, dicom_file

from medept import InputError
from medept.data.dicom.display import apply_window
from medept.data.dicom.frames import read_frame

pydicom = pytest.importorskip("pydicom")


def frame_of(path: Path, frame: int | None = None) -> np.ndarray:
    with path.open("rb") as file:
        return read_frame(file, frame)


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


def test_a_window_of_no_width_is_refused() -> None:
    with pytest.raises(InputError, match="window width of 0"):
        apply_window(np.zeros((2, 2)), 0, 0, "LINEAR")
