"""Predict or embed any number of images, and write a table."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medept.classifier.classifier import FewShotClassifier
from medept.data.cases import Case, Item, images_of, joined, rows_of_cases, sizes_of
from medept.data.find_images import FoundImages
from medept.data.images import read_images
from medept.data.volumes import Slicing, open_volumes
from medept.errors import DataError, InputError, SettingsError
from medept.files import whole_file, write_table
from medept.fits.tables import decision_column, prediction_columns

logger = logging.getLogger(__name__)


def predict(
    classifier: FewShotClassifier,
    found: FoundImages,
    out: Path,
    *,
    slicing: Slicing | None = None,
    skip_unreadable: bool = False,
    per_image: bool = False,
) -> pd.DataFrame:
    """Probabilities of each image or case, written to the new table ``out``: .csv or .parquet.

    The other columns of a table of images are carried through. Of a case, those that all of its
    images agree in are.

    Args:
        slicing: of volumes; default: that of the volumes it was fitted to.
        skip_unreadable: leave out images that cannot be read, with a warning for each.
        per_image: of cases, write what each image says to a second table, whose name has
            ``-images`` before the suffix.

    Raises:
        InputError: if ``out`` has another suffix or exists, or an image that is not skipped, or
            every one, cannot be read.
    """
    refuse_output(out, "predictions", ".csv", ".parquet")
    images_out = out.with_name(f"{out.stem}-images{out.suffix}")
    if per_image:
        refuse_output(images_out, "predictions", ".csv", ".parquet")
    found, opened = _opened(found, slicing, skip_unreadable)
    rows = [[i] for i in range(len(found))]
    if found.cases is not None:
        rows = list(rows_of_cases(found.cases).values())
        opened = [
            joined([opened[i] for i in each], [found.names[i] for i in each]) for each in rows
        ]
    if per_image and not any(isinstance(item, Case) for item in opened):
        raise SettingsError("per_image is of cases: say with case_column= what a case is")
    try:
        predicted = classifier.predict_cases(opened)
    except DataError as error:
        raise DataError(
            f"{error}; nothing is written: skip_unreadable= leaves such images out"
        ) from error
    classes, task = tuple(classifier.info().classes), classifier.task_
    table = prediction_columns(predicted.probabilities, classes, task)
    points = classifier.operating_points_
    table = table.join(decision_column(predicted.probabilities, classes, task, points))
    table = _named(found, rows, predicted.sizes, set(table.columns)).join(table)
    if per_image:
        each = prediction_columns(predicted.image_probabilities, classes, task)
        names = [n for x, r in zip(opened, rows, strict=True) for n in _names(x, found.names[r[0]])]
        cases = np.repeat(table.iloc[:, 0].to_numpy(), predicted.sizes)
        start = pd.DataFrame({"case": cases, "image": names, "weight": predicted.weights})
        write_table(images_out, start.join(each))
    write_table(out, table)
    return table


def _names(item: Item, name: str) -> Sequence[str]:
    """What the images of an item are called."""
    return item.names if isinstance(item, Case) else (name,)


def _named(
    found: FoundImages, rows: list[list[int]], sizes: np.ndarray, taken: set[str]
) -> pd.DataFrame:
    """The first columns of predictions: what was predicted, and what its table says of it.

    Args:
        rows: of ``found``, of each image or case.
        sizes: the number of images of each.
        taken: names of the columns that follow; a column of the table with one of them is renamed.
    """
    first = [each[0] for each in rows]
    own: dict[str, Sequence[Any]] = {"image": found.names}
    if found.cases is not None:
        own = {"case": found.cases[first].tolist()}
    if found.cases is not None or (sizes > 1).any():
        own["images"] = sizes.tolist()
    carried, differing = {}, []
    for name in found.table.columns:
        cells = found.table[name].tolist()
        if any(cells[i] != cells[each[0]] for each in rows for i in each):
            differing.append(str(name))
        elif found.cases is None or cells != found.cases.tolist():
            new = f"given_{name}" if name in taken | own.keys() else name
            carried[new] = [cells[i] for i in first]
    if differing:
        logger.info("left out, as images of a case differ in them: %s", ", ".join(differing))
    return pd.DataFrame(own | carried)


def _opened(
    found: FoundImages, slicing: Slicing | None, skip_unreadable: bool
) -> tuple[FoundImages, list[Item]]:
    """What was found, and the same as items of a classifier: volumes are opened.

    Raises:
        DataError: if none can be read.

    Warns:
        UserWarning: for each image that is skipped, with the reason, and for each case without an
            image left.
    """
    if not skip_unreadable:
        return found, list(open_volumes(found.images, slicing))
    opened: dict[int, Item] = {}
    problems: dict[int, InputError] = {}
    for row, image in enumerate(found.images):
        try:
            (opened[row],) = open_volumes([image], slicing)
        except InputError as error:
            problems[row] = error
    rows = np.repeat(list(opened), sizes_of(list(opened.values()))).tolist()
    read = read_images(images_of(list(opened.values())), lambda _: None)
    problems |= {row: error for row, error in zip(rows, read, strict=True) if error is not None}
    for row in sorted(problems):
        warnings.warn(f"left out: {problems[row]}", stacklevel=3)
    good = [row for row in opened if row not in problems]
    if not good:
        raise DataError(f"none of the {len(found)} images can be read")
    left = found.subset(good)
    if found.cases is not None and left.cases is not None:
        for case in sorted(set(found.cases.tolist()) - set(left.cases.tolist())):
            warnings.warn(f"left out: case {case}, as none of its images is left", stacklevel=3)
    return left, [opened[row] for row in good]


def embed(
    encode: Callable[[Sequence[Item]], np.ndarray], found: FoundImages, out: Path
) -> np.ndarray:
    """Features of each image, written to the new file ``out``.

    Args:
        encode: images to features (n, D): :meth:`medept.FewShotClassifier.embed`, say.
        found: n images.
        out: .npy (n, D), or .csv or .parquet with the images' names.

    Raises:
        InputError: if ``out`` has another suffix or exists.
    """
    refuse_output(out, "features", ".npy", ".csv", ".parquet")
    features = encode(open_volumes(found.images))
    if out.suffix == ".npy":
        with whole_file(out) as partial, partial.open("wb") as file:
            np.save(file, features)
    else:
        table = pd.DataFrame(features, columns=[f"f{i}" for i in range(features.shape[1])])
        table.insert(0, "image", found.names)
        write_table(out, table)
    return features


def refuse_output(out: Path, what: str, *suffixes: str) -> None:
    """Before anything is computed: a file of another kind, or one that is there already."""
    if out.suffix not in suffixes:
        raise DataError(f"{out}: {what} are written as {' or '.join(suffixes)}")
    if out.exists():
        raise DataError(f"{out}: exists already; name another or remove it")
