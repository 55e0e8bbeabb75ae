"""Phantoms of cases: bags of tiles, and volumes of CT, of which few images show what is there.

In ``bags``, a slide with a tumour shows it in a tenth to a third of its tiles. In ``ct``, a nodule
is in 3 to 10 of 60 slices of the chest. So the label of a case is wrong for most of its images.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from medept.data.cases import Case, images_of
from medept.data.labelled_images import LabelledImages
from medept.errors import SettingsError
from medept.files import whole_folder, write_table
from medept.phantoms.colon import ColonPatient
from medept.phantoms.volume_files import write_nifti, write_series

CASE_TASKS = ("bags", "ct")
CLASSES = {"bags": ("normal", "tumour"), "ct": ("nodule", "none")}
IMAGES_PER_CASE = {"bags": 24, "ct": 60}
"""Tiles or slices, unless told otherwise."""

SHOWN = (0.1, 0.34)
"""The share of tiles of a slide with a tumour that show it."""

THICK = (3, 10)
"""Slices that show a nodule, at least and at most, of 60."""

AIR, LUNG, TISSUE, BONE = -1000.0, -850.0, 40.0, 600.0
"""Hounsfield units."""


def make_bags(
    *,
    patients: int = 60,
    tiles: int = IMAGES_PER_CASE["bags"],
    size: int = 96,
    difficulty: float = 0.35,
    seed: int = 0,
) -> LabelledImages:
    """Slides of stained tissue, one a patient, as cases of tiles; every second has a tumour.

    Args:
        patients: at least 2.
        tiles: of each slide, at least 2.
        size: pixels along the side of a tile.
        difficulty: 0 (a tumour is obvious) to 1 (hardly visible).
        seed: the same seed draws the same images.

    Raises:
        SettingsError: if an argument is out of range.

    >>> data = make_bags(patients=4, tiles=8, size=32)
    >>> data.labels.tolist(), [len(case) for case in data.images]
    (['normal', 'tumour', 'normal', 'tumour'], [8, 8, 8, 8])
    """
    _check(patients, tiles, size, difficulty)
    cases = []
    for number in range(patients):
        rng = _stream(seed, "bags", number)
        patient = ColonPatient.random(rng)
        shown = np.zeros(tiles, dtype=bool)
        if number % 2:
            count = max(1, round(rng.uniform(*SHOWN) * tiles))
            shown[rng.choice(tiles, count, replace=False)] = True
        signs = np.stack([~shown, shown], axis=1).astype(np.uint8)
        images = tuple(patient.draw(one, size, difficulty, rng) for one in signs)
        names = tuple(f"slide-{number:03d}_{i:02d}.png" for i in range(tiles))
        cases.append(Case(images, names))
    names = tuple(f"slide-{number:03d}" for number in range(patients))
    return LabelledImages(
        images=tuple(cases),
        names=names,
        targets=np.arange(patients) % 2,
        classes=CLASSES["bags"],
        groups=np.array([f"patient-{number:03d}" for number in range(patients)]),
    )


def draw_ct(
    number: int, *, slices: int = 60, size: int = 96, difficulty: float = 0.35, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The chest of patient ``number``, who has a nodule if the number is even.

    Returns:
        HU (size, size, slices), int16, in RAS order; and (slices,) whether one shows the nodule.

    >>> values, shown = draw_ct(0, size=48)
    >>> values.shape, int(shown.sum()), int(draw_ct(1, size=48)[1].sum())
    ((48, 48, 60), 8, 0)
    """
    rng = _stream(seed, "ct", number)
    x, y = np.meshgrid(*[np.linspace(-1, 1, size)] * 2, indexing="ij")
    width, depth, lean = rng.uniform(0.75, 0.9), rng.uniform(0.5, 0.62), rng.uniform(-0.05, 0.05)
    body = (x / width) ** 2 + ((y - lean) / depth) ** 2 < 1
    spine = (x / 0.1) ** 2 + ((y - lean + 0.7 * depth) / 0.1) ** 2 < 1
    table = np.abs(y + depth + 0.12) < 0.03
    vessels = rng.uniform(-1, 1, (24, 4))
    lesion = _lesion(rng, slices, number % 2 == 0)
    values = np.empty((size, size, slices), dtype=np.int16)
    shown = np.zeros(slices, dtype=bool)
    for k in range(slices):
        height = k / (slices - 1)
        lungs = _lungs(x, y - lean, width, depth, height)
        hu = np.where(body, TISSUE, AIR)
        hu[table] = 200
        hu[lungs] = LUNG
        for a, b, da, db in vessels:  # thin, oblique, in every patient
            centre = 0.45 * a + 0.25 * da * height, 0.35 * b + 0.25 * db * height
            hu[lungs & ((x - centre[0]) ** 2 + (y - centre[1]) ** 2 < 0.022**2)] = TISSUE
        hu[spine & body] = BONE
        side, up, place, half = lesion
        reach = 1 - ((k - place) / half) ** 2 if half else 0.0
        if reach > 0:
            radius = 0.12 * np.sqrt(reach)
            spot = (x - side) ** 2 + (y - lean - up) ** 2 < max(radius, 0.03) ** 2
            hu[spot] = TISSUE - 0.85 * difficulty * (TISSUE - LUNG)
            shown[k] = True
        values[..., k] = np.round(hu + rng.normal(0, 25, hu.shape))
    return values, shown


