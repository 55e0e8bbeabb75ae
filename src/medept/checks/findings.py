"""Findings about a data set, in words; each function looks for one kind of problem.

A finding *flatters* if the same, or nearly the same, image or patient can be on both sides of a
split, so that a result looks better than it is. Other findings are reported, and left to judgement.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from medept.checks.duplicates import Fingerprint
from medept.checks.label_errors import LabelErrors
from medept.data.dicom.patients import find_alike_patients
from medept.data.images import read_images
from medept.data.labelled_images import LabelledImages
from medept.data.spelling import find_alike
from medept.errors import InputError

Size = tuple[int, int]
"""Width and height of an image, in pixels."""

PREDICTIVE = 0.3
"""Least balanced accuracy, rescaled to 0 for guessing, at which sizes predict classes."""

MARKED = 128
"""A pixel of a mask marks the object if its grey value is at least this."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        kind: a short name, for programs.
        title: what was found, and how often.
        advice: what to do about it.
        sets: rows of the images concerned; images that belong together form a set.
        flatters: whether a result on these data would look better than it is.
        notes: one for each set, or none.
    """

    kind: str
    title: str
    advice: str
    sets: tuple[tuple[int, ...], ...]
    flatters: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class DoubtedLabels:
    """Labels of one question that look wrong.

    Attributes:
        name: ``all`` for the classes, or a label of multi-label data.
        answers: in words, by class index.
        errors: what looks wrong.
    """

    name: str
    answers: tuple[str, ...]
    errors: LabelErrors


def unreadable_images(errors: dict[int, str]) -> list[Finding]:
    """Images that cannot be read, with the reasons by row."""
    return _noted(
        "unreadable",
        f"{_count(len(errors), 'image')} cannot be read",
        "Replace or remove them: a fit stops at the first of them.",
        errors,
    )


def files_left_out(data: LabelledImages) -> list[Finding]:
    """Files in the folder that are none of the images: masks, other formats and so on."""
    if not data.left_out:
        return []
    return [
        Finding(
            "left-out",
            f"Files that are not used: {data.left_out}",
            "Nothing to do, unless some of them are images of yours: save those in a format that "
            "is read, or name them in a table.",
            (),
        )
    ]


def _noted(kind: str, title: str, advice: str, notes: dict[int, str]) -> list[Finding]:
    """One finding about the rows of ``notes``, or none if there are no rows."""
    rows = tuple((row,) for row in notes)
    return [Finding(kind, title, advice, rows, notes=tuple(notes.values()))] if notes else []


def constant_images(fingerprints: Sequence[Fingerprint | None]) -> list[Finding]:
    """Images whose pixels are all the same."""
    rows = [row for row, found in enumerate(fingerprints) if found is not None and found.constant]
    if not rows:
        return []
    return [
        Finding(
            "constant",
            f"{_count(len(rows), 'image')} of a single colour",
            "Nothing can be learnt from them or tested on them: remove them.",
            tuple((row,) for row in rows),
        )
    ]


def unusable_masks(data: LabelledImages, sizes: Sequence[Size | None]) -> list[Finding]:
    """Masks that cannot be read, differ in size from their image, or mark nothing.

    Args:
        sizes: of the images; None for those that cannot be read.
    """

    def examine(mask: Image.Image) -> tuple[Size, bool]:
        return mask.size, mask.convert("L").getextrema()[1] >= MARKED  # type: ignore[operator]

    wrong: dict[int, str] = {}
    for row, mask in enumerate(read_images(data.masks or (), examine)):
        size = sizes[row]
        if isinstance(mask, InputError):
            wrong[row] = str(mask)
        elif size is not None and mask[0] != size:
            wrong[row] = f"{mask[0][0]} x {mask[0][1]} pixels, its image {size[0]} x {size[1]}"
        elif not mask[1]:
            wrong[row] = "marks nothing"
    return _noted(
        "masks",
        f"{_count(len(wrong), 'mask')} that cannot be used",
        "Correct them, or remove them with their images.",
        wrong,
    )


def shared_groups(data: LabelledImages) -> list[Finding]:
    """Groups with images on more than one side of the split."""
    if data.groups is None or data.splits is None:
        return []
    sets = []
    for group in sorted(set(data.groups.tolist())):
        rows = np.flatnonzero(data.groups == group)
        if len(set(data.splits[rows].tolist())) > 1:
            sets.append(tuple(rows.tolist()))
    if not sets:
        return []
    return [
        Finding(
            "groups",
            f"{_count(len(sets), 'group')} on more than one side of the split",
            "Images of one patient resemble each other: move all images of a group to one side.",
            tuple(sets),
            flatters=True,
            notes=tuple(f"group {data.groups[rows[0]]}" for rows in sets),
        )
    ]


def alike_groups(data: LabelledImages) -> list[Finding]:
    """Groups that may be one patient, since their ids differ in little else than spelling.

    With a split, only those that would put one patient on more than one side. Without one, all:
    a support set may be drawn from one of them, and its test set from another.
    """
    if data.groups is None:
        return []
    files = [Path(image) for image in data.images if isinstance(image, str | PathLike)]
    known = set(data.groups.tolist())
    sets, notes = [], []
    for alike in [*find_alike(known), *find_alike_patients(files)]:
        rows = np.flatnonzero(np.isin(data.groups, alike))
        sides = set() if data.splits is None else set(data.splits[rows].tolist())
        if known.issuperset(alike) and len(sides) != 1:
            sets.append(tuple(rows.tolist()))
            notes.append(f"groups {' and '.join(alike)}")
    if not sets:
        return []
    where = "" if data.splits is None else ", on more than one side of the split"
    return [
        Finding(
            "groups-alike",
            f"{_count(len(sets), 'set')} of groups that may be one{where}",
            "Their ids differ only in case, leading zeros, spaces or dashes: write those alike "
            "that are one patient.",
            tuple(sets),
            flatters=True,
            notes=tuple(notes),
        )
    ]


_PLACES = {
    "splits": "across sides of the split",
    "groups": "across groups",
    "ungrouped": "and no groups that keep copies together",
    "within": "within one side of the split, or one group",
}


def _place(data: LabelledImages, rows: list[int]) -> str:
    """Where copies are. Only ``within`` keeps them on one side of a split."""
    if data.splits is not None:
        return "splits" if len(set(data.splits[rows].tolist())) > 1 else "within"
    if data.groups is not None:
        return "groups" if len(set(data.groups[rows].tolist())) > 1 else "within"
    return "ungrouped"


def duplicate_images(
    data: LabelledImages, sets: list[list[int]], kind: Literal["exact", "near"]
) -> list[Finding]:
    """Sets of duplicates: a finding for each place they are in, and one for differing labels.

    Near duplicates within one side of the split, or within one group, are not reported.
    """
    what = f"{kind} duplicates"
    found = []
    for place, words in _PLACES.items():
        there = tuple(tuple(rows) for rows in sets if _place(data, rows) == place)
        if not there or (place == "within" and kind == "near"):
            continue
        extra = sum(len(rows) - 1 for rows in there)
        title = f"{extra} {what if extra > 1 else what[:-1]} in {_count(len(there), 'set')}, "
        flatters = place != "within"
        advice = _advice_on_copies(kind, flatters)
        found.append(Finding(f"{kind}-{place}", title + words, advice, there, flatters))
    contradicting = tuple(
        tuple(rows) for rows in sets if len(np.unique(data.targets[rows], axis=0)) > 1
    )
    if contradicting:
        found.append(
            Finding(
                f"{kind}-labels",
                f"{_count(len(contradicting), 'set')} of {what} with different labels",
                "Either a label is wrong, or the image does not show which is right: look at them.",
                contradicting,
            )
        )
    return found


def _advice_on_copies(kind: str, flatters: bool) -> str:
    if kind == "exact":
        keep = "Keep one of each."
        return keep if flatters else f"{keep} Otherwise they count more than once."
    return "Look at them: keep one of each, or give them the same group (in a column of groups)."


def predictive_sizes(data: LabelledImages, sizes: Sequence[Size | None]) -> list[Finding]:
    """Whether the size of an image reveals its class; not asked of multi-label data.

    Args:
        sizes: of the images; None for those that cannot be read.
    """
    rows = [row for row, size in enumerate(sizes) if size is not None]
    targets = data.targets[rows]
    count = len(np.unique(targets))
    if data.task == "multilabel" or len(rows) < 20 or count < 2:
        return []
    accuracy = _accuracy_from_sizes([size for size in sizes if size is not None], targets)
    chance = 1 / count
    if (accuracy - chance) / (1 - chance) < PREDICTIVE:
        return []
    return [
        Finding(
            "sizes",
            f"The size of an image predicts its class: balanced accuracy {accuracy:.2f}",
            "Classes may come from different sources, which a model would learn instead: "
            "compare their origins, and take all classes from each.",
            (),
        )
    ]


def _accuracy_from_sizes(sizes: Sequence[Size], targets: np.ndarray) -> float:
    """Balanced accuracy of the most frequent class among the other images of the same size."""
    classes = np.unique(targets)
    votes: dict[Size, Counter[int]] = {}
    for size, target in zip(sizes, targets.tolist(), strict=True):
        votes.setdefault(size, Counter())[target] += 1
    hits = np.zeros(len(sizes))
    for i, (size, target) in enumerate(zip(sizes, targets.tolist(), strict=True)):
        others = votes[size].copy()
        others[target] -= 1
        most = max(others.values())
        tied = [c for c, n in others.items() if n == most and n > 0]
        hits[i] = (target in tied) / len(tied) if tied else 1 / len(classes)
    return float(np.mean([hits[targets == c].mean() for c in classes]))


def doubted_labels(
    data: LabelledImages, rows: np.ndarray, doubts: Sequence[DoubtedLabels]
) -> list[Finding]:
    """Labels that look wrong, the most improbable first.

    Args:
        rows: the rows of ``data`` that the rows of ``doubts`` count in.
    """
    doubted = sorted(
        (float(given), int(rows[i]), doubt.answers[suggested])
        for doubt in doubts
        for i, suggested, given in zip(
            doubt.errors.rows, doubt.errors.suggested, doubt.errors.given, strict=True
        )
    )
    if not doubted:
        return []
    return [
        Finding(
            "labels",
            f"{_count(len(doubted), 'label')} in doubt",
            "A probe on frozen features that never saw these images is confident of another "
            "label. Many of them will be right: look at the first ones.",
            tuple((row,) for _, row, _ in doubted),
            notes=tuple(
                f"rather {other} ({given:.1%} for its label)" for given, _, other in doubted
            ),
        )
    ]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
