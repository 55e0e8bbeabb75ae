"""Few-shot episodes: which images are learnt from, and which are kept for testing.

A shot is a *group* (patient, study, lesion) where groups are known: every image of a drawn group
that has the label joins the support set, as in MedFMC's protocol; in multi-label data each label
has K new ones, as long as there are any. No group ever stands on both sides. The draw is a function
of the seed and of names alone: it depends neither on the order of rows nor on the platform. An
episode can be written to lists that others read, and read from theirs.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medept.data.image_lists import read_list, write_list
from medept.data.table import LabelledImages
from medept.errors import DataError
from medept.files import whole_folder


@dataclass(frozen=True)
class Episode:
    """Row indices of the support set (a row may stand there twice, if a list says so) and test."""

    support: np.ndarray
    test: np.ndarray


def draw_episode(data: LabelledImages, shots: int | float | None, seed: int = 0) -> Episode:
    """Draw a support set of ``shots`` shots per class; the rest that shares no group is the test.

    With a ``split`` column shots are drawn from its train rows, and the test set is its test rows.

    Args:
        shots: at least 1; a fraction between 0 and 1 of each class's groups (of all groups in
            multi-label data); None takes everything (or all train rows).
        seed: of the draw.

    Raises:
        InputError: if a group is in both train and test, or a class has no image to learn from.

    Warns:
        UserWarning: of classes that have fewer shots than asked for, or none to test on.
    """
    if shots is not None and not (0 < shots < 1 or shots == int(shots) >= 1):
        raise DataError(f"{shots} shots: ask for 1 at least, for a share such as 20%, or for all")
    groups = _groups(data)
    if data.splits is None:
        pool, test = np.arange(len(data)), np.arange(0)
    else:
        pool = np.flatnonzero(data.splits == "train")
        test = np.flatnonzero(data.splits == "test")
        _refuse_shared_groups(groups, pool, test)
    if shots is None:
        return Episode(pool, test)
    if shots < 1 and data.task == "multilabel":
        support = _draw_share(groups, pool, shots, seed)
    else:
        support = _draw(data, groups, pool, shots, seed)
    if data.splits is None:
        test = _rest(data, groups, support)
    return Episode(support, test)


def write_episode(
    data: LabelledImages, episode: Episode, folder: Path, stem: str, name: str
) -> Path:
    """Write ``STEM_train_NAME.txt`` and, if there is any, ``STEM_test_NAME.txt``; the first."""
    train, test = folder / f"{stem}_train_{name}.txt", folder / f"{stem}_test_{name}.txt"
    if len(episode.test):
        write_list(test, [data.names[i] for i in episode.test], data.targets[episode.test])
    write_list(train, [data.names[i] for i in episode.support], data.targets[episode.support])
    return train


def write_episodes(
    data: LabelledImages, out: Path, shots: Mapping[str, int | float | None], count: int
) -> dict[str, tuple[int, int]]:
    """Draw ``count`` episodes of each number of shots, and write them as lists to a new folder.

    Returns:
        name of each support set's list -> images in the support set, and in the test set.
    """
    written = {}
    with whole_folder(out) as folder:
        for text, number in shots.items():
            for seed in range(count):
                episode = draw_episode(data, number, seed=seed)
                stem = "all" if number is None else f"{text}-shot".replace("%-shot", "-percent")
                file = write_episode(data, episode, folder, stem, f"exp{seed + 1}")
                written[file.name] = (len(episode.support), len(episode.test))
    return written


def read_episode(data: LabelledImages, file: Path) -> Episode:
    """The episode of a list of a support set.

    The test set is the list beside it whose name has ``_test_`` for ``_train_``; where there is
    none, the test rows of the ``split`` column, or else all that shares no group with the support.

    Raises:
        InputError: if it is the list of the test set, a line names no image of ``data`` or another
            label than it has, a test image is also learnt from, or shares its group with one that
            is.
    """
    learnt = file.with_name(file.name.replace("_test_", "_train_"))
    if learnt != file and learnt.is_file():
        raise DataError(f"{file}: a list of test images; give the support set, {learnt}")
    support, groups = _rows(data, file), _groups(data)
    beside = file.with_name(file.name.replace("_train_", "_test_"))
    if beside != file and beside.is_file():
        test = _rows(data, beside)
    elif data.splits is not None:
        test = np.flatnonzero(data.splits == "test")
    else:
        return Episode(support, _rest(data, groups, support))
    _refuse_shared_groups(groups, support, test)
    return Episode(support, test)


def _rows(data: LabelledImages, file: Path) -> np.ndarray:
    place = {name: row for row, name in enumerate(data.names)}
    rows = []
    listed = read_list(file, data.classes, multilabel=data.task == "multilabel")
    for number, (name, target) in listed.items():
        if name not in place:
            raise DataError(f"{file}, line {number}: no image {name!r} in the data; check the list")
        row = place[name]
        if not np.array_equal(data.targets[row], target):
            raise DataError(
                f"{file}, line {number}: {name} has another label here than in the data; its "
                f"classes are numbered {', '.join(f'{i} {c}' for i, c in enumerate(data.classes))}"
            )
        rows.append(row)
    return np.array(rows, dtype=np.int64)


def _groups(data: LabelledImages) -> np.ndarray:
    return np.array(data.names) if data.groups is None else data.groups


def _rest(data: LabelledImages, groups: np.ndarray, support: np.ndarray) -> np.ndarray:
    """All rows that share no group with the support set; warns of classes that have none."""
    test = np.flatnonzero(~np.isin(groups, groups[support]))
    _warn_of_untested(data, test)
    return test


def _draw_share(groups: np.ndarray, pool: np.ndarray, share: float, seed: int) -> np.ndarray:
    ranked = sorted(set(groups[pool].tolist()), key=lambda group: _rank(seed, group))
    taken = ranked[: max(1, round(share * len(ranked)))]
    return pool[np.isin(groups[pool], taken)]


def _draw(
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
        kept = [] if data.splits is not None else [m for m in members if len(m) > 1]
        ranked = sorted(members[c], key=lambda group: _rank(seed, name, group))
        count = max(1, round(shots * len(ranked))) if shots < 1 else int(shots)
        taken = _take(ranked, count, drawn, kept)
        drawn.update(taken)
        support[pool] |= has_label[pool, c] & np.isin(groups[pool], taken)
        if len(taken) < count:
            fewer.append(f"{name} ({len(taken)} of {len(members[c])})")
    if fewer:
        asked = shots if shots >= 1 else f"{shots:.0%}"
        warnings.warn(
            f"{_classes(fewer)} fewer shots than the {asked} asked for (those drawn of those "
            f"there are): {_some(fewer)}",
            stacklevel=3,
        )
    return np.flatnonzero(support)


def _take(ranked: list[str], shots: int, drawn: set[str], kept: list[set[str]]) -> list[str]:
    """The groups of one class to draw, in the order of their rank.

    New groups first, unless they are the last that a class in ``kept`` has to test on; then those
    drawn for earlier classes, which are lost to the test anyway. One at least is taken.
    """
    taken: list[str] = []
    for group in ranked:
        if len(taken) == shots:
            break
        gone = drawn.union(taken, [group])
        is_last = any(group in members and members <= gone for members in kept)
        if group not in drawn and not is_last:
            taken.append(group)
    again = [group for group in ranked if group in drawn]
    return (taken + again)[:shots] or ranked[:1]


def _has_label(data: LabelledImages) -> np.ndarray:
    """(n, C) bool: whether an image has a class or label."""
    if data.task == "multilabel":
        return data.targets == 1
    return data.targets[:, None] == np.arange(len(data.classes))


def _warn_of_untested(data: LabelledImages, test: np.ndarray) -> None:
    untested = [
        data.classes[c] for c in np.flatnonzero(~_has_label(data)[test].any(axis=0)).tolist()
    ]
    if untested:
        warnings.warn(
            f"{_classes(untested)} no image left to test on, as all are learnt from: "
            f"{_some(untested)}",
            stacklevel=3,
        )


def _classes(names: Sequence[str]) -> str:
    return "1 class has" if len(names) == 1 else f"{len(names)} classes have"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + ", ..." * (len(names) > 5)


def _rank(seed: int, *names: str) -> bytes:
    """A fixed random order of names for each seed."""
    return hashlib.sha256("\0".join([str(seed), *names]).encode()).digest()


def _refuse_shared_groups(groups: np.ndarray, train: np.ndarray, test: np.ndarray) -> None:
    if not len(train) or not len(test):
        raise DataError("the split column has no rows of train, or none of test; it needs both")
    shared = set(groups[train].tolist()) & set(groups[test].tolist())
    if shared:
        raise DataError(
            f"{len(shared)} groups are in both train and test, such as {sorted(shared)[0]!r}: "
            "move all images of a group to one side"
        )


def read_shots(text: str | int) -> int | float | None:
    """``5`` shots, a share such as ``20%`` (0.2), or ``all`` or ``100%`` (None).

    Raises:
        InputError: if it is none of these.
    """
    if text in ("all", "100%"):
        return None
    number = str(text).removesuffix("%")
    if number.isdecimal() and int(number) > 0:
        if number == str(text):
            return int(number)
        if int(number) < 100:
            return int(number) / 100
    raise DataError(f"shots {text}: give a whole number from 1, a share such as 20%, or `all`")
