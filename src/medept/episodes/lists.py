"""Episodes as files: a list of the support set, and one of the test set, that others can use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from medept.data.image_lists import read_list, write_list
from medept.data.labelled_images import LabelledImages
from medept.data.spelling import clean
from medept.episodes.draw import (
    Episode,
    draw_episode,
    group_of_each,
    refuse_shared_groups,
    rest_of_data,
)
from medept.errors import DataError
from medept.files import whole_folder


def write_episode(
    data: LabelledImages, episode: Episode, folder: Path, stem: str, name: str
) -> Path:
    """Write ``STEM_train_NAME.txt`` and, unless the test set is empty, ``STEM_test_NAME.txt``.

    Returns:
        The path of the first.
    """
    train, test = folder / f"{stem}_train_{name}.txt", folder / f"{stem}_test_{name}.txt"
    if len(episode.test):
        write_list(test, [data.names[i] for i in episode.test], data.targets[episode.test])
    write_list(train, [data.names[i] for i in episode.support], data.targets[episode.support])
    return train


def write_episodes(
    data: LabelledImages, out: Path, shots: Mapping[str, int | float | None], count: int
) -> dict[str, tuple[int, int]]:
    """Draw ``count`` episodes for each number of shots, and write their lists to a new folder.

    Args:
        out: new, or empty.
        shots: as they are written in file names -> as :func:`~medept.episodes.draw.draw_episode`
            takes them.

    Returns:
        By the name of a support set's list: how many images are in the support set, and in the test
        set.

    Raises:
        DataError: if ``out`` is not empty, or a class has no image to train on.
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
    """The episode whose support set a file lists.

    The test set is the list beside it whose name has ``_test_`` in place of ``_train_``. Without
    one, it is the test rows of the split; without a split, all images that share no group with the
    support set.

    Raises:
        DataError: if the file lists a test set, a line names an image that is not in ``data`` or
            another label than it has there, or a test image or its group is in the support set.
    """
    support_file = file.with_name(file.name.replace("_test_", "_train_"))
    if support_file != file and support_file.is_file():
        raise DataError(
            f"{file}: lists test images; give the list of the support set, {support_file}"
        )
    support, groups = _read_rows(data, file), group_of_each(data)
    test_file = file.with_name(file.name.replace("_train_", "_test_"))
    if test_file != file and test_file.is_file():
        test = _read_rows(data, test_file)
    elif data.splits is not None:
        test = np.flatnonzero(data.splits == "test")
    else:
        return Episode(support, rest_of_data(data, groups, support))
    refuse_shared_groups(groups, support, test)
    return Episode(support, test)


def _read_rows(data: LabelledImages, file: Path) -> np.ndarray:
    row_of = {clean(name): row for row, name in enumerate(data.names)}
    rows = []
    listed = read_list(file, data.classes, multilabel=data.task == "multilabel")
    for number, (name, target) in listed.items():
        if name not in row_of:
            raise DataError(f"{file}, line {number}: no image {name!r} in the data; check the list")
        row = row_of[name]
        if not np.array_equal(data.targets[row], target):
            raise DataError(
                f"{file}, line {number}: {name} has another label here than in the data; its "
                f"classes are numbered {', '.join(f'{i} {c}' for i, c in enumerate(data.classes))}"
            )
        rows.append(row)
    return np.array(rows, dtype=np.int64)
