"""What a careful data scientist looks at first: is there anything that would flatter a result?

Images are decoded once, in parallel, and all that is asked of them is taken in that one pass.
A finding *flatters* where the same, or nearly the same, image or patient can stand on both sides
of a split; whatever else looks wrong is told, and left to judgement.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from medept.data.duplicates import Fingerprint, exact_sets, fingerprint, near_sets
from medept.data.images import FORMATS, ImageLike, read_images
from medept.data.suspects import Suspects, find_suspects
from medept.data.table import LabelledImages
from medept.errors import InputError

_BATCH = 32

Progress = Callable[[str, int, int], None]


class Encode(Protocol):
    """Frozen features, in two steps: the first runs in many threads, the second on batches."""

    def prepare(self, image: Image.Image) -> Any:
        """An RGB image as the encoder takes it."""

    def features(self, prepared: list[Any]) -> np.ndarray:
        """(b, D) of b prepared images."""


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


@dataclass(frozen=True)
class Check:
    """All that was found, that which flatters first.

    Attributes:
        data: what was checked.
        findings: in order of weight.
        sizes: (width, height) of the images that can be read, and how many have it.
        modes: the files' modes likewise (``RGB``, ``L``, ``I;16``, ...).
        probe_accuracy: cross-validated balanced accuracy of the probe, by class set: ``all`` or,
            for multi-label data, each label; empty where none was fitted.
    """

    data: LabelledImages
    findings: tuple[Finding, ...]
    sizes: Counter[tuple[int, int]]
    modes: Counter[str]
    probe_accuracy: dict[str, float] = field(default_factory=dict)

    @property
    def flatters(self) -> bool:
        """Whether any finding does."""
        return any(finding.flatters for finding in self.findings)


@dataclass(frozen=True)
class _Seen:
    print: Fingerprint
    size: tuple[int, int]
    prepared: Any


def check(
    data: LabelledImages, encode: Encode | None = None, progress: Progress | None = None
) -> Check:
    """Look through a data set.

    Args:
        data: labelled images; those that cannot be read become a finding.
        encode: an encoder, to look for labels that look wrong; None leaves that out.
        progress: called with what is done, how many, of how many.
    """
    report = progress or (lambda what, done, total: None)
    seen, errors, features = _look(data.images, encode, report, near=True)
    prints = [None if one is None else one.print for one in seen]
    findings = [
        *_unreadable(errors),
        *_shared_groups(data),
        *_copies(data, exact_sets(prints), "exact"),
        *_copies(data, near_sets(prints), "near"),
        *_constant(prints),
        *_told_by_size(data, seen),
    ]
    accuracy: dict[str, float] = {}
    if features is not None:
        rows = np.array([i for i, one in enumerate(seen) if one is not None], dtype=np.int64)
        doubts = _doubts(data.subset(rows), features, report)
        accuracy = {name: suspects.balanced_accuracy for name, _, suspects in doubts}
        findings += _wrong_labels(data, rows, doubts)
    findings.sort(key=lambda finding: not finding.flatters)
    sizes = Counter(one.size for one in seen if one is not None)
    modes = Counter(
        _mode(image) for image, one in zip(data.images, seen, strict=True) if one is not None
    )
    return Check(data, tuple(findings), sizes, modes, accuracy)


def quick_check(support: LabelledImages, test: LabelledImages) -> list[Finding]:
    """What can be said of a support and a test set without an encoder, and soon.

    Unreadable and constant images, groups on both sides, and exact duplicates.
    """
    both = LabelledImages(
        images=support.images + test.images,
        names=support.names + test.names,
        targets=np.concatenate([support.targets, test.targets]),
        classes=support.classes,
        groups=None
        if support.groups is None or test.groups is None
        else np.concatenate([support.groups, test.groups]),
        splits=np.array(["train"] * len(support) + ["test"] * len(test)),
    )
    seen, errors, _ = _look(both.images, None, lambda *_: None, near=False)
    prints = [None if one is None else one.print for one in seen]
    copies = list(_copies(both, exact_sets(prints), "exact"))
    return [*_shared_groups(both), *copies, *_unreadable(errors), *_constant(prints)]


def _look(
    images: Sequence[ImageLike], encode: Encode | None, report: Progress, *, near: bool
) -> tuple[list[_Seen | None], dict[int, str], np.ndarray | None]:
    """One pass: what was seen of each image, why it could not be read, features of the others."""

    def look(image: Image.Image) -> _Seen:
        prepared = encode.prepare(image) if encode else None
        return _Seen(fingerprint(image, near=near), image.size, prepared)

    seen: list[_Seen | None] = []
    errors: dict[int, str] = {}
    batch: list[Any] = []
    features: list[np.ndarray] = []
    for row, one in enumerate(read_images(images, look)):
        if isinstance(one, InputError):
            errors[row] = str(one)
            seen.append(None)
        else:
            seen.append(replace(one, prepared=None))
            batch.append(one.prepared)
        if encode and batch and (len(batch) == _BATCH or row == len(images) - 1):
            features.append(encode.features(batch))
            batch = []
        report("images", row + 1, len(images))
    return seen, errors, np.concatenate(features) if features else None


def _mode(image: ImageLike) -> str:
    if isinstance(image, np.ndarray):
        return f"array {image.dtype}"
    if isinstance(image, Image.Image):
        return image.mode
    try:
        with Image.open(image, formats=FORMATS) as opened:
            return opened.mode
    except Exception:  # read by another library than Pillow
        return Path(image).suffix.lstrip(".").upper() or "unknown"


# --- findings --------------------------------------------------------------------------------


def _unreadable(errors: dict[int, str]) -> list[Finding]:
    if not errors:
        return []
    return [
        Finding(
            "unreadable",
            f"{_count(len(errors), 'image')} cannot be read",
            "Replace or remove them: a fit stops at the first of them.",
            tuple((row,) for row in errors),
            notes=tuple(errors.values()),
        )
    ]


def _constant(prints: Sequence[Fingerprint | None]) -> list[Finding]:
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


def _shared_groups(data: LabelledImages) -> list[Finding]:
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


def _copies(data: LabelledImages, sets: list[list[int]], kind: str) -> list[Finding]:
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


def _told_by_size(data: LabelledImages, seen: Sequence[_Seen | None]) -> list[Finding]:
    """Whether the size of an image gives its class away, by leave-one-out votes of equal sizes."""
    rows = [row for row, one in enumerate(seen) if one is not None]
    if data.task == "multilabel" or not rows:
        return []
    sizes = [one.size for one in seen if one is not None]
    targets = data.targets[rows]
    votes: dict[tuple[int, int], Counter[int]] = {}
    for size, target in zip(sizes, targets.tolist(), strict=True):
        votes.setdefault(size, Counter())[target] += 1
    hits = np.zeros(len(rows))
    for i, (size, target) in enumerate(zip(sizes, targets.tolist(), strict=True)):
        others = votes[size].copy()
        others[target] -= 1
        most = max(others.values())
        tied = [c for c, n in others.items() if n == most and n > 0]
        hits[i] = (target in tied) / len(tied) if tied else 1 / len(data.classes)
    present = np.unique(targets)
    chance = 1 / max(len(present), 2)
    accuracy = float(np.mean([hits[targets == c].mean() for c in present]))
    if (accuracy - chance) / (1 - chance) < 0.3 or len(rows) < 20:
        return []
    return [
        Finding(
            "sizes",
            f"The size of an image tells its class: balanced accuracy {accuracy:.2f}",
            "Classes may come from different sources, which a model would learn instead: "
            "compare their origins, and take all classes from each.",
            (),
        )
    ]


# --- labels ----------------------------------------------------------------------------------


def _doubts(
    data: LabelledImages, features: np.ndarray, report: Progress
) -> list[tuple[str, tuple[str, ...], Suspects]]:
    """Of the one choice of class, or of each label by itself: name, its values, suspects."""
    questions: list[tuple[str, tuple[str, ...], np.ndarray]] = [("all", data.classes, data.targets)]
    if data.task == "multilabel":
        questions = [
            (name, (f"no {name}", name), data.targets[:, c]) for c, name in enumerate(data.classes)
        ]
    doubts = []
    for name, values, targets in questions:
        what = "labels" if name == "all" else f"label {name}"
        found = find_suspects(features, targets, data.groups, partial(report, what))
        if found is not None:
            doubts.append((name, values, found))
    return doubts


def _wrong_labels(
    data: LabelledImages,
    rows: np.ndarray,
    doubts: list[tuple[str, tuple[str, ...], Suspects]],
) -> list[Finding]:
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
