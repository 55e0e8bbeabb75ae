"""Few-shot episodes: which images are trained on, and which are kept for testing.

A shot is a *group* (a patient, study or lesion) if groups are known: all images of a drawn group
that have the label join the support set, as in the protocol of MedFMC. Where data have cases, a
shot is a case, and as many groups are drawn from as there are. In multi-label data each
label gets K groups that were not drawn before, as long as there are any. A group is never on both
sides. The draw depends only on the seed and on names, not on the order of rows or the platform.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from medept.data.cases import Case
from medept.data.labelled_images import LabelledImages
from medept.errors import DataError, SettingsError


@dataclass(frozen=True)
class Episode:
    """A support set and its test set.

    Attributes:
        support: row indices; a row may occur twice if a list names it twice.
        test: row indices.
    """

    support: np.ndarray
    test: np.ndarray


def parse_shots(text: str | int) -> int | float | None:
    """A number of shots from ``5``, a share (0.2) from ``20%``, or None from ``all`` or ``100%``.

    Raises:
        SettingsError: if it is none of these.

    >>> parse_shots("5"), parse_shots("20%"), parse_shots("all")
    (5, 0.2, None)
    """
    if text in ("all", "100%"):
        return None
    number = str(text).removesuffix("%")
    if number.isdecimal() and int(number) > 0:
        if number == str(text):
            return int(number)
        if int(number) < 100:
            return int(number) / 100
    raise SettingsError(f"shots={text}: give a whole number from 1, a share such as 20%, or `all`")


def draw_episode(data: LabelledImages, shots: int | float | None, seed: int = 0) -> Episode:
    """Draw a support set of ``shots`` shots per class, and the test set that goes with it.

    The test set is all images of groups that are not in the support set. If the data have a split,
    shots are drawn from its train rows, and its test rows are the test set.

    Args:
        shots: at least 1; or a share between 0 and 1 of each class's groups (in multi-label data:
            of all groups), with all their cases; None for all images (or all train rows).
        seed: of the draw.

    Raises:
        SettingsError: if ``shots`` is out of range.
        DataError: if a group is in both train and test, or a class has no image to train on.

    Warns:
        UserWarning: if classes have fewer shots than asked for, or no image to test on.

    >>> names = tuple(f"{i}.png" for i in range(8))
    >>> targets, patients = np.array([0, 1] * 4), np.array(list("acacbdbd"))
    >>> data = LabelledImages(names, names, targets, ("benign", "malignant"), patients)
    >>> episode = draw_episode(data, shots=1, seed=0)
    >>> len(episode.support), len(episode.test)
    (4, 4)
    >>> set(patients[episode.support]) & set(patients[episode.test])
    set()
    """
    if shots is not None and not (0 < shots < 1 or shots == int(shots) >= 1):
        raise SettingsError(
            f"shots={shots}: give at least 1, a share between 0 and 1, or None for all"
        )
    groups = group_of_each(data)
    if data.splits is None:
        pool, test = np.arange(len(data)), np.arange(0)
    else:
        pool = np.flatnonzero(data.splits == "train")
        test = np.flatnonzero(data.splits == "test")
        refuse_shared_groups(groups, pool, test)
    if shots is None:
        return Episode(pool, test)
    if shots < 1 and data.task == "multilabel":
        support = _draw_share(groups, pool, shots, seed)
    else:
        support = _draw_shots(data, groups, pool, shots, seed)
    if data.splits is None:
        test = rest_of_data(data, groups, support)
    return Episode(support, test)


def group_of_each(data: LabelledImages) -> np.ndarray:
    """(n,) group ids; without groups, the names of the images, and of cases of their first."""
    if data.groups is not None:
        return data.groups
    items = zip(data.images, data.names, strict=True)
    return np.array([min(x.names) if isinstance(x, Case) else name for x, name in items])


def refuse_shared_groups(groups: np.ndarray, train: np.ndarray, test: np.ndarray) -> None:
    """Check that both sides have rows, and no group in common.

    Raises:
        DataError: if not.
    """
    if not len(train) or not len(test):
        raise DataError("the split column has no train rows, or no test rows; it needs both")
    shared = set(groups[train].tolist()) & set(groups[test].tolist())
    if shared:
        raise DataError(
            f"{len(shared)} groups are in both train and test, such as {sorted(shared)[0]!r}: "
            "move all images of a group to one side"
        )


def rest_of_data(data: LabelledImages, groups: np.ndarray, support: np.ndarray) -> np.ndarray:
    """All rows that share no group with the support set.

    Warns:
        UserWarning: if a class has none.
    """
    test = np.flatnonzero(~np.isin(groups, groups[support]))
    has_label = _has_label(data)[test].any(axis=0)
    untested = [data.classes[c] for c in np.flatnonzero(~has_label).tolist()]
    if untested:
        warnings.warn(
            f"{_classes_have(untested)} no image left to test on, as all are in the support set: "
            f"{_first_names(untested)}",
            stacklevel=3,
        )
    return test


def _draw_share(groups: np.ndarray, pool: np.ndarray, share: float, seed: int) -> np.ndarray:
    ranked = sorted(set(groups[pool].tolist()), key=lambda group: _rank(seed, group))
    taken = ranked[: max(1, round(share * len(ranked)))]
    return pool[np.isin(groups[pool], taken)]


def _draw_shots(
    data: LabelledImages, groups: np.ndarray, pool: np.ndarray, shots: int | float, seed: int
) -> np.ndarray:
    has_label = _has_label(data)
    members = [set(groups[pool[has_label[pool, c]]].tolist()) for c in range(len(data.classes))]
    support = np.zeros(len(data), dtype=bool)
    drawn: set[str] = set()
    fewer = []
    for c, name in enumerate(data.classes):
        if not members[c]:
            raise DataError(
                f"class {name!r} has no image to learn from; add some, or leave the class out"
            )
        to_keep = [] if data.splits is not None else [m for m in members if len(m) > 1]
        ranked = sorted(members[c], key=lambda group: _rank(seed, name, group))
        count = max(1, round(shots * len(ranked))) if shots < 1 else int(shots)
        taken = _take(ranked, count, drawn, to_keep)
        drawn.update(taken)
        rows = pool[has_label[pool, c] & np.isin(groups[pool], taken)]
        if data.has_cases and shots >= 1:
            rows = _cases_of_groups(data, groups, rows, taken)[:count]
        support[rows] = True
        found = len(rows) if data.has_cases else len(taken)
        if found < count:
            of = has_label[pool, c].sum() if data.has_cases else len(members[c])
            fewer.append(f"{name} ({found} of {of})")
    if fewer:
        asked = shots if shots >= 1 else f"{shots:.0%}"
        warnings.warn(
            f"{_classes_have(fewer)} fewer shots than the {asked} asked for (drawn of "
            f"available): {_first_names(fewer)}",
            stacklevel=3,
        )
    return np.flatnonzero(support)


def _cases_of_groups(
    data: LabelledImages, groups: np.ndarray, rows: np.ndarray, taken: list[str]
) -> np.ndarray:
    """The rows of these groups: one case of each in the order of ``taken``, then the others."""
    of_group = [
        sorted(rows[groups[rows] == group].tolist(), key=lambda row: data.names[row])
        for group in taken
    ]
    turns = zip_longest(*of_group)
    return np.array([row for turn in turns for row in turn if row is not None], dtype=np.int64)


def _take(ranked: list[str], shots: int, drawn: set[str], to_keep: list[set[str]]) -> list[str]:
    """The groups of one class to draw, in the order of their rank; at least one.

    Groups that were not drawn before are taken first, unless a group is the last one of some class
    in ``to_keep`` that is left to test on. Next are groups that were drawn for other classes, which
    are lost for testing anyway.
    """
    taken: list[str] = []
    for group in ranked:
        if len(taken) == shots:
            break
        gone = drawn.union(taken, [group])
        is_last = any(group in members and members <= gone for members in to_keep)
        if group not in drawn and not is_last:
            taken.append(group)
    again = [group for group in ranked if group in drawn]
    return (taken + again)[:shots] or ranked[:1]


def _has_label(data: LabelledImages) -> np.ndarray:
    """(n, C) bool: whether an image has a class or label."""
    if data.task == "multilabel":
        return data.targets == 1
    return data.targets[:, None] == np.arange(len(data.classes))


def _rank(seed: int, *names: str) -> bytes:
    """A key that sorts names in a random order, which is the same on every platform."""
    return hashlib.sha256("\0".join([str(seed), *names]).encode()).digest()


def _classes_have(names: Sequence[str]) -> str:
    return "1 class has" if len(names) == 1 else f"{len(names)} classes have"


def _first_names(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + ", ..." * (len(names) > 5)
