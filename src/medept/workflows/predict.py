"""Predict any number of images or cases, and write a table: in parts, so that a call that was
killed goes on, and memory does not grow with the number of images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from medept.classifier.case_prediction import CasePrediction
from medept.classifier.classifier import FewShotClassifier
from medept.data.cases import Case, Item, joined, rows_of_cases, sizes_of, without
from medept.data.find_images import FoundImages
from medept.data.volumes import Slicing, is_volume, open_volumes
from medept.errors import DataError, InputError, SettingsError
from medept.fits.tables import case_columns, prediction_columns
from medept.progress import Progress, silent
from medept.training.inference import Unreadable
from medept.workflows.evaluate import warn_of_unfamiliar
from medept.workflows.parts import (
    ROWS,
    UNREADABLE,
    Parts,
    Written,
    key_of,
    rows_of_parts,
    write_parts,
)

BLACK = Image.new("RGB", (64, 64))
"""Stands in the place of what cannot be read."""

logger = logging.getLogger(__name__)


def predict(
    classifier: FewShotClassifier,
    found: FoundImages,
    out: Path,
    *,
    slicing: Slicing | None = None,
    skip_unreadable: bool = False,
    per_image: bool = False,
    part_rows: int = ROWS,
    seen: Callable[[pd.DataFrame], object] = lambda table: None,
) -> Written:
    """Probabilities of each image or case, written to ``out``: .csv, .parquet, or a folder of
    Parquet files.

    Results are kept as they come. A call that was killed goes on where it was, if it is repeated.
    The other columns of a table of images are carried through. Of a case, those that all of its
    images agree in are.

    Args:
        slicing: of volumes; default: that of the volumes it was fitted to.
        skip_unreadable: an image that cannot be read has a row without a prediction, which says
            why in the column ``unreadable``. A case is predicted from the others of its images.
        per_image: of cases, write what each image says to a second table, whose name has
            ``-images`` before the suffix.
        part_rows: images that are computed before they are written. A prevalence that is estimated
            is that of all images, so these are one part.
        seen: called with each part's table, in their order.

    Raises:
        InputError: if ``out`` has another suffix or exists, or an image that is not skipped, or
            every one, cannot be read.
    """
    refuse_output(out, "predictions", ".csv", ".parquet", "")
    outs = [out]
    if per_image:
        outs.append(out.with_name(f"{out.stem}-images{out.suffix}"))
        refuse_output(outs[1], "predictions", ".csv", ".parquet", "")
        if found.cases is None and not any(map(is_volume, found.images)):
            raise SettingsError("per_image is of cases: say with case_column= what a case is")
    one = _Predictor(classifier, _carried(found), slicing, skip_unreadable)
    rows = rows_of_parts(found, len(found) if classifier.prevalence == "estimate" else part_rows)
    identity = repr((classifier.fingerprint(), slicing, skip_unreadable, per_image))
    keys = [key_of(found.subset(each), identity) for each in rows]
    outputs = [Parts(file, keys) for file in outs]
    report = classifier.progress

    def work(each: Sequence[int], progress: Progress) -> Sequence[pd.DataFrame]:
        classifier.progress = progress
        return one.tables(found.subset(each))[: len(outputs)]

    strange: list[int] = []

    def also_seen(table: pd.DataFrame) -> None:
        if "unfamiliar" in table:
            strange.append(int((table["unfamiliar"] == "yes").sum()))
        seen(table)

    try:
        written = write_parts(outputs, rows, work, report or silent, seen=also_seen)
    finally:
        classifier.progress = report
    warn_of_unfamiliar(classifier, sum(strange), written.rows, "images or cases")
    return written


class _Predictor:
    """Predicts one part after another.

    Args:
        carried: columns of the images' table that predictions have too, by their names there.
        slicing, skip_unreadable: as for :func:`predict`.
    """

    def __init__(
        self,
        classifier: FewShotClassifier,
        carried: Sequence[str],
        slicing: Slicing | None,
        skip_unreadable: bool,
    ) -> None:
        self._classifier, self._carried = classifier, carried
        self._slicing, self._skip = slicing, skip_unreadable

    def tables(self, found: FoundImages) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The rows of images or cases, and those of the images of cases."""
        opened, problems = opened_items(found, self._slicing, self._skip)
        groups = [[row] for row in range(len(found))]
        if found.cases is not None:
            groups = list(rows_of_cases(found.cases).values())
        left = {i: [row for row in rows if row in opened] for i, rows in enumerate(groups)}
        left = {i: rows for i, rows in left.items() if rows}
        items = [_item(found, opened, rows) for rows in left.values()]
        predicted, unread = self._predicted(items)
        kept = without(items, unread)
        order = [row for rows in left.values() for row in rows]
        owners = np.repeat(order, sizes_of([opened[row] for row in order]))
        for number, error in sorted(unread.items()):
            problems.setdefault(int(owners[number]), error)

        places = np.array(list(left), dtype=int)[list(kept)]
        count = len(kept)  # 0 where a stand-in was predicted
        told = _columns(self._classifier, predicted)[:count].set_axis(places)
        kinds = {n: float if kind.kind in "iuf" else object for n, kind in told.dtypes.items()}
        told = told.reindex(range(len(groups))).astype(kinds)
        told = told.fillna({name: "" for name, kind in kinds.items() if kind is object})
        sizes = np.zeros(len(groups), dtype=np.int64)
        sizes[places] = predicted.sizes[:count]
        table = self._named(found, groups, sizes, {*told.columns, UNREADABLE}).join(told)
        if self._skip:
            why = [[str(problems[row]) for row in rows if row in problems] for rows in groups]
            table[UNREADABLE] = ["; ".join(each) for each in why]
        names = [n for i, item in kept.items() for n in _names(item, found.names[order[i]])]
        cases = np.repeat(table.iloc[places, 0].to_numpy(), predicted.sizes[:count])
        weights = predicted.weights[: len(names)]
        start = pd.DataFrame({"case": cases, "image": names, "weight": weights})
        info, task = self._classifier.info(), self._classifier.task_
        each = prediction_columns(predicted.image_probabilities, tuple(info.classes), task)
        return table, start.join(each[: len(names)])

    def _predicted(self, items: Sequence[Item]) -> tuple[CasePrediction, Unreadable]:
        """What is predicted, and what could not be read. If that is everything, or there is
        nothing, the prediction is that of a black image."""
        unread: Unreadable = {}
        try:
            if items:
                unreadable = unread if self._skip else None
                return self._classifier.predict_cases(items, unreadable=unreadable), unread
        except DataError as error:
            if not self._skip:
                raise DataError(
                    f"{error}; skip_unreadable= gives such images a row that says why"
                ) from error
            if len(unread) < sizes_of(items).sum():
                raise
        return self._classifier.predict_cases([BLACK]), unread

    def _named(
        self, found: FoundImages, groups: list[list[int]], sizes: np.ndarray, taken: set[str]
    ) -> pd.DataFrame:
        """The first columns: what was predicted, and what its table says of it.

        Args:
            groups: the rows of each image or case.
            sizes: the number of images of each.
            taken: names of the columns that follow; a column of the table with one of them is
                renamed.
        """
        first = [rows[0] for rows in groups]
        own: dict[str, Sequence[Any]] = {"image": found.names}
        if found.cases is not None:
            own = {"case": found.cases[first].tolist()}
        if found.cases is not None or any(map(is_volume, found.images)):
            own["images"] = sizes.tolist()
        carried = {
            f"given_{name}" if name in taken | own.keys() else name: found.table[name].iloc[first]
            for name in self._carried
        }
        return pd.DataFrame(own | {name: cells.tolist() for name, cells in carried.items()})


