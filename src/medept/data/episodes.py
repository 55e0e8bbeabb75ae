"""Few-shot episodes: which images are learnt from, and which are kept for testing.

A shot is a *group* (patient, study, lesion) where groups are known: every image of a drawn group
that has the label joins the support set, as in MedFMC's protocol. No group ever stands on both
sides. The draw is a function of the seed and of names alone: it depends neither on the order of
rows nor on the platform.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass

import numpy as np

from medept.data.table import LabelledImages
from medept.errors import InputError


@dataclass(frozen=True)
class Episode:
    """Row indices, sorted, of the support set and of the test set."""

    support: np.ndarray
    test: np.ndarray


def draw_episode(data: LabelledImages, shots: int | None, seed: int = 0) -> Episode:
    """Draw a support set of ``shots`` shots per class; the rest that shares no group is the test.

    With a ``split`` column shots are drawn from its train rows, and the test set is its test rows.

    Args:
        shots: None takes everything (or all train rows).
        seed: of the draw.

    Raises:
        InputError: if a group is in both train and test, or a class has no image to learn from.

    Warns:
        UserWarning: for each class that has fewer shots than asked for.
    """
    groups = np.array(data.names) if data.groups is None else data.groups
    if data.splits is None:
        pool, test = np.arange(len(data)), np.arange(0)
    else:
        pool = np.flatnonzero(data.splits == "train")
        test = np.flatnonzero(data.splits == "test")
        _refuse_shared_groups(data, groups, pool, test)
    if shots is None:
        return Episode(pool, test)
    support = _draw(data, groups, pool, shots, seed)
    if data.splits is None:
        test = np.flatnonzero(~np.isin(groups, groups[support]))
    return Episode(support, test)


def _draw(
    data: LabelledImages, groups: np.ndarray, pool: np.ndarray, shots: int, seed: int
) -> np.ndarray:
    support: set[int] = set()
    drawn: set[str] = set()
    for c, name in enumerate(data.classes):
        has_label = data.targets[:, c] == 1 if data.task == "multilabel" else data.targets == c
        rows = pool[has_label[pool]]
        candidates = sorted(set(groups[rows].tolist()), key=lambda g: _rank(seed, name, g))
        free = [group for group in candidates if group not in drawn]
        take = free[: _available(data, name, shots, free, candidates)]
        drawn.update(take)
        support.update(rows[np.isin(groups[rows], take)].tolist())
    return np.array(sorted(support), dtype=np.int64)


def _available(
    data: LabelledImages, name: str, shots: int, free: list[str], candidates: list[str]
) -> int:
    """How many of the free groups of a class to draw: one is left to test on, if there are two."""
    if not candidates:
        raise InputError(
            f"class {name!r} has no image to learn from; add some, or leave the class out"
        )
    keep_for_test = 1 if data.splits is None and len(candidates) > 1 else 0
    count = max(0, min(shots, len(free), len(candidates) - keep_for_test))
    if count < shots:
        untested = (
            "" if keep_for_test or data.splits is not None else ", and none is left to test on"
        )
        warnings.warn(
            f"class {name!r} has {len(candidates)} shots in all: {count} of the {shots} asked for "
            f"were drawn{untested}",
            stacklevel=4,
        )
    return count


def _rank(seed: int, *names: str) -> bytes:
    """A fixed random order of names for each seed."""
    return hashlib.sha256("\0".join([str(seed), *names]).encode()).digest()


def _refuse_shared_groups(
    data: LabelledImages, groups: np.ndarray, train: np.ndarray, test: np.ndarray
) -> None:
    if not len(train) or not len(test):
        raise InputError("the split column has no rows of train, or none of test; it needs both")
    shared = set(groups[train].tolist()) & set(groups[test].tolist())
    if shared:
        raise InputError(
            f"{len(shared)} groups are in both train and test, such as {sorted(shared)[0]!r}: "
            "move all images of a group to one side"
        )
