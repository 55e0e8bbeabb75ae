"""Volumes: NIfTI files and DICOM series as cases, whose images are slices.

>>> import nibabel
>>> import numpy as np
>>> values = np.random.default_rng(0).normal(size=(20, 24, 10)).astype(np.float32)
>>> nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), "scan.nii.gz")
>>> case = open_volume(Path("scan.nii.gz"), Slicing(slices=3))
>>> case.names, case.images[0].read().size
(('scan.nii.gz#axial-2', 'scan.nii.gz#axial-6', 'scan.nii.gz#axial-9'), (20, 24))
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medept.data.cases import Case, Item
from medept.data.dicom.files import is_dicom
from medept.data.formats import is_nifti
from medept.data.threads import available_threads, prefetch
from medept.data.volumes.open import naming, open_values
from medept.data.volumes.series import lies_somewhere
from medept.data.volumes.slices import VolumeSlice, scan
from medept.data.volumes.slicing import Slicing


def is_volume(path: Path) -> bool:
    """Whether a path is a NIfTI file, or a folder with a DICOM file in it.

    >>> is_volume(Path("scan.nii.gz")), is_volume(Path("scan.png"))
    (True, False)
    """
    if is_nifti(path):
        return True
    return path.is_dir() and any(is_dicom(file) for file in sorted(path.iterdir()))


def open_volume(path: Path, slicing: Slicing | None = None, name: str | None = None) -> Case:
    """The slices of a volume, as the images of a case; all voxels are read once to choose them.

    Args:
        path: a NIfTI file, or a folder of one DICOM series.
        slicing: which slices, and how they are shown.
        name: what the volume is called in outputs; default: its path.

    Raises:
        InputError: if it cannot be read, or has no slices to show; the message names it.
    """
    chosen = slicing or Slicing()
    volume = open_values(path)
    with naming(path):
        source = scan(volume, chosen)
    images = tuple(VolumeSlice(source, index) for index in source.indices)
    names = tuple(f"{name or path}#{image.key}" for image in images)
    return Case(images, names, cut=str(chosen))


def open_volumes(
    items: Sequence[Item], slicing: Slicing | None = None, names: Sequence[str] | None = None
) -> tuple[Item, ...]:
    """The items, with the volumes among them as cases; several are read at a time.

    Args:
        items: of which paths of NIfTI files and folders are volumes.
        slicing: which slices, and how they are shown.
        names: what each item is called in outputs; default: its path.
    """

    volumes = {
        row: item for row, item in enumerate(items) if isinstance(item, Path) and is_volume(item)
    }

    def opened(row: int) -> Case:
        return open_volume(volumes[row], slicing, None if names is None else names[row])

    threads = available_threads()
    cases = prefetch(opened, list(volumes), threads=threads, limit=2 * threads)
    found: dict[int, Item] = dict(zip(volumes, cases, strict=True))
    return tuple(found.get(row, item) for row, item in enumerate(items))


def series_folder(item: Item) -> Path | None:
    """The folder of a case whose images are the files of one DICOM series; None for others.

    They are two or more, all that is DICOM in the folder, and say where they lie.
    """
    if not isinstance(item, Case) or len(item) < 2:
        return None
    files = [image for image in item.images if isinstance(image, Path)]
    if len(files) < len(item) or not lies_somewhere(files[0]):
        return None
    folder = files[0].parent
    inside = {file for file in folder.iterdir() if file.is_file() and is_dicom(file)}
    return folder if inside == set(files) else None


def slicing_of(items: Sequence[Item]) -> Slicing | None:
    """How the first volume among items was cut; None where there is no volume."""
    for item in items:
        if isinstance(item, Case) and item.cut:
            return Slicing.parse(item.cut)
    return None


__all__ = ["Slicing", "is_volume", "open_volume", "open_volumes", "series_folder", "slicing_of"]
