"""Damaged input of every kind ends in an error of our own, never in a crash or a hang."""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from medept import InputError
from medept.data.dataset import read_dataset
from medept.data.image_lists import read_list
from medept.data.images import read_image
from medept.data.labelled_images import LabelledImages
from medept.data.sources.medfmc_submission import read_submission

QUICK = settings(max_examples=60, deadline=5000, suppress_health_check=[HealthCheck.too_slow])


def only_our_own_error(action: Callable[[], object]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with suppress(InputError):
            action()


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """The bytes cut, with some of them changed, taken out, or put in."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 8))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        what = draw(st.sampled_from(["change", "remove", "insert", "cut"]))
        if what == "cut":
            del data[at:]
        elif what == "remove":
            del data[at : at + draw(st.integers(1, 64))]
        elif what == "insert":
            data[at:at] = draw(st.binary(max_size=16))
        elif data:
            data[at] = draw(st.integers(0, 255))
    return bytes(data)


def picture(form: str, mode: str = "RGB") -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, format=form)
    return out.getvalue()


def dicom() -> bytes:
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    image = FileDataset("x", {}, file_meta=meta, preamble=b"\0" * 128)
    image.SOPClassUID, image.SOPInstanceUID = pydicom.uid.CTImageStorage, "1.2.3"
    image.PatientID, image.Modality = "p1", "CT"
    image.Rows, image.Columns, image.SamplesPerPixel = 6, 5, 1
    image.PhotometricInterpretation, image.PixelRepresentation = "MONOCHROME2", 0
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
    image.RescaleSlope, image.RescaleIntercept = "1", "-1024"
    image.WindowCenter, image.WindowWidth = "40", "400"
    image.PixelData = np.arange(30, dtype=np.uint16).tobytes()
    out = io.BytesIO()
    image.save_as(out, enforce_file_format=True)
    return out.getvalue()


PICTURES = {
    "png": picture("PNG"),
    "palette.png": picture("PNG", "P"),
    "jpg": picture("JPEG"),
    "cmyk.jpg": picture("JPEG", "CMYK"),
    "tif": picture("TIFF"),
    "gif": picture("GIF"),
    "bmp": picture("BMP"),
    "webp": picture("WEBP"),
}


@pytest.mark.parametrize("name", [*PICTURES, "dcm"])
def test_damaged_pictures(name: str) -> None:
    whole = dicom() if name == "dcm" else PICTURES[name]

    @QUICK
    @given(damaged(whole))
    def check(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"image.{name}"
            file.write_bytes(data)
            only_our_own_error(lambda: read_image(file))

    check()


@pytest.mark.parametrize(
    "name",
    ["MR_small_RLE.dcm", "SC_rgb_small_odd_jpeg.dcm", "JPEGLSNearLossless_08.dcm",
     "MR_small_jp2klossless.dcm", "SC_rgb_jpeg_gdcm.dcm", "image_dfl.dcm"],
)  # fmt: skip
def test_damaged_compressed_dicom(name: str) -> None:
    data = pytest.importorskip("pydicom.data")
    path = data.get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"{name} does not come with this pydicom")

    @QUICK
    @given(damaged(Path(path).read_bytes()))
    def check(content: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / name
            file.write_bytes(content)
            only_our_own_error(lambda: read_image(file))

    check()


def table_bytes(suffix: str) -> bytes:
    table = pd.DataFrame({"image": ["a.png", "b.png"], "label": ["x", "y"], "patient": ["1", "2"]})
    out = io.BytesIO()
    if suffix == "csv":
        table.to_csv(out, index=False)
    else:
        table.to_parquet(out, index=False)
    return out.getvalue()


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_damaged_tables(suffix: str) -> None:
    @QUICK
    @given(damaged(table_bytes(suffix)))
    def check(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for name in ("a.png", "b.png"):
                (Path(folder) / name).write_bytes(PICTURES["png"])
            file = Path(folder) / f"t.{suffix}"
            file.write_bytes(data)
            only_our_own_error(lambda: read_dataset(file))

    check()


@QUICK
@given(st.text() | damaged(b"a b.png 0,1,0\nc.png 1 0 1\n").map(lambda b: b.decode("latin-1")))
def test_any_text_as_a_list(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "list.txt"
        file.write_text(text, encoding="utf-8", newline="")
        for multilabel in (False, True):
            only_our_own_error(
                lambda many=multilabel: read_list(file, ("a", "b", "c"), multilabel=many)
            )


@QUICK
@given(damaged(b"a.png,0.25,0.75\nb.png,0.5,0.5\n"))
def test_damaged_submissions(data: bytes) -> None:
    truth = LabelledImages(("a.png", "b.png"), ("a.png", "b.png"), np.array([0, 1]), ("n", "p"))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "s.csv"
        file.write_bytes(data)
        only_our_own_error(lambda: read_submission(file, truth))
