"""Phantoms: medical images that are drawn, not taken, so that everything can be tried anywhere.

Three tasks after those of MedFMC: ``colon`` (tiles of stained tissue, two classes), ``chest``
(radiographs, five findings) and ``endo`` (endoscopy, four lesions). Each patient has a look of
their own, and what a patient has shows in most of their images; so a split that parts one
patient's images flatters, as it does with real data. Every patient and image is drawn from a
random stream of its own: asking for more of them changes none of the others.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
from PIL import Image

from medept.data.table import LabelledImages, label_texts
from medept.errors import SettingsError
from medept.files import whole_folder, write_table
from medept.phantoms import chest, colon, endo

TASKS = ("colon", "chest", "endo")

_DRAWN_BY: dict[str, ModuleType] = {"colon": colon, "chest": chest, "endo": endo}
_BLOCK, _PATIENT, _IMAGE = range(3)  # what a random stream is for


def make_phantoms(
    task: str,
    *,
    patients: int = 60,
    images_per_patient: int = 4,
    size: int = 96,
    difficulty: float = 0.35,
    seed: int = 0,
) -> LabelledImages:
    """Draw a data set with patients.

    Patients are dealt out evenly: each two (``colon``), six (``chest``) or five (``endo``) in a
    row hold each class once, or each finding once and one patient without any. One tile in ten
    of ``colon`` is of the class that its patient is not; in the other tasks a patient may have
    further findings, one image in ten misses a finding, and one in a hundred shows another.

    Args:
        task: one of :data:`TASKS`.
        patients: how many, at least 2.
        images_per_patient: at least 1.
        size: of the images, in pixels a side, from 32 to 4096.
        difficulty: 0 (signs plain to see) to 1 (hardly any).
        seed: the same one draws the same images.

    Returns:
        Images as uint8 arrays (size, size, 3), patients as groups. ``colon`` is multi-class,
        ``chest`` and ``endo`` are multi-label, with rows of zeros for images without a finding.

    Raises:
        InputError: if an argument is out of its range.
    """
    _check(task, patients, images_per_patient, size, difficulty, seed)
    drawn_by = _DRAWN_BY[task]
    images, names, signs, groups = [], [], [], []
    for patient in range(patients):
        rng = _stream(seed, task, _PATIENT, patient)
        patient_look = drawn_by.look(rng)
        has = _patient_signs(task, patient, seed, rng)
        for image in range(images_per_patient):
            rng = _stream(seed, task, _IMAGE, patient, image)
            shown = _image_signs(task, has, rng)
            images.append(drawn_by.draw(patient_look, shown, size, difficulty, rng))
            names.append(f"patient-{patient:03d}_{image}.png")
            groups.append(f"patient-{patient:03d}")
            signs.append(shown)
    table = np.stack(signs)
    return LabelledImages(
        images=tuple(images),
        names=tuple(names),
        targets=table.argmax(axis=1).astype(np.int64) if task == "colon" else table,
        classes=drawn_by.CLASSES,
        groups=np.array(groups),
    )


def write_phantoms(data: LabelledImages, folder: str | os.PathLike[str]) -> Path:
    """Write PNG files and ``labels.csv``, which :func:`~medept.data.table.read_dataset` reads.

    The table's columns are ``image``, ``label`` (several joined by ``|``; empty for none) and
    ``patient``. The folder appears whole or not at all.

    Args:
        data: from :func:`make_phantoms`.
        folder: new, or empty.

    Returns:
        The path of ``labels.csv``.

    Raises:
        InputError: if the folder holds something already, or is a file; or a name is a path.
    """
    outside = [name for name in data.names if Path(name).name != name]
    if outside:
        raise SettingsError(
            f"the image name {outside[0]!r} is a path; names must be plain file names"
        )
    columns = {"image": data.names, "label": label_texts(data), "patient": data.groups}
    table = pd.DataFrame(columns)

    with whole_folder(Path(folder)) as new:
        for name, image in zip(data.names, data.images, strict=True):
            Image.fromarray(np.asarray(image)).save(new / name)
        write_table(new / "labels.csv", table)
    return Path(folder) / "labels.csv"


def _check(
    task: str, patients: int, images_per_patient: int, size: int, difficulty: float, seed: int
) -> None:
    if task not in TASKS:
        raise SettingsError(f"task {task!r} is not known; the tasks are {', '.join(TASKS)}")
    least = {"patients": (patients, 2), "images_per_patient": (images_per_patient, 1)}
    least |= {"size": (size, 32), "seed": (seed, 0)}
    for name, (value, minimum) in least.items():
        if value < minimum:
            raise SettingsError(f"{name} is {value}; it must be at least {minimum}")
    if size > 4096:
        raise SettingsError(f"size is {size}; it must be at most 4096")
    if not 0.0 <= difficulty <= 1.0:
        raise SettingsError(f"difficulty is {difficulty}; it must be between 0 and 1")


def _stream(seed: int, task: str, *key: int) -> np.random.Generator:
    sequence = np.random.SeedSequence(seed, spawn_key=(TASKS.index(task), *key))
    return np.random.Generator(np.random.PCG64(sequence))


def _patient_signs(task: str, patient: int, seed: int, rng: np.random.Generator) -> np.ndarray:
    """What a patient has, (C,) uint8: dealt evenly to neighbours, more findings by chance."""
    classes = len(_DRAWN_BY[task].CLASSES)
    hands = np.eye(classes, dtype=np.uint8)
    if task != "colon":
        hands = np.vstack([hands, np.zeros(classes, np.uint8)])
    block, place = divmod(patient, len(hands))
    hand = hands[_stream(seed, task, _BLOCK, block).permutation(len(hands))[place]]
    if task != "colon" and hand.any():
        hand = hand | (rng.uniform(size=classes) < 0.2)
    return hand


def _image_signs(task: str, has: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What one image of the patient shows, (C,) uint8."""
    if task == "colon":
        return has if rng.uniform() < 0.9 else 1 - has
    chance = np.where(has, 0.9, 0.01)
    return (rng.uniform(size=has.size) < chance).astype(np.uint8)
