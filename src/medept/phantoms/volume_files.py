"""Volumes of phantoms in the files that hospitals have: NIfTI, and DICOM series."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medept.data.dicom.files import import_pydicom
from medept.errors import ResourceError

FIELD, THICKNESS = 350.0, 5.0
"""Millimetres along the side of a slice, and from one slice to the next."""

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"


def write_nifti(file: Path, values: np.ndarray) -> None:
    """Write HU (X, Y, slices) in RAS order as one NIfTI file.

    Raises:
        ResourceError: if nibabel is missing.
    """
    try:
        import nibabel
    except ImportError as error:
        raise ResourceError("NIfTI needs nibabel: pip install 'medept[nifti]'") from error
    spacing = FIELD / values.shape[0]
    nibabel.save(nibabel.Nifti1Image(values, np.diag([spacing, spacing, THICKNESS, 1.0])), file)


def write_series(folder: Path, values: np.ndarray, patient: str) -> None:
    """Write HU (X, Y, slices) in RAS order as a folder of DICOM files, one a slice.

    They lie where the NIfTI file does. The same patient and values give the same bytes.

    Raises:
        ResourceError: if pydicom is missing.
    """
    pydicom = import_pydicom()
    folder.mkdir()
    spacing = FIELD / values.shape[0]
    left, back = (-(size - 1) * spacing for size in values.shape[:2])
    for k in range(values.shape[2]):
        data = pydicom.Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        data.SOPClassUID = CT_IMAGE_STORAGE
        data.SOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[patient, str(k)])
        data.StudyInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[patient, "study"])
        data.SeriesInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[patient, "series"])
        data.Modality, data.PatientID, data.PatientName = "CT", patient, patient
        data.ImageType, data.InstanceNumber = ["DERIVED", "PRIMARY", "AXIAL"], k + 1
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]  # rows run to the left, columns back
        data.ImagePositionPatient = [round(x, 6) for x in (left, back, k * THICKNESS)]
        data.PixelSpacing, data.SliceThickness = [round(spacing, 6)] * 2, THICKNESS
        data.Rows, data.Columns = values.shape[1], values.shape[0]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
        data.PixelRepresentation, data.RescaleSlope, data.RescaleIntercept = 1, 1, 0
        data.PixelData = np.ascontiguousarray(values[::-1, ::-1, k].T, dtype="<i2").tobytes()
        data.save_as(folder / f"{k + 1:03d}.dcm", enforce_file_format=True)