def _lesion(rng: np.random.Generator, slices: int, has: bool) -> tuple[float, float, float, float]:
    """Where a nodule lies (to the right, to the front, slice), and half of its thickness."""
    thick = int(rng.integers(THICK[0], THICK[1] + 1)) * slices / 60
    place = rng.uniform(0.3, 0.7) * slices
    side, up = rng.choice((-1, 1)) * rng.uniform(0.35, 0.5), rng.uniform(-0.12, 0.12)
    middle = np.floor(place) + (0.5 if round(thick) % 2 == 0 else 0.0)
    return side, up, middle, max(round(thick), 1) / 2 + 0.01 if has else 0.0


def _lungs(x: np.ndarray, y: np.ndarray, width: float, depth: float, height: float) -> np.ndarray:
    """Both lungs in a slice, wide in the middle of the chest and small at its ends."""
    open_to = np.sqrt(max(0.0, 1 - (1.7 * (height - 0.5)) ** 2))
    inside = np.zeros(x.shape, dtype=bool)
    for side in (-1, 1):
        across = (x - side * 0.48 * width) / (0.36 * width * open_to + 1e-6)
        inside |= across**2 + (y / (0.72 * depth * open_to + 1e-6)) ** 2 < 1
    return inside


def write_bags(data: LabelledImages, folder: str | os.PathLike[str]) -> Path:
    """Write the tiles as PNG files, and ``labels.csv`` with image, slide, label and patient.

    Args:
        data: from :func:`make_bags`.
        folder: new, or empty.

    Returns:
        The path of ``labels.csv``.
    """
    single = data.by_image()
    slides = [name.rsplit("_", 1)[0] for name in single.names]
    columns = {"image": single.names, "slide": slides, "label": single.labels}
    with whole_folder(Path(folder)) as new:
        for name, image in zip(single.names, images_of(single.images), strict=True):
            Image.fromarray(np.asarray(image)).save(new / name)
        write_table(new / "labels.csv", pd.DataFrame(columns | {"patient": single.groups}))
    return Path(folder) / "labels.csv"


def write_ct(
    folder: str | os.PathLike[str], *, patients: int = 60, dicom: bool = False, **options: Any
) -> Path:
    """Draw patients and write their volumes, with ``labels.csv`` and ``slices.csv``.

    ``labels.csv`` has the columns image, label and patient; ``slices.csv`` the slices that show a
    nodule, by the names that they have in predictions.

    Args:
        folder: new, or empty.
        patients: at least 2.
        dicom: whether each volume is a folder of DICOM files, and not a ``.nii.gz``.
        options: of :func:`draw_ct`.

    Returns:
        The path of ``labels.csv``.

    Raises:
        ResourceError: if nibabel, or pydicom, is missing.
        SettingsError: if an argument is out of range.
    """
    _check(patients, options.get("slices", 60), options.get("size", 96), options["difficulty"])
    rows, truth = [], []
    with whole_folder(Path(folder)) as new:
        for number in range(patients):
            values, shown = draw_ct(number, **options)
            patient = f"chest-{number:03d}"
            name = patient if dicom else f"{patient}.nii.gz"
            if dicom:
                write_series(new / name, values, patient)
            else:
                write_nifti(new / name, values)
            label = CLASSES["ct"][number % 2]
            rows.append({"image": name, "label": label, "patient": patient})
            truth += [{"image": f"{name}#axial-{k + 1}"} for k in np.flatnonzero(shown)]
        write_table(new / "labels.csv", pd.DataFrame(rows))
        write_table(new / "slices.csv", pd.DataFrame(truth))
    return Path(folder) / "labels.csv"


def _check(patients: int, images: int, size: int, difficulty: float) -> None:
    least = {"patients": (patients, 2), "images_per_patient": (images, 2), "size": (size, 32)}
    for name, (value, minimum) in least.items():
        if value < minimum:
            raise SettingsError(f"{name}={value}: it must be at least {minimum}")
    if size > 4096:
        raise SettingsError(f"size={size}: it must be at most 4096")
    if not 0.0 <= difficulty <= 1.0:
        raise SettingsError(f"difficulty={difficulty}: it must be between 0 and 1")


def _stream(seed: int, task: str, number: int) -> np.random.Generator:
    sequence = np.random.SeedSequence(seed, spawn_key=(100 + CASE_TASKS.index(task), number))
    return np.random.Generator(np.random.PCG64(sequence))
