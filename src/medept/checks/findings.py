"""What can be found in a data set, in words: each function looks for one kind of thing.

A finding *flatters* where the same, or nearly the same, image or patient can stand on both sides
of a split; whatever else looks wrong is reported, and left to judgement.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from medept.checks.duplicates import Fingerprint
from medept.checks.label_errors import Suspects
from medept.data.images import read_images
from medept.data.table import LabelledImages
from medept.errors import InputError

PREDICTED = 0.3
"""How far from guessing (0) to perfect (1) the size of images has to predict their classes."""
MARKED = 128
"""From this grey on a mask's pixel belongs to the object."""


@dataclass(frozen=True)
class Finding:
    """One thing found.

    Attributes:
        kind: a short name for machines.
        title: what it is, with its count.
        advice: what to do about it.
        sets: the rows concerned; images that belong together form a set.
        flatters: whether a result on these data would look better than it is.
        notes: one a set, or none.
    """

    kind: str
    title: str
    advice: str
    sets: tuple[tuple[int, ...], ...]
    flatters: bool = False
    notes: tuple[str, ...] = ()


def unreadable(errors: dict[int, str]) -> list[Finding]:
    """Images that cannot be read: row -> why."""
    return _noted(
        "unreadable",
        f"{_count(len(errors), 'image')} cannot be read",
        "Replace or remove them: a fit stops at the first of them.",
        errors,
    )


def _noted(kind: str, title: str, advice: str, notes: dict[int, str]) -> list[Finding]:
    """One finding of rows, each with what is wrong with it; none where there is no row."""
    rows = tuple((row,) for row in notes)
    return [Finding(kind, title, advice, rows, notes=tuple(notes.values()))] if notes else []


def constant(prints: Sequence[Fingerprint | None]) -> list[Finding]:
    """Images all of whose pixels are the same."""
    rows = [row for row, print_ in enumerate(prints) if print_ is not None and print_.constant]
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


def unusable_masks(data: LabelledImages, seen: Sequence[tuple[int, int] | None]) -> list[Finding]:
    """Masks that cannot be read, have another size than their image, or mark nothing.

    Args:
        seen: (width, height) of the images that can be read.
    """

    def look(mask: Image.Image) -> tuple[tuple[int, int], bool]:
        return mask.size, mask.convert("L").getextrema()[1] >= MARKED  # type: ignore[operator]

    wrong: dict[int, str] = {}
    for row, mask in enumerate(read_images(data.masks or (), look)):
        size = seen[row]
        if isinstance(mask, InputError):
            wrong[row] = str(mask)
        elif size is not None and mask[0] != size:
            wrong[row] = f"{mask[0][0]} x {mask[0][1]} pixels, its image {size[0]} x {size[1]}"
        elif not mask[1]:
            wrong[row] = "marks nothing"
    return _noted(
        "masks",
        f"{_count(len(wrong), 'mask')} that cannot be used",
        "Mend or remove them with their images.",
        wrong,
    )


def shared_groups(data: LabelledImages) -> list[Finding]:
    """Groups that have images on more than one side of the ``split`` column."""
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
            "Images of one patient resemble each other: move all of a group to one side.",
            tuple(sets),
            flatters=True,
            notes=tuple(f"group {data.groups[rows[0]]}" for rows in sets),
        )
    ]


_PLACES = {
    "splits": "across sides of the split",
    "groups": "across groups",
    "ungrouped": "and no groups that keep copies together",
    "within": "within one side of the split, or one group",
}


def _place(data: LabelledImages, rows: list[int]) -> str:
    """Where copies stand: any place but ``within`` lets one be learnt from and one tested on."""
    if data.splits is not None:
        return "splits" if len(set(data.splits[rows].tolist())) > 1 else "within"
    if data.groups is not None:
        return "groups" if len(set(data.groups[rows].tolist())) > 1 else "within"
    return "ungrouped"


def copies(data: LabelledImages, sets: list[list[int]], kind: str) -> list[Finding]:
    """Findings about sets of copies: one for each place, one for copies whose labels differ."""
    what = "exact duplicates" if kind == "exact" else "near duplicates"
    found = []
    for place, words in _PLACES.items():
        there = tuple(tuple(rows) for rows in sets if _place(data, rows) == place)
        if not there or (place == "within" and kind == "near"):
            continue
        extra = sum(len(rows) - 1 for rows in there)
        title = f"{extra} {what if extra > 1 else what[:-1]} in {_count(len(there), 'set')}, "
        flatters = place != "within"
        found.append(
            Finding(
                f"{kind}-{place}",
                title + words,
                _advice_on_copies(kind, flatters),
                there,
                flatters,
            )
        )
    contradicting = tuple(
        tuple(rows) for rows in sets if len(np.unique(data.targets[rows], axis=0)) > 1
    )
    if contradicting:
        found.append(
            Finding(
                f"{kind}-labels",
                f"{_count(len(contradicting), 'set')} of {what} with different labels",
                "One of the labels is wrong, or the picture cannot tell them apart: look.",
                contradicting,
            )
        )
    return found


def _advice_on_copies(kind: str, flatters: bool) -> str:
    if kind == "exact":
        keep = "Keep one of each."
        return keep if flatters else f"{keep} They count more than once."
    return "Look: keep one of each, or give them one group (a group column)."


def predicted_by_size(
    data: LabelledImages, seen: Sequence[tuple[int, int] | None]
) -> list[Finding]:
    """Whether the size of an image gives its class away, by leave-one-out votes of equal sizes."""
    rows = [row for row, size in enumerate(seen) if size is not None]
    targets = data.targets[rows]
    present = np.unique(targets)
    if data.task == "multilabel" or len(rows) < 20 or len(present) < 2:
        return []
    sizes = [size for size in seen if size is not None]
    votes: dict[tuple[int, int], Counter[int]] = {}
    for size, target in zip(sizes, targets.tolist(), strict=True):
        votes.setdefault(size, Counter())[target] += 1
    hits = np.zeros(len(rows))
    for i, (size, target) in enumerate(zip(sizes, targets.tolist(), strict=True)):
        others = votes[size].copy()
        others[target] -= 1
        most = max(others.values())
        tied = [c for c, n in others.items() if n == most and n > 0]
        hits[i] = (target in tied) / len(tied) if tied else 1 / len(present)
    chance = 1 / len(present)
    accuracy = float(np.mean([hits[targets == c].mean() for c in present]))
    if (accuracy - chance) / (1 - chance) < PREDICTED:
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


def wrong_labels(
    data: LabelledImages,
    rows: np.ndarray,
    doubts: list[tuple[str, tuple[str, ...], Suspects]],
) -> list[Finding]:
    """Labels in doubt, the least probable first.

    Args:
        rows: of ``data``, that the suspects' rows count in.
        doubts: name of a question, its possible answers, and what is suspect.
    """
    doubted = [
        (float(given), int(rows[i]), values[suggested])
        for _, values, found in doubts
        for i, suggested, given in zip(found.rows, found.suggested, found.given, strict=True)
    ]
    if not doubted:
        return []
    doubted.sort()
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
