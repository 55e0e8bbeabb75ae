"""The images that are to be labelled: each, or each case, with what is known of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from medept.data.cases import Case, Item, joined, rows_of_cases
from medept.data.columns import GROUP_COLUMNS
from medept.data.dicom.patients import dicom_groups
from medept.data.find_images import FoundImages, find_images
from medept.data.labelled_images import LabelledImages
from medept.data.spelling import clean
from medept.data.volumes import open_volumes
from medept.errors import DataError
from medept.labelling.store import Subject


@dataclass(frozen=True)
class Pool:
    """n images or cases.

    Attributes:
        source: the folder or table that they were found in.
        items: what is read: images, or cases of several.
        subjects: the name of each, its images and its group.
    """

    source: Path
    items: tuple[Item, ...]
    subjects: tuple[Subject, ...]

    def __len__(self) -> int:
        return len(self.items)

    @property
    def has_cases(self) -> bool:
        """Whether any of them is a case of several images."""
        return any(isinstance(item, Case) for item in self.items)

    @cached_property
    def rows(self) -> dict[str, int]:
        """The row of each name."""
        return {subject.name: row for row, subject in enumerate(self.subjects)}

    @cached_property
    def groups(self) -> np.ndarray | None:
        """(n,) ids of patients, or None if none is known; without one, its own name."""
        if not any(subject.group for subject in self.subjects):
            return None
        return np.array([subject.group or subject.name for subject in self.subjects])

    def labelled(self, labels: Mapping[str, str], classes: Sequence[str]) -> LabelledImages:
        """The data set of those that have a label, in the order of the pool.

        Args:
            labels: by name.
            classes: all classes, in order; those without a label are left out.

        Raises:
            DataError: if none has a label, or one is none of the classes.
        """
        rows = [row for row, subject in enumerate(self.subjects) if subject.name in labels]
        given = [labels[self.subjects[row].name] for row in rows]
        if not rows:
            raise DataError("no image has a label yet; label some")
        for row, label in zip(rows, given, strict=True):
            if label not in classes:
                raise DataError(
                    f"{self.subjects[row].name} has the label {label!r}, which is none of the "
                    f"classes {', '.join(classes)}; add it, or label the image again"
                )
        used = [name for name in classes if name in given]
        return LabelledImages(
            images=tuple(self.items[row] for row in rows),
            names=tuple(self.subjects[row].name for row in rows),
            targets=np.array([used.index(label) for label in given], dtype=np.int64),
            classes=tuple(used),
            groups=None if self.groups is None else self.groups[rows],
        )


def open_pool(
    source: Path,
    *,
    image_column: str | None = None,
    image_root: Path | None = None,
    case_column: str | None = None,
    case: str | None = None,
) -> Pool:
    """The images below a folder or named by a table, as :func:`find_images` finds them.

    Of a folder they are named by their path in it, of a table as they are there. Volumes are cases.

    Raises:
        InputError: if there is no image, or one is missing.
    """
    found = find_images([source], image_column, image_root, case_column, case)
    names, cases = found.names, found.cases
    if source.is_dir():
        names = [os.path.relpath(name, source) for name in names]
        cases = None if cases is None else np.array([os.path.relpath(x, source) for x in cases])
    items = open_volumes(found.images, names=names)
    groups = _groups(found)
    if cases is None:
        single = [Subject(name, (name,), group) for name, group in zip(names, groups, strict=True)]
        return Pool(source, items, tuple(single))
    rows = list(rows_of_cases(cases).values())
    whole = tuple(joined([items[i] for i in each], [names[i] for i in each]) for each in rows)
    ids = [str(cases[each[0]]) for each in rows]
    subjects = [
        Subject(case, tuple(names[i] for i in each), groups[each[0]], case)
        for case, each in zip(ids, rows, strict=True)
    ]
    return Pool(source, whole, tuple(subjects))


def _groups(found: FoundImages) -> list[str]:
    """The patient of each image: of a column with a usual name, or of DICOM files."""
    columns = {clean(str(name)).lower(): name for name in found.table.columns}
    for usual in GROUP_COLUMNS:
        if usual in columns:
            return [str(cell) for cell in found.table[columns[usual]]]
    groups = dicom_groups(found.images)
    return [""] * len(found) if groups is None else groups.tolist()
