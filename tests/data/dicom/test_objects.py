"""Objects of DICOM that are no pictures are left out of folders and told, by their SOP class."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medept import InputError
from medept.data.dicom.files import object_kind
from medept.data.folder_images import images_below
from medept.data.images import read_image

pydicom = pytest.importorskip("pydicom")

KINDS = {
    "SegmentationStorage": "segmentation", "SurfaceSegmentationStorage": "segmentation",
    "ComprehensiveSRStorage": "structured report", "BasicTextSRStorage": "structured report",
    "KeyObjectSelectionDocumentStorage": "key object selection",
    "GrayscaleSoftcopyPresentationStateStorage": "presentation state",
    "RTStructureSetStorage": "radiotherapy object", "RTDoseStorage": "radiotherapy object",
    "RTPlanStorage": "radiotherapy object", "EncapsulatedPDFStorage": "document",
    "RawDataStorage": "raw data object", "SpatialRegistrationStorage": "registration",
    "TwelveLeadECGWaveformStorage": "waveform", "RealWorldValueMappingStorage": "table of real",
    "MRSpectroscopyStorage": "spectrum",
}  # fmt: skip

PICTURES = (
    "CTImageStorage",
    "MRImageStorage",
    "EnhancedMRImageStorage",
    "ComputedRadiographyImageStorage",
    "DigitalXRayImageStorageForPresentation",
    "DigitalMammographyXRayImageStorageForPresentation",
    "UltrasoundImageStorage",
    "UltrasoundMultiFrameImageStorage",
    "SecondaryCaptureImageStorage",
    "NuclearMedicineImageStorage",
    "PositronEmissionTomographyImageStorage",
    "RTImageStorage",
    "VLPhotographicImageStorage",
    "VLWholeSlideMicroscopyImageStorage",
    "XRayAngiographicImageStorage",
    "OphthalmicPhotography8BitImageStorage",
    "BreastTomosynthesisImageStorage",
    "VLEndoscopicImageStorage",
    "ParametricMapStorage",
)


def write(path: Path, sop: str, **more: object) -> None:
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = getattr(pydicom.uid, sop), pydicom.uid.generate_uid()
    data.PatientID = "X1"
    for name, value in more.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)


def pixels(**more: object) -> dict[str, object]:
    return {"Rows": 8, "Columns": 8, "SamplesPerPixel": 1, "BitsAllocated": 8, "BitsStored": 8,
            "HighBit": 7, "PixelRepresentation": 0, "PhotometricInterpretation": "MONOCHROME2",
            "PixelData": np.arange(64, dtype=np.uint8).tobytes()} | more  # fmt: skip


@pytest.mark.parametrize(("sop", "kind"), KINDS.items())
def test_each_is_told_by_its_kind(sop: str, kind: str, tmp_path: Path) -> None:
    write(tmp_path / "picture", "CTImageStorage", **pixels())
    write(tmp_path / "other.dcm", sop, **pixels())
    images, left = images_below(tmp_path, tmp_path)
    assert [image.name for image in images] == ["picture"]
    assert f"1 DICOM {kind}" in str(left)
    assert read_image(tmp_path / "other.dcm").size == (8, 8), "who names it gets it"
    write(tmp_path / "empty.dcm", sop)
    with pytest.raises(InputError, match=f"empty.dcm: a DICOM {kind}.* without an image in it"):
        read_image(tmp_path / "empty.dcm")


def test_pictures_of_every_modality_stay() -> None:
    for sop in PICTURES:
        data = pydicom.Dataset()
        data.SOPClassUID = getattr(pydicom.uid, sop)
        assert object_kind(data) == "", sop
    assert object_kind(pydicom.dataset.FileDataset("x", {}, file_meta=pydicom.Dataset())) == ""


def test_the_command_line_counts_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from medept.data.dataset import read_dataset

    for label in "ab":
        (tmp_path / label).mkdir()
        Image.new("L", (8, 8)).save(tmp_path / label / "photo.png")
        for number in range(2):
            write(tmp_path / label / f"IM{number}", "CTImageStorage", **pixels())
        write(tmp_path / label / "SR1", "ComprehensiveSRStorage")
        write(tmp_path / label / "SEG1.dcm", "SegmentationStorage", **pixels())
    with caplog.at_level(logging.WARNING):
        data = read_dataset(tmp_path)
    assert len(data) == 6
    assert "2 DICOM structured reports (no picture)" in caplog.text
    assert "2 DICOM segmentations (no picture)" in data.left_out
