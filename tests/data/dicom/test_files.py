"""DICOM files are recognised, opened once, and refused if they are damaged or too large."""

from __future__ import annotations

import io
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from samples import dicom_file, pydicom_example

from medept import InputError
from medept.data.dataset import read_dataset
from medept.data.dicom.files import is_dicom, other_object, read_identity
from medept.data.dicom.frames import read_frame
from medept.data.dicom.patients import dicom_groups
from medept.data.images import read_image

pydicom = pytest.importorskip("pydicom")


def frame_of(path: Path, frame: int | None = None) -> np.ndarray:
    with path.open("rb") as file:
        return read_frame(file, frame)


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


def test_meta_information_that_cannot_be_converted_is_damage(tmp_path: Path) -> None:
    whole = dicom_file(tmp_path / "whole.dcm").read_bytes()
    kind = bytes.fromhex("02000200")  # the element that says which object it is
    (tmp_path / "bad.dcm").write_bytes(whole.replace(kind + b"UI", kind + b"U0", 1))
    assert other_object(tmp_path / "bad.dcm") == ""
    for read in (read_image, read_identity, lambda path: dicom_groups([path])):
        with pytest.raises(InputError, match=r"damaged \(NotImplementedError\)"):
            read(tmp_path / "bad.dcm")


def test_a_deflated_file_is_not_inflated_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pydicom_example("image_dfl.dcm").read_bytes()
    start = 144 + int.from_bytes(whole[140:144], "little")
    plain = zlib.decompress(whole[start:], -15)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(plain + bytes(2**24)) + packer.flush()
    (tmp_path / "bomb.dcm").write_bytes(whole[:start] + packed)
    monkeypatch.setattr("medept.data.dicom.files.MAX_INFLATED", len(plain))
    assert read_image(pydicom_example("image_dfl.dcm")).size == (512, 512)
    with pytest.raises(InputError, match=r"bomb.dcm: inflates to more than"):
        read_image(tmp_path / "bomb.dcm")
    monkeypatch.undo()
    assert read_image(tmp_path / "bomb.dcm").size == (512, 512)  # 16 MB more than it should have
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 512 * 512)
    assert read_image(pydicom_example("image_dfl.dcm")).size == (512, 512)
    with pytest.raises(InputError, match=r"bomb.dcm: inflates to more than 3,145,728 bytes"):
        read_image(tmp_path / "bomb.dcm")


def test_the_index_of_a_medium_is_no_image(tmp_path: Path) -> None:
    marked = bytes(128) + b"DICM"
    (tmp_path / "DICOMDIR").write_bytes(marked)
    (tmp_path / "IM0001").write_bytes(marked)
    assert not is_dicom(tmp_path / "DICOMDIR")
    assert is_dicom(tmp_path / "IM0001")
