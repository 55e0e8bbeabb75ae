"""MedFMC (Wang et al., Scientific Data 2023): chest radiographs, colon tiles, endoscopies.

A folder a task (``chest``, ``colon``, ``endo``), as the challenge lays it out: ``images/`` with the
pictures, beside it ``trainval.txt``, ``test_WithLabel.txt``, ``train_20.txt`` and
``TASK_K-shot_train_expN.txt``, the official support sets. The test set shares no study with the
training set. The official *validation* lists do share studies, and even images, with the support
sets of chest and endo (76 of the 91 images of chest's first 5-shot set): nothing is evaluated on
them here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medept.data.image_lists import read_lines, read_list
from medept.data.sources.base import Source, require
from medept.data.table import LabelledImages
from medept.errors import DataError

ORIGIN = "MedFMC is at https://doi.org/10.6084/m9.figshare.c.6476047"
TRAINING, TEST = "trainval.txt", "test_WithLabel.txt"
CHEST = (
    "pleural_effusion", "nodule", "pneumonia", "cardiomegaly", "hilar_enlargement", "fracture_old",
    "fibrosis", "aortic_calcification", "tortuous_aorta", "thickened_pleura", "TB", "pneumothorax",
    "emphysema", "atelectasis", "calcification", "pulmonary_edema", "increased_lung_markings",
    "elevated_diaphragm", "consolidation",
)  # fmt: skip


@dataclass(frozen=True)
class MedFMC(Source):
    """One of the three tasks.

    study: the study that a file name belongs to; None where a shot is an image.
    """

    task: str
    classes: tuple[str, ...]
    multilabel: bool
    study: Callable[[str], str] | None = None

    def home(self, folder: Path) -> Path:
        """The task's folder, given itself or the one of all tasks."""
        return folder / self.task if (folder / self.task).is_dir() else folder

    def read(self, folder: Path) -> LabelledImages:
        """Training and test set, with their splits; the training set alone if that is all."""
        require(folder, [folder / TRAINING], ORIGIN)
        if not (folder / TEST).exists():
            return self._read(folder, {"train": TRAINING})
        return self._read(folder, {"train": TRAINING, "test": TEST})

    def labelled_test(self, folder: Path) -> LabelledImages:
        """The test set alone; its images need not be there."""
        require(folder, [folder / TEST], ORIGIN)
        return self._read(folder, {"test": TEST}, images=False)

    def _read(self, folder: Path, lists: dict[str, str], *, images: bool = True) -> LabelledImages:
        names, targets, splits = [], [], []
        for split, file in lists.items():
            rows = read_list(folder / file, self.classes, multilabel=self.multilabel)
            for name, target in rows.values():
                names.append(name)
                targets.append(target)
                splits.append(split)
        if len(set(names)) < len(names):
            doubled = next(name for name in names if names.count(name) > 1)
            raise DataError(f"{folder}: {doubled} stands twice in {' and '.join(lists.values())}")
        return LabelledImages(
            images=self.locate(folder, names) if images else tuple(names),
            names=tuple(names),
            targets=np.array(targets, dtype=np.uint8 if self.multilabel else np.int64),
            classes=self.classes,
            groups=None if self.study is None else np.array([self.study(n) for n in names]),
            splits=np.array(splits) if len(lists) > 1 else None,
        )

    def locate(self, folder: Path, names: list[str]) -> tuple[Path, ...]:
        """Where the images of these names are.

        Raises:
            InputError: if one is missing, or its name leads out of the folder of images.
        """
        root = folder / "images"
        for name in names:
            if name != Path(name).name or name.startswith("."):
                raise DataError(f"{folder}: {name!r} is no plain file name; mend the list")
        require(root, [root / name for name in names], ORIGIN)
        return tuple(root / name for name in names)

    def listed(self, folder: Path, file: str) -> list[str]:
        """The names in a list of the folder's, with labels or without, in its order."""
        if file != Path(file).name:
            raise DataError(f"{file}: give the name of a list in {folder}")
        require(folder, [folder / file], ORIGIN)
        if file == "test_WithoutLabel.txt":
            return read_lines(folder / file)
        rows = read_list(folder / file, self.classes, multilabel=self.multilabel)
        return [name for name, _ in rows.values()]

    def official_list(self, folder: Path, shots: int | float | None, episode: str) -> Path:
        """The list of a support set: ``exp1`` to ``exp5`` for K shots, ``official`` for 20 %."""
        if shots == 0.2 and episode == "official":
            file = folder / "train_20.txt"
        elif isinstance(shots, int):
            file = folder / f"{self.task}_{shots}-shot_train_{episode}.txt"
        else:
            raise DataError(
                f"{self.name} has official support sets of 1, 5 and 10 shots (--episode exp1 to "
                "exp5), and of 20% (--episode official)"
            )
        require(folder, [file], ORIGIN)
        return file


SOURCES = (
    MedFMC(
        "medfmc-chest", "ChestDR: 19 findings in radiographs, multi-label", "chest", CHEST, True
    ),
    MedFMC(
        "medfmc-colon", "ColonPath: tumour or none in tissue tiles", "colon",
        ("negative", "positive"), False, study=lambda name: name[:-9],
    ),
    MedFMC(
        "medfmc-endo", "Endo: four lesions in endoscopies, multi-label", "endo",
        ("ulcer", "erosion", "polyp", "tumor"), True, study=lambda name: name[:18],
    ),
)  # fmt: skip
