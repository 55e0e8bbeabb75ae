"""Predict or embed any number of images, and write a table."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medept.classifier.case_prediction import CasePrediction
from medept.classifier.classifier import FewShotClassifier
from medept.data.cases import Case, Item, joined, rows_of_cases, sizes_of
from medept.data.find_images import FoundImages
from medept.data.volumes import Slicing, open_volumes
from medept.errors import DataError, InputError, SettingsError
from medept.files import whole_file, write_table
from medept.fits.tables import case_columns, prediction_columns
from medept.training.inference import Unreadable

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
    rows, items = _grouped(found, opened)
    if per_image and not any(isinstance(item, Case) for item in items):
        raise SettingsError("per_image is of cases: say with case_column= what a case is")
    if skip_unreadable:
        problems: Unreadable = {}
        try:
            predicted = classifier.predict_cases(items, unreadable=problems)
        finally:
            left = _left(found, opened, rows, problems)
        found, opened = found.subset(left), [opened[row] for row in left]
        rows, items = _grouped(found, opened)
        if not np.array_equal(sizes_of(items), predicted.sizes):
            raise DataError("volumes changed while they were read: predict again")
    else:
        predicted = _predicted(classifier, items)
    classes, task = tuple(classifier.info().classes), classifier.task_
    points, sets = classifier.operating_points_, predicted.sets
    table = case_columns(predicted.probabilities, classes, task, points=points, sets=sets)
    table = _named(found, rows, predicted.sizes, set(table.columns)).join(table)
    if per_image:
        each = prediction_columns(predicted.image_probabilities, classes, task)
        names = [n for x, r in zip(items, rows, strict=True) for n in _names(x, found.names[r[0]])]
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


def _grouped(found: FoundImages, opened: Sequence[Item]) -> tuple[list[list[int]], list[Item]]:
    """The rows of each image or case, and the same as items of a classifier."""
    if found.cases is None:
        return [[row] for row in range(len(found))], list(opened)
    rows = list(rows_of_cases(found.cases).values())
    return rows, [joined([opened[i] for i in r], [found.names[i] for i in r]) for r in rows]


def _predicted(classifier: FewShotClassifier, items: Sequence[Item]) -> CasePrediction:
    try:
        return classifier.predict_cases(items)
    except DataError as error:
        raise DataError(
            f"{error}; nothing is written: skip_unreadable= leaves such images out"
        ) from error


def _opened(
    found: FoundImages, slicing: Slicing | None, skip_unreadable: bool
) -> tuple[FoundImages, list[Item]]:
    """What was found, and the same with volumes opened.

    Raises:
        DataError: if none can be.

    Warns:
        UserWarning: for each volume that is skipped, with the reason.
    """
    if not skip_unreadable:
        return found, list(open_volumes(found.images, slicing))
    opened: dict[int, Item] = {}
    for row, image in enumerate(found.images):
        try:
            (opened[row],) = open_volumes([image], slicing)
        except InputError as error:
            warnings.warn(f"left out: {error}", stacklevel=3)
    if not opened:
        raise DataError(f"none of the {len(found)} volumes can be read")
    left = found.subset(list(opened))
    _warn_of_lost_cases(found, left)
    return left, list(opened.values())


def _left(
    found: FoundImages, opened: Sequence[Item], rows: list[list[int]], problems: Unreadable
) -> list[int]:
    """The rows whose images were read.

    Args:
        found: of these images.
        opened: the same, with volumes opened.
        rows: of each item that was predicted.
        problems: what could not be read, by its number among all images of these items.

    Warns:
        UserWarning: for each image that was skipped, with the reason, and for each case without an
            image left.
    """
    order = [row for each in rows for row in each]
    owners = np.repeat(order, sizes_of([opened[row] for row in order])).tolist()
    bad = {owners[number]: error for number, error in problems.items()}
    for row in sorted(bad):
        warnings.warn(f"left out: {bad[row]}", stacklevel=3)
    left = [row for row in range(len(found)) if row not in bad]
    _warn_of_lost_cases(found, found.subset(left))
    return left


def _warn_of_lost_cases(found: FoundImages, left: FoundImages) -> None:
    if found.cases is not None and left.cases is not None:
        for case in sorted(set(found.cases.tolist()) - set(left.cases.tolist())):
            warnings.warn(f"left out: case {case}, as none of its images is left", stacklevel=4)


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
