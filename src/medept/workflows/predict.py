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
from medept.data.cases import Case, Item, rows_of_cases
from medept.data.find_images import FoundImages
from medept.data.images import read_images
from medept.errors import DataError, SettingsError
from medept.files import whole_file, write_table
from medept.fits.tables import prediction_columns

logger = logging.getLogger(__name__)


def predict(
    classifier: FewShotClassifier,
    found: FoundImages,
    out: Path,
    *,
    skip_unreadable: bool = False,
    per_image: bool = False,
) -> pd.DataFrame:
    """Probabilities of each image or case, written to the new table ``out``: .csv or .parquet.

    The other columns of a table of images are carried through. Of a case, those that all of its
    images agree in are.

    Args:
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
        if found.cases is None:
            raise SettingsError("per_image is of cases: say with case_column= what a case is")
        refuse_output(images_out, "predictions", ".csv", ".parquet")
    if skip_unreadable:
        found = _readable(found)
    rows = [[i] for i in range(len(found))]
    items: Sequence[Item] = found.images
    if found.cases is not None:
        rows = list(rows_of_cases(found.cases).values())
        items = [
            Case(tuple(found.images[i] for i in each), tuple(found.names[i] for i in each))
            for each in rows
        ]
    predicted = classifier.predict_cases(items)
    classes, task = tuple(classifier.info().classes), classifier.task_
    table = prediction_columns(predicted.probabilities, classes, task)
    table = _named(found, rows, set(table.columns)).join(table)
    if per_image:
        write_table(images_out, _image_table(found, rows, predicted, classes, task))
    write_table(out, table)
    return table


def _named(found: FoundImages, rows: list[list[int]], taken: set[str]) -> pd.DataFrame:
    """The first columns of predictions: what was predicted, and what its table says of it.

    Args:
        rows: of ``found``, of each image or case.
        taken: names of the columns that follow; a column of the table with one of them is renamed.
    """
    first = [each[0] for each in rows]
    if found.cases is None:
        own: dict[str, Sequence[Any]] = {"image": found.names}
    else:
        own = {"case": found.cases[first].tolist(), "images": [len(each) for each in rows]}
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


def _image_table(
    found: FoundImages,
    rows: list[list[int]],
    predicted: CasePrediction,
    classes: tuple[str, ...],
    task: str,
) -> pd.DataFrame:
    """One row an image: its case, its weight there, and its probabilities by itself."""
    order = [i for each in rows for i in each]
    cases = np.asarray(found.cases)[order]
    table = pd.DataFrame({"case": cases, "image": [found.names[i] for i in order]})
    each = prediction_columns(predicted.image_probabilities, classes, task)
    return table.assign(weight=predicted.weights).join(each)


def _readable(found: FoundImages) -> FoundImages:
    """The images that can be read; each is decoded once to find out.

    Raises:
        DataError: if none can be read.

    Warns:
        UserWarning: for each image that is left out, with the reason, and for each case without
            an image left.
    """
    problems = list(read_images(found.images, lambda _: None))
    for problem in problems:
        if problem is not None:
            warnings.warn(f"left out: {problem}", stacklevel=3)
    good = [i for i, problem in enumerate(problems) if problem is None]
    if not good:
        raise DataError(f"none of the {len(found)} images can be read")
    left = found.subset(good)
    if found.cases is not None and left.cases is not None:
        for case in sorted(set(found.cases.tolist()) - set(left.cases.tolist())):
            warnings.warn(f"left out: case {case}, as none of its images is left", stacklevel=3)
    return left


def embed(
    encode: Callable[[Sequence[Path]], np.ndarray], found: FoundImages, out: Path
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
    features = encode(found.images)
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
