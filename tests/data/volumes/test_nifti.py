"""NIfTI volumes: the right slices, the right way up, against nibabel and SimpleITK."""

from __future__ import annotations

import gzip
import logging
import struct
from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from volume_files import smooth, write_nifti

from medept import InputError
from medept.data.images import read_image
from medept.data.volumes import Slicing, open_volume, slicing_of
from medept.data.volumes.open import open_values
from medept.data.volumes.volume import Cut

WHOLE = Slicing(slices=None, window="600,2000")
PLANES = ("axial", "coronal", "sagittal")


def slices(path: Path, slicing: Slicing = WHOLE) -> np.ndarray:
    """All images of a volume (n, H, W), grey."""
    found = [np.asarray(read_image(image)) for image in open_volume(path, slicing).images]
    return np.stack(found)[..., 0]


def windowed(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.round(np.clip((values.astype(np.float64) - low) / (high - low), 0, 1) * 255)


@pytest.mark.parametrize("order", permutations(range(3)))
@pytest.mark.parametrize("signs", product((1, -1), repeat=3))
def test_every_orientation_shows_the_same(tmp_path: Path, order, signs) -> None:
    """In RAS+ by nibabel, and as radiologists look: the right on the left, front or head up."""
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, list(order)] * np.array(signs)
    path = write_nifti(tmp_path / "v.nii", smooth((9, 11, 13)), affine)
    ras = np.asarray(nibabel.as_closest_canonical(nibabel.load(path)).dataobj)
    expected = {
        "axial": [ras[::-1, ::-1, z].T for z in range(ras.shape[2])],
        "coronal": [ras[::-1, y, ::-1].T for y in range(ras.shape[1])],
        "sagittal": [ras[x, ::-1, ::-1].T for x in range(ras.shape[0])],
    }
    for plane in PLANES:
        found = slices(path, Slicing(plane=plane, slices=None, window="600,2000"))
        np.testing.assert_allclose(
            found, windowed(np.stack(expected[plane]), -400, 1600), atol=1, err_msg=plane
        )


def test_a_scaled_oblique_volume_is_as_simpleitk_reads_it(tmp_path: Path) -> None:
    turn = np.deg2rad(12)
    affine = np.array(
        [[-np.cos(turn), np.sin(turn), 0, 5], [np.sin(turn), np.cos(turn), 0, 7],
         [0, 0, 2.5, 9], [0, 0, 0, 1]]
    )  # fmt: skip
    image = nibabel.Nifti1Image(smooth((12, 10, 9)), affine)
    image.header.set_slope_inter(0.5, -100)
    nibabel.save(image, tmp_path / "v.nii.gz")
    other = sitk.DICOMOrient(sitk.ReadImage(str(tmp_path / "v.nii.gz")), "LPS")
    expected = windowed(sitk.GetArrayFromImage(other), -400, 1600)
    np.testing.assert_allclose(slices(tmp_path / "v.nii.gz"), expected, atol=1)


def test_pixels_are_square_whatever_the_spacing(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "v.nii", smooth((10, 20, 12)), np.diag([2, 1, 2.5, 1]))
    sizes = {
        plane: open_volume(path, Slicing(plane=plane)).images[0].read().size for plane in PLANES
    }
    assert sizes == {"axial": (20, 20), "coronal": (10, 15), "sagittal": (20, 30)}


def test_slices_are_spread_over_what_is_not_empty(tmp_path: Path) -> None:
    values = np.full((40, 40, 60), -1000, dtype=np.int16)
    values[8:32, 8:32, 20:50] = smooth((24, 24, 30))
    path = write_nifti(tmp_path / "v.nii.gz", values)
    case = open_volume(path, Slicing(slices=10))
    assert case.names[0] == f"{path}#axial-22"
    assert [image.index for image in case.images] == list(range(21, 50, 3))
    assert len(open_volume(path, Slicing(slices=None)).images) == 60
    assert len(open_volume(path, Slicing(slices=100)).images) == 60
    coronal = open_volume(path, Slicing(plane="coronal", slices=4))
    assert [image.index for image in coronal.images] == [11, 17, 23, 29]


def test_neighbours_are_red_and_blue(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "v.nii", smooth((16, 16, 6)))
    grey = slices(path)
    colour = open_volume(path, Slicing(slices=None, window="600,2000", channels="neighbours"))
    for i, image in enumerate(colour.images):
        found = np.asarray(read_image(image))
        around = [grey[min(max(i + o, 0), 5)] for o in (-1, 0, 1)]
        np.testing.assert_array_equal(found, np.stack(around, axis=2))


def test_the_window_auto_shows_the_central_values_and_lung_those_of_ct(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "v.nii", smooth((20, 20, 20)))
    found = slices(path, Slicing(slices=None))
    assert 0.001 < (found == 0).mean() < 0.15
    assert 0.001 < (found == 255).mean() < 0.05
    lung = slices(path, Slicing(slices=None, window="lung"))
    other = np.asarray(nibabel.load(path).dataobj)[::-1, ::-1].transpose(2, 1, 0)
    np.testing.assert_allclose(lung, windowed(other, -1350, 150), atol=1)