def _columns(classifier: FewShotClassifier, predicted: CasePrediction) -> pd.DataFrame:
    """All that is said of each image or case."""
    classes, task = tuple(classifier.info().classes), classifier.task_
    return case_columns(
        predicted.probabilities,
        classes,
        task,
        points=classifier.operating_points_,
        sets=predicted.sets,
        unfamiliar=predicted.unfamiliar,
    )


def _item(found: FoundImages, opened: dict[int, Item], rows: list[int]) -> Item:
    """An image, or the case of all images of these rows."""
    if found.cases is None:
        return opened[rows[0]]
    return joined([opened[row] for row in rows], [found.names[row] for row in rows])


def _names(item: Item, name: str) -> Sequence[str]:
    """What the images of an item are called."""
    return item.names if isinstance(item, Case) else (name,)


def _carried(found: FoundImages) -> list[str]:
    """The columns of the table that all images of every case agree in."""
    columns = list(found.table.columns)
    if found.cases is None:
        return columns
    first = np.zeros(len(found), dtype=int)
    for rows in rows_of_cases(found.cases).values():
        first[rows] = rows[0]
    cells = {name: found.table[name].to_numpy() for name in columns}
    differing = [name for name in columns if (cells[name] != cells[name][first]).any()]
    if differing:
        shown = ", ".join(map(str, differing))
        logger.info("left out, as images of a case differ in them: %s", shown)
    ids = found.cases.tolist()
    return [n for n in columns if n not in differing and cells[n].tolist() != ids]


def opened_items(
    found: FoundImages, slicing: Slicing | None = None, skip_unreadable: bool = False
) -> tuple[dict[int, Item], Unreadable]:
    """The images by their row, with volumes opened, and why others of these cannot be."""
    if not skip_unreadable:
        return dict(enumerate(open_volumes(found.images, slicing))), {}
    opened: dict[int, Item] = {}
    problems: Unreadable = {}
    for row, image in enumerate(found.images):
        try:
            (opened[row],) = open_volumes([image], slicing)
        except InputError as error:
            problems[row] = error
    return opened, problems


def refuse_output(out: Path, what: str, *suffixes: str) -> None:
    """Before anything is computed: a file of another kind, or one that is there already."""
    if out.suffix not in suffixes:
        kinds = " or ".join(suffix for suffix in suffixes if suffix)
        folder = ", or into a folder" * ("" in suffixes)
        raise DataError(f"{out}: {what} are written as {kinds}{folder}")
    if out.exists() and not (out.is_dir() and "" in suffixes and not out.suffix):
        raise DataError(f"{out}: exists already; name another or remove it")
