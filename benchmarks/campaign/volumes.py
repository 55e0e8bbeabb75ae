"""Volumes, series and cases that are damaged: whole files, and how medept reads them."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas as pd
from kind import NAMES, Seed, each_in_turn, put_pictures
from mutate import NUMBERS, damaged, damaged_text, damaged_zip

from medept.data.dataset import read_dataset
from medept.data.find_images import find_images
from medept.data.images import read_image
from medept.data.volumes import Slicing, open_volume, open_volumes

FIELDS = (
    *((40 + 2 * i, "h") for i in range(8)),  # dim
    *((place, "h") for place in (70, 72, 252, 254)),  # datatype, bitpix, qform and sform codes
    *((76 + 4 * i, "f") for i in range(11)),  # pixdim, vox_offset, scl_slope, scl_inter
    *((256 + 4 * i, "f") for i in range(18)),  # quaternion and affine
    (123, "B"),  # xyzt_units
    (348, "i"),  # extension
)
"""Where the numbers of a NIfTI-1 header stand, and their types."""

FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-30, 1e30, float("nan"), float("inf"), -float("inf"), 352.0, 1e9)


def _damaged_volume(whole: bytes, random: Random) -> bytes:
    """A NIfTI file with one to three wrong numbers in its header, or other damage."""
    if random.random() < 0.4:
        return damaged(whole, random)
    data = bytearray(whole)
    for _ in range(random.choice((1, 1, 2, 3))):
        place, kind = random.choice(FIELDS)
        if kind == "f":
            value: float = random.choice(FLOATS)
        else:
            bits = 8 * struct.calcsize(kind)
            value = random.choice((-1, *NUMBERS)) % 2**bits
            value -= 2**bits if kind != "B" and value >= 2 ** (bits - 1) else 0
        struct.pack_into(f"<{kind}", data, place, value)
    return bytes(data)


def _damaged_inside(whole: bytes, random: Random) -> bytes:
    """A packed volume whose content is damaged, or the package."""
    if random.random() < 0.3:
        return damaged(whole, random)
    return gzip.compress(_damaged_volume(gzip.decompress(whole), random), compresslevel=1)


def nifti_seeds() -> list[Seed]:
    """Volumes of several types of voxels, of both versions, packed and not."""
    import nibabel

    values = np.random.default_rng(0).integers(0, 100, (20, 24, 9))
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    seeds = []
    for kind in ("uint8", "int16", "float32", "float64"):
        image = nibabel.Nifti1Image(values.astype(kind), affine)
        image.header.set_slope_inter(2, -1)
        seeds.append(Seed("volume.nii", image.to_bytes(), _damaged_volume))
    second = nibabel.Nifti2Image(values.astype("int16"), affine).to_bytes()
    swapped = nibabel.Nifti1Image(
        values.astype(">i2"), affine, nibabel.Nifti1Header(endianness=">")
    )
    colours = np.zeros((20, 24, 9), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    frames = nibabel.Nifti1Image(values[..., None].astype("int16"), affine)
    return [
        *seeds,
        Seed("volume.nii", second),
        Seed("volume.nii", swapped.to_bytes()),
        Seed("volume.nii", frames.to_bytes(), _damaged_volume),
        Seed("volume.nii", nibabel.Nifti1Image(colours, affine).to_bytes(), _damaged_volume),
        Seed("volume.nii.gz", gzip.compress(seeds[1].content), _damaged_inside),
    ]


def read_volume(file: Path) -> None:
    """As ``predict`` does: cuts it in each plane, and reads each slice."""
    each_in_turn(*(lambda s=s: _cut(file, s) for s in SLICINGS))


SLICINGS = (None, Slicing(plane="sagittal", slices=3), Slicing(channels="neighbours", slices=2))


def _cut(path: Path, slicing: Slicing | None) -> None:
    for image in open_volume(path, slicing).images:
        read_image(image)


def _slice(number: int, size: int = 10, **changes: Any) -> bytes:
    """A file of a series of CT."""
    from pydicom import dcmwrite
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
    data = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    values = np.random.default_rng(number).integers(0, 2000, (size, size), dtype=np.uint16)
    given = {
        "SOPClassUID": CTImageStorage, "SOPInstanceUID": f"1.2.3.{number}", "Modality": "CT",
        "SeriesInstanceUID": "1.2.3", "PatientID": "P", "InstanceNumber": number,
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "ImagePositionPatient": [0, 0, 2 * number],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [1, 1],
        "SliceThickness": 2, "Rows": size, "Columns": size, "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": 16, "BitsStored": 16,
        "HighBit": 15, "PixelRepresentation": 0, "RescaleSlope": 1, "RescaleIntercept": -1024,
        "PixelData": values.tobytes(),
    }  # fmt: skip
    for name, value in (given | changes).items():
        setattr(data, name, value)
    out = io.BytesIO()
    dcmwrite(out, data)
    return out.getvalue()


def series_seeds() -> list[Seed]:
    """A file of a series, as it is and as other series have it."""
    changes: tuple[dict[str, Any], ...] = (
        {},
        {"InstanceNumber": None},
        {"SliceThickness": None},
        {"PatientID": "Müller^é", "SpecificCharacterSet": "ISO_IR 100"},
    )
    return [Seed("slice.dcm", _slice(2, **one)) for one in changes]


def put_series(folder: Path) -> None:
    """Write the other files of the series."""
    for number in (0, 1, 3, 4):
        (folder / f"{number}.dcm").write_bytes(_slice(number))


def read_series(file: Path) -> None:
    """As ``predict`` reads the folder of a series: as a volume, and as the images of a case."""
    folder = file.parent
    each_in_turn(
        lambda: _cut(folder, None),
        lambda: open_volumes(find_images([folder], case="folder").images),
    )


def case_seeds() -> list[Seed]:
    """Tables of cases, of pictures and volumes, as text and as spreadsheets."""
    names = [*NAMES, "p/e.png", "p/f.png", "v.nii"]
    table = pd.DataFrame(
        {
            "image": names,
            "case": ["1", "1", "01", "2", "2", "é", "4"],
            "label": ["x", "x", "y", "y", "y", "y", "x"],
            "patient": ["A", "A", "B", "b", "b", "b", "D"],
            "split": ["train", "train", "test", "val", "val", "val", "test"],
            "age": [1, 2.5, None, 4, 5, 6, 7],
            "date": pd.Timestamp("2026-11-30"),
            "sure": [True, False] * 3 + [True],
        }
    )
    flags = table[["image", "case"]].assign(mass=[0, 0, 1, 1, 1, 1, 1], fluid=[1, 1, 1, 0, 0, 0, 1])
    seeds = []
    for frame in (table, flags):
        seeds.append(Seed("cases.csv", frame.to_csv(index=False).encode(), damaged_text))
        for write, name, damage in (
            ("to_parquet", "cases.parquet", damaged),
            ("to_excel", "cases.xlsx", damaged_zip),
        ):
            out = io.BytesIO()
            getattr(frame, write)(out, index=False)
            seeds.append(Seed(name, out.getvalue(), damage))
    return [*seeds, Seed("cases.xlsx", _sheets(table), damaged_zip), _open_document(table)]


def _sheets(table: pd.DataFrame) -> bytes:
    """A spreadsheet with a formula, merged and empty cells, an error, and a second sheet."""
    import openpyxl

    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append([])
    sheet.append(["", *table.columns, "sum"])
    for row in table.itertuples(index=False):
        cells = [None if pd.isna(cell) else cell for cell in row]
        sheet.append([None, *cells, "=F3+1"])
    sheet["K3"], sheet["K4"] = "#DIV/0!", 1e300
    sheet.merge_cells("J5:K6")
    book.create_sheet("empty")
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def _open_document(table: pd.DataFrame) -> Seed:
    """A table in the form of OpenDocument."""
    rows = [table.columns, *table.astype(str).to_numpy()]
    cells = "".join(
        "<table:table-row>"
        + "".join(
            f'<table:table-cell office:value-type="string"><text:p>{cell}</text:p>'
            "</table:table-cell>"
            for cell in row
        )
        + "</table:table-row>"
        for row in rows
    )
    spaces = " ".join(
        f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"'
        for name in ("office", "table", "text")
    )
    content = (
        f'<office:document-content {spaces} office:version="1.2"><office:body>'
        f'<office:spreadsheet><table:table table:name="Sheet1">{cells}</table:table>'
        "</office:spreadsheet></office:body></office:document-content>"
    )
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        archive.writestr("content.xml", content)
        archive.writestr("META-INF/manifest.xml", "<manifest/>")
    return Seed("cases.ods", out.getvalue(), damaged_zip)


def put_cases(folder: Path) -> None:
    """Write the pictures and the volume that the tables list."""
    put_pictures(folder)
    put_pictures(folder / "p")
    (folder / "p" / "a.png").rename(folder / "p" / "e.png")
    (folder / "p" / "b.png").rename(folder / "p" / "f.png")
    (folder / "v.nii").write_bytes(nifti_seeds()[1].content)


def read_cases(file: Path) -> None:
    """As ``fit``, ``check`` and ``predict`` read a table of cases."""
    each_in_turn(
        lambda: read_dataset(file, case_column="case"),
        lambda: read_dataset(file, case="folder"),
        lambda: read_dataset(file, case_column="case", case_label="any"),
        lambda: open_volumes(find_images([file], case_column="case").images),
        lambda: find_images([file], case="folder"),
    )
