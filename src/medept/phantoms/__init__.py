"""Phantoms: synthetic medical images, so that everything can be tried anywhere.

There are three tasks, modelled on those of MedFMC: ``colon`` (tiles of stained tissue, two
classes), ``chest`` (radiographs, five findings) and ``endo`` (endoscopy, four lesions). Images of
one patient resemble each other, and show much the same findings. So a split that puts one patient
on both sides makes results look too good, as with real data. Every patient and every image has a
random stream of its own: asking for more of them leaves the others unchanged.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from medept.data.labelled_images import LabelledImages, label_texts
from medept.errors import DataError, SettingsError
from medept.files import whole_folder, write_table
from medept.phantoms.chest import ChestPatient
from medept.phantoms.colon import ColonPatient
from medept.phantoms.endo import EndoPatient
from medept.phantoms.patient import Patient

PATIENTS: dict[str, type[Patient]] = {
    "colon": ColonPatient,
    "chest": ChestPatient,
    "endo": EndoPatient,
}
TASKS = tuple(PATIENTS)

_BLOCK, _PATIENT, _IMAGE = range(3)  # what a random stream is used for


def make_phantoms(
    task: str,
    *,
    patients: int = 60,
    images_per_patient: int = 4,
    size: int = 96,
    difficulty: float = 0.35,
    seed: int = 0,
) -> LabelledImages:
    """Draw a synthetic data set with patients.

    Classes are balanced over patients. Of every two patients of ``colon`` one has a tumour; of
    every six of ``chest`` (five of ``endo``) each has another finding and one has none. In
    ``colon`` one tile in ten shows the other class than its patient's. In ``chest`` and ``endo`` a
    patient may have further findings; one image in ten misses each of them, and one in a hundred
    shows one that the patient does not have.

    Args:
        task: one of :data:`TASKS`.
        patients: number of patients, at least 2.
        images_per_patient: at least 1.
        size: pixels a side, from 32 to 4096.
        difficulty: 0 (signs are obvious) to 1 (hardly visible).
        seed: the same seed draws the same images.

    Returns:
        Images as uint8 arrays (size, size, 3), with patients as groups. ``colon`` is multi-class,
        ``chest`` and ``endo`` are multi-label; images without a finding have a row of zeros.

    Raises:
        SettingsError: if an argument is out of range.

    >>> data = make_phantoms("chest", patients=6, images_per_patient=2, size=32)
    >>> len(data), data.task, data.images[0].shape
    (12, 'multilabel', (32, 32, 3))
    >>> data.classes
    ('cardiomegaly', 'consolidation', 'effusion', 'nodule', 'pneumothorax')
    """
    _check_arguments(task, patients, images_per_patient, size, difficulty, seed)
    images, names, signs, groups = [], [], [], []
    for number in range(patients):
        rng = _stream(seed, task, _PATIENT, number)
        patient = PATIENTS[task].random(rng)
        has = _patient_signs(task, number, seed, rng)
        for image in range(images_per_patient):
            rng = _stream(seed, task, _IMAGE, number, image)
            shown = _image_signs(task, has, rng)
            images.append(patient.draw(shown, size, difficulty, rng))
            names.append(f"patient-{number:03d}_{image}.png")
            groups.append(f"patient-{number:03d}")
            signs.append(shown)
    table = np.stack(signs)
    return LabelledImages(
        images=tuple(images),
        names=tuple(names),
        targets=table.argmax(axis=1).astype(np.int64) if task == "colon" else table,
        classes=PATIENTS[task].classes,
        groups=np.array(groups),
    )


def write_phantoms(data: LabelledImages, folder: str | os.PathLike[str]) -> Path:
    """Write PNG files and ``labels.csv``, which :func:`~medept.data.table.read_dataset` reads.

    The columns of the table are ``image``, ``label`` (several are joined by ``|``; empty for none)
    and ``patient``. The folder appears whole or not at all.

    Args:
        data: from :func:`make_phantoms`.
        folder: new, or empty.

    Returns:
        The path of ``labels.csv``.

    Raises:
        DataError: if the folder is not empty, or is a file, or an image's name is not a plain
            file name.
    """
    outside = [name for name in data.names if Path(name).name != name]
    if outside:
        raise DataError(f"the image name {outside[0]!r} is a path; names must be plain file names")
    columns = {"image": data.names, "label": label_texts(data), "patient": data.groups}
    table = pd.DataFrame(columns)

    with whole_folder(Path(folder)) as new:
        for name, image in zip(data.names, data.images, strict=True):
            Image.fromarray(np.asarray(image)).save(new / name)
        write_table(new / "labels.csv", table)
    return Path(folder) / "labels.csv"


def _check_arguments(
    task: str, patients: int, images_per_patient: int, size: int, difficulty: float, seed: int
) -> None:
    if task not in TASKS:
        raise SettingsError(f"task {task!r} is not known; the tasks are {', '.join(TASKS)}")
    least = {"patients": (patients, 2), "images_per_patient": (images_per_patient, 1)}
    least |= {"size": (size, 32), "seed": (seed, 0)}
    for name, (value, minimum) in least.items():
        if value < minimum:
            raise SettingsError(f"{name}={value}: it must be at least {minimum}")
    if size > 4096:
        raise SettingsError(f"size={size}: it must be at most 4096")
    if not 0.0 <= difficulty <= 1.0:
        raise SettingsError(f"difficulty={difficulty}: it must be between 0 and 1")


def _stream(seed: int, task: str, *key: int) -> np.random.Generator:
    sequence = np.random.SeedSequence(seed, spawn_key=(TASKS.index(task), *key))
    return np.random.Generator(np.random.PCG64(sequence))


def _patient_signs(task: str, number: int, seed: int, rng: np.random.Generator) -> np.ndarray:
    """What a patient has, (C,) of 0 and 1: one class each in a shuffled block, then chance."""
    classes = len(PATIENTS[task].classes)
    block_signs = np.eye(classes, dtype=np.uint8)
    if task != "colon":
        block_signs = np.vstack([block_signs, np.zeros(classes, np.uint8)])
    block, place = divmod(number, len(block_signs))
    order = _stream(seed, task, _BLOCK, block).permutation(len(block_signs))
    signs = block_signs[order[place]]
    if task != "colon" and signs.any():
        signs = signs | (rng.uniform(size=classes) < 0.2)
    return signs


def _image_signs(task: str, has: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What one image of the patient shows, (C,) of 0 and 1."""
    if task == "colon":
        return has if rng.uniform() < 0.9 else 1 - has
    probability = np.where(has, 0.9, 0.01)
    return (rng.uniform(size=has.size) < probability).astype(np.uint8)
