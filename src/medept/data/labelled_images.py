"""The form in which every data set is passed around: images, and what is known of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from medept.data.cases import Case, Item, images_of, sizes_of
from medept.data.images import ImageLike
from medept.data.spelling import clean_ids
from medept.errors import DataError

Task = Literal["multiclass", "multilabel"]
"""Whether an image has exactly one class, or any number of labels."""

SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val",
               "validation": "val", "test": "test", "testing": "test"}  # fmt: skip
"""Usual names of the parts of a split, and what :class:`LabelledImages` calls them."""


@dataclass(frozen=True)
class LabelledImages:
    """n images with their labels, and with groups, splits and masks where these are known.

    Each image may also be a case of several: then all that is said of an image here holds for it.

    Attributes:
        images: anything that :func:`medept.data.images.read_image` accepts, or cases of these.
        names: what each image is called in outputs.
        targets: (n,) class indices (int64), or (n, C) of 0 and 1 (uint8) for multi-label data.
        classes: names of the C classes or labels.
        groups: (n,) ids of patients, studies or lesions; None where each image is on its own.
        splits: (n,) ``train``, ``val`` or ``test``; None where no split is given.
        masks: one for each image, of its size and white where the object is; None without masks.
        left_out: files of the folder that are none of the images, in words: how many of what.
        subgroups: column, such as ``sex`` -> (n,) its cells as text; those that were asked for.

    Raises:
        DataError: if the lengths differ, or targets do not match the classes.

    >>> data = LabelledImages(
    ...     images=("1.png", "2.png", "3.png"),
    ...     names=("1.png", "2.png", "3.png"),
    ...     targets=np.array([0, 1, 1]),
    ...     classes=("benign", "malignant"),
    ...     groups=np.array(["patient 1", "patient 2", "patient 2"]),
    ... )
    >>> len(data), data.task
    (3, 'multiclass')
    >>> data.subset([0, 2]).labels.tolist()
    ['benign', 'malignant']
    """

    images: tuple[Item, ...]
    names: tuple[str, ...]
    targets: np.ndarray
    classes: tuple[str, ...]
    groups: np.ndarray | None = None
    splits: np.ndarray | None = None
    masks: tuple[ImageLike, ...] | None = None
    left_out: str = ""
    subgroups: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.groups is not None:
            object.__setattr__(self, "groups", clean_ids(self.groups))
        n, count = len(self.images), len(self.classes)
        for name in ("names", "targets", "groups", "splits", "masks"):
            part = getattr(self, name)
            if part is not None and len(part) != n:
                raise DataError(f"{n} images, but {len(part)} {name}")
        shape, limit = self.targets.shape, count if self.targets.ndim == 1 else 2
        if shape not in ((n,), (n, count)) or not np.isin(self.targets, range(limit)).all():
            raise DataError(
                f"targets of shape {shape} for {n} images and {count} classes: give {n} class "
                f"indices below {count}, or {n} x {count} of 0 and 1"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def task(self) -> Task:
        """``multiclass`` if each image has one class, ``multilabel`` if any number of labels."""
        return "multiclass" if self.targets.ndim == 1 else "multilabel"

    @property
    def has_cases(self) -> bool:
        """Whether its rows are cases."""
        return any(isinstance(item, Case) for item in self.images)

    def by_image(self) -> LabelledImages:
        """One row an image: those of a case have its label, and without groups form one."""
        if not self.has_cases:
            return self
        rows = np.repeat(np.arange(len(self)), sizes_of(self.images))
        cases = zip(self.images, self.names, strict=True)
        names = [x.names if isinstance(x, Case) else (name,) for x, name in cases]
        return LabelledImages(
            images=tuple(images_of(self.images)),
            names=tuple(name for each in names for name in each),
            targets=self.targets[rows],
            classes=self.classes,
            groups=np.array(self.names if self.groups is None else self.groups)[rows],
            splits=None if self.splits is None else self.splits[rows],
            left_out=self.left_out,
            subgroups={name: cells[rows] for name, cells in self.subgroups.items()},
        )

    def pictures(self) -> dict[str, ImageLike]:
        """Every image by its name, those of cases too."""
        single = self.by_image()
        return dict(zip(single.names, images_of(single.images), strict=True))

    @property
    def labels(self) -> np.ndarray:
        """What a classifier is fitted to: (n,) class names, or (n, C) of 0 and 1."""
        return self.targets if self.task == "multilabel" else np.array(self.classes)[self.targets]

    def sample(self, limit: int, seed: int) -> LabelledImages:
        """At most ``limit`` rows, drawn at random, in the order in which they stand here."""
        if len(self) <= limit:
            return self
        return self.subset(np.sort(np.random.default_rng(seed).permutation(len(self))[:limit]))

    def subset(self, rows: Sequence[int] | np.ndarray) -> LabelledImages:
        """The images of the given row indices, in that order."""
        rows = np.asarray(rows, dtype=np.int64)
        return LabelledImages(
            images=tuple(self.images[i] for i in rows),
            names=tuple(self.names[i] for i in rows),
            targets=self.targets[rows],
            classes=self.classes,
            groups=None if self.groups is None else self.groups[rows],
            splits=None if self.splits is None else self.splits[rows],
            masks=None if self.masks is None else tuple(self.masks[i] for i in rows),
            subgroups={name: cells[rows] for name, cells in self.subgroups.items()},
        )


def label_text(target: Any, classes: Sequence[str]) -> str:
    """A target in words: the name of a class index, or the labels that are 1, joined by ``|``.

    >>> label_text(1, ("benign", "malignant"))
    'malignant'
    >>> label_text([1, 0, 1], ("effusion", "mass", "nodule"))
    'effusion|nodule'
    """
    if np.ndim(target) == 0:
        return classes[int(target)]
    return "|".join(name for name, value in zip(classes, target, strict=True) if value)


def label_texts(data: LabelledImages) -> list[str]:
    """Each image's label as a table holds it.

    If no image has two labels, each text ends in ``|``, so that the column is read back as labels
    and not as classes.
    """
    texts = [label_text(target, data.classes) for target in data.targets]
    if data.task == "multilabel" and not any("|" in text for text in texts):
        return [f"{text}|" for text in texts]
    return texts
