"""MedFMC (Wang et al., Scientific Data 2023): chest radiographs, colon tiles, endoscopies.

Each task (``chest``, ``colon``, ``endo``) has a folder, as the challenge lays it out: ``images/``,
and beside it ``trainval.txt``, ``test_WithLabel.txt`` and the official support sets,
``TASK_K-shot_train_expN.txt`` and ``train_20.txt``. The test set shares no study with the training
set. The official *validation* lists do share studies, and even images, with the support sets of
chest and endo (76 of the 91 images of chest's first 5-shot set), so they are not used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medept.data.image_lists import read_lines, read_list
from medept.data.labelled_images import LabelledImages
from medept.data.sources.base import Source, require
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

    Attributes:
        task: ``chest``, ``colon`` or ``endo``.
        study: the study that an image belongs to, from its file name; None if a shot is an image.
    """

    task: str
    classes: tuple[str, ...]
    multilabel: bool
    study: Callable[[str], str] | None = None

    def home(self, folder: Path) -> Path:
        """The folder of the task: the one that is given, or the one inside of it."""
        return folder / self.task if (folder / self.task).is_dir() else folder

    def read(self, folder: Path) -> LabelledImages:
        """Training and test set, as a split; only the training set if the test set is not there."""
        require(folder, [folder / TRAINING], ORIGIN)
        if not (folder / TEST).exists():
            return self._read(folder, {"train": TRAINING})
        return self._read(folder, {"train": TRAINING, "test": TEST})

    def labelled_test(self, folder: Path) -> LabelledImages:
        """The test set with its labels; its images need not be there."""
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
            repeated = next(name for name in names if names.count(name) > 1)
            raise DataError(
                f"{folder}: {repeated} is listed twice in {' and '.join(lists.values())}"
            )
        return LabelledImages(
            images=self.locate(folder, names) if images else tuple(names),
            names=tuple(names),
            targets=np.array(targets, dtype=np.uint8 if self.multilabel else np.int64),
            classes=self.classes,
            groups=None if self.study is None else np.array([self.study(n) for n in names]),
            splits=np.array(splits) if len(lists) > 1 else None,
        )

    def locate(self, folder: Path, names: list[str]) -> tuple[Path, ...]:
        """The files of the images of these names.

        Raises:
            DataError: if one is missing, or its name leads out of the folder of images.
        """
        root = folder / "images"
        for name in names:
            if name != Path(name).name or name.startswith("."):
                raise DataError(f"{folder}: {name!r} is not a plain file name; correct the list")
        require(root, [root / name for name in names], ORIGIN)
        return tuple(root / name for name in names)

    def listed(self, folder: Path, file: str) -> list[str]:
        """The image names of a list in the folder, which may have labels or not, in its order."""
        if file != Path(file).name:
            raise DataError(f"{file}: give the name of a list in {folder}")
        require(folder, [folder / file], ORIGIN)
        if file == "test_WithoutLabel.txt":
            return read_lines(folder / file)
        rows = read_list(folder / file, self.classes, multilabel=self.multilabel)
        return [name for name, _ in rows.values()]

    def official_list(self, folder: Path, shots: int | float | None, episode: str) -> Path:
        """The list of ``exp1`` to ``exp5`` for K shots, or ``official`` for 20 %."""
        if shots == 0.2 and episode == "official":
            file = folder / "train_20.txt"
        elif isinstance(shots, int):
            file = folder / f"{self.task}_{shots}-shot_train_{episode}.txt"
        else:
            raise DataError(
                f"{self.name} has official support sets of 1, 5 and 10 shots (episode=exp1 to "
                "exp5), and of 20% (episode=official)"
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