def test_a_volume_is_read_once_for_all_its_slices(tmp_path: Path, monkeypatch) -> None:
    path = write_nifti(tmp_path / "v.nii", smooth((16, 16, 6)))
    case = open_volume(path)
    read = []
    monkeypatch.setattr(
        "medept.data.volumes.slices.open_values", lambda p: read.append(p) or open_values(p)
    )
    for image in (*case.images, *case.images):
        image.read()
    assert read == [path]


def test_slicing_is_kept_in_one_line() -> None:
    for one in (Slicing(), Slicing("sagittal", None, "40,80", "neighbours"), WHOLE):
        assert Slicing.parse(str(one)) == one
    for wrong in ({"plane": "oblique"}, {"slices": 0}, {"window": "lungs"}, {"window": "40,0"}):
        with pytest.raises(InputError, match=str(next(iter(wrong)))):
            Slicing(**wrong)
    assert slicing_of(["a.png"]) is None


def broken(kind: str, path: Path) -> None:
    values, affine = smooth((16, 16, 10)), np.eye(4)
    if kind == "4-D":
        values = np.stack([values, values], axis=3)
    elif kind == "NaN":
        values = values.astype(np.float32)
        values[3, 4, 5] = np.nan
    elif kind == "constant":
        values[:] = 7
    elif kind == "wild":
        affine[0, 0] = 1e200  # as float32 of the header: infinite
        affine[1, 1] = 1e38
    elif kind == "singular":
        affine[2, 2] = 0
    elif kind == "one slice":
        values = values[:, :, :1]
    elif kind == "flat":
        values = values[:, :1]
    image = nibabel.Nifti1Image(values, None)
    image.header.set_sform(affine, code=1)
    nibabel.save(image, path)
    if kind == "truncated":
        packed = path.read_bytes()
        path.write_bytes(packed[: len(packed) // 2])
    elif kind == "no NIfTI":
        path.write_bytes(gzip.compress(b"not a volume" * 100))
    elif kind == "vast":
        header = bytearray(gzip.decompress(path.read_bytes()))
        header[42:46] = struct.pack("<hh", 32000, 32000)
        path.write_bytes(gzip.compress(bytes(header)))
    elif kind == "flipped bytes":
        packed = bytearray(path.read_bytes())
        packed[len(packed) // 2] ^= 0xFF
        path.write_bytes(bytes(packed))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("4-D", "16 x 16 x 10 x 2 voxels"),
        ("NaN", r"NaN or infinite values \(slab 6\)"),
        ("constant", "all its voxels are 7"),
        ("singular", "affine is singular"),
        ("wild", "affine is"),
        ("vast", "holds 32000 x 32000 x 10 voxels"),
        ("truncated", "damaged or cut short at slice"),
        ("flipped bytes", "damaged"),
        ("no NIfTI", "not a NIfTI file"),
        ("flat", "choose another plane="),
    ],
)
def test_what_cannot_be_read_is_told_by_name(tmp_path: Path, kind: str, message: str) -> None:
    path = tmp_path / "scan.nii.gz"
    broken(kind, path)
    with pytest.raises(InputError, match=message) as error:
        open_volume(path)
    assert str(path) in str(error.value)


def test_a_volume_of_one_slice_is_one_image_in_its_plane_alone(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    broken("one slice", path)
    assert len(open_volume(path)) == 1
    with pytest.raises(InputError, match="choose another plane="):
        open_volume(path, Slicing(plane="coronal"))


def test_an_unknown_orientation_is_told(tmp_path: Path, caplog) -> None:
    image = nibabel.Nifti1Image(smooth((16, 16, 4)), None)
    image.header["qform_code"] = image.header["sform_code"] = 0
    nibabel.save(image, tmp_path / "v.nii")
    with caplog.at_level(logging.WARNING):
        open_volume(tmp_path / "v.nii")
    assert "says nothing of how the patient lies" in caplog.text


def test_memory_stays_at_a_few_slices(tmp_path: Path) -> None:
    """Voxels are read slab by slab, also of a compressed file."""
    path = write_nifti(tmp_path / "v.nii.gz", smooth((16, 16, 40)))
    volume = open_values(path)
    slabs = volume.slabs()
    assert next(slabs).shape == (16, 16)
    assert Cut.of(volume, "axial").count == 40


def test_a_header_that_points_nowhere_is_told(tmp_path: Path) -> None:
    file = tmp_path / "a.nii"
    nibabel.save(nibabel.Nifti1Image(np.ones((20, 24, 6), np.int16), np.eye(4)), file)
    content = bytearray(file.read_bytes())
    content[108:112] = np.float32(1e30).tobytes()  # vox_offset
    file.write_bytes(content)
    with pytest.raises(InputError, match="a.nii: damaged"):
        open_volume(file)
