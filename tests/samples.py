"""Small files and folders that tests read: DICOM files, and data sets as they are published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

RAMP = np.arange(0, 4096, 64, dtype=np.uint16).reshape(8, 8)


PATIENT_NAME = "Planted^Rosalind"


def dicom_file(
    path: Path, pixels: np.ndarray = RAMP, frames: int = 1, **attributes: object
) -> Path:
    """A DICOM file of these pixels (of all frames, if several), with attributes by keyword."""
    pydicom = pytest.importorskip("pydicom")
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = pydicom.uid.CTImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    data.PatientName, data.PatientID = PATIENT_NAME, "4711"
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


def pydicom_example(name: str) -> Path:
    """A file that comes with pydicom."""
    pydicom = pytest.importorskip("pydicom")
    path = pydicom.data.get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"{name} does not come with this pydicom")
    return Path(path)


def draw_images(folder: Path, names: list[str], size: int = 8) -> None:
    """Random RGB images with these names, in a new folder."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in names:
        pixels = random.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)


def small_colon(folder: Path, *, studies: int = 6) -> Path:
    """A ColonPath of our own: studies of three tiles, names with spaces, lists and images."""
    folder.mkdir(parents=True)
    rows = [
        (f"2019-0{study} 01_00-lv1p00{i:02}.png"[:-9] + f"p00{i:02}.png", study % 2)
        for study in range(studies)
        for i in range(3)
    ]
    test = [(name.replace("2019", "2020"), label) for name, label in rows]
    for file, part in {"trainval.txt": rows, "test_WithLabel.txt": test}.items():
        (folder / file).write_text("".join(f"{name} {label}\n" for name, label in part))
    (folder / "test_WithoutLabel.txt").write_text("".join(f"{name}\n" for name, _ in test))
    (folder / "colon_1-shot_train_exp2.txt").write_text(
        "".join(f"{name} {label}\n" for name, label in rows[:6])
    )
    draw_images(folder / "images", [name for name, _ in rows + test])
    return folder
