"""Volumes as files: NIfTI by nibabel, DICOM series by pydicom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def smooth(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """Values that differ from voxel to voxel and in every direction, int16."""
    random = np.random.default_rng(seed)
    grids = np.meshgrid(*(np.linspace(0, 1, side) for side in shape), indexing="ij")
    values = sum(w * grid for w, grid in zip((300, 500, 900), grids, strict=True))
    return (values + random.integers(0, 60, shape)).astype(np.int16)


def write_nifti(path: Path, values: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine), path)
    return path


def write_series(
    folder: Path,
    values: np.ndarray,
    *,
    step: float = 2.0,
    spacing: tuple[float, float] = (1.0, 1.0),
    orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0),
    series: str | None = None,
    prefix: str = "",
    **changes: Any,
) -> list[Path]:
    """A file a slice, of HU values (slices, rows, columns); names say nothing of their order."""
    folder.mkdir(exist_ok=True)
    uid = series or generate_uid(entropy_srcs=[str(folder)])
    normal = np.cross(orientation[:3], orientation[3:])
    order = np.random.default_rng(1).permutation(len(values))
    files = []
    for number, pixels in enumerate(values):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[uid, str(number)])
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        file = folder / f"{prefix}{order[number]:03d}.dcm"
        data = FileDataset(str(file), {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.Modality = CTImageStorage, "CT"
        data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
        data.StudyInstanceUID, data.SeriesInstanceUID = "1.2.3.4", uid
        data.PatientID, data.InstanceNumber = f"P-{folder.name}", number + 1
        data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        data.ImageOrientationPatient = list(orientation)
        place = np.array([-10.0, -20.0, 30.0]) + number * step * normal
        data.ImagePositionPatient = place.tolist()
        data.PixelSpacing, data.SliceThickness = list(spacing), step
        data.Rows, data.Columns = pixels.shape
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, data.PixelRepresentation = 15, 0
        data.RescaleSlope, data.RescaleIntercept = 1, -1024
        data.PixelData = (pixels.astype(np.int32) + 1024).astype(np.uint16).tobytes()
        for name, value in changes.items():
            setattr(data, name, value)
        pydicom.dcmwrite(file, data)
        files.append(file)
    return files
