"""The tables of a fit: the columns of each CSV file, written and read back.

A label is text: the name of the class, or for multi-label data the names of all labels that an
image has, with ``|`` between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medept.data.cases import images_of, sizes_of
from medept.data.image_hashes import original_hash
from medept.data.labelled_images import LabelledImages, label_text
from medept.errors import DataError
from medept.evaluation.operating_points import OperatingPoint
from medept.evaluation.prediction_sets import set_texts
from medept.evaluation.predictions import decide
from medept.evaluation.subgroups import Subgroups
from medept.files import read_csv, refuse_unreadable, write_table
from medept.fits import layout

RESERVED = ("image", "case", "images", "group", "label", "predicted", "decision", "set",
            "unfamiliar")  # fmt: skip
"""Names of columns of ours; one of a user's table with such a name is renamed."""


def image_columns(data: LabelledImages) -> pd.DataFrame:
    """The columns ``image`` (its name), ``group`` (if there are groups), those of subgroups, and
    ``label``.

    Of cases the first columns are ``case`` (its id) and ``images`` (how many it has).

    >>> data = LabelledImages(("a.png", "b.png"), ("a", "b"), np.array([1, 0]), ("no", "yes"))
    >>> print(image_columns(data))
      image label
    0     a   yes
    1     b    no
    """
    table = pd.DataFrame({"image": data.names})
    if data.has_cases:
        table = pd.DataFrame({"case": data.names, "images": sizes_of(data.images)})
    if data.groups is not None:
        table["group"] = data.groups
    for name, cells in data.subgroups.items():
        table[f"given_{name}" if name in RESERVED else name] = cells
    table["label"] = [label_text(target, data.classes) for target in data.targets]
    return table


def prediction_columns(
    probabilities: np.ndarray, classes: Sequence[str], task: str
) -> pd.DataFrame:
    """The column ``predicted`` (a label), and for each class a column ``p_<class>``.

    Args:
        probabilities: (n, C).
        classes: C names.
        task: ``multiclass`` or ``multilabel``.

    >>> print(prediction_columns(np.array([[0.9, 0.1]]), ["benign", "malignant"], "multiclass"))
      predicted  p_benign  p_malignant
    0    benign       0.9          0.1
    """
    predicted = decide(probabilities, task)
    table = pd.DataFrame({"predicted": [label_text(row, classes) for row in predicted]})
    return table.join(pd.DataFrame(probabilities, columns=probability_names(classes)))


def case_columns(
    probabilities: np.ndarray,
    classes: Sequence[str],
    task: str,
    *,
    points: Sequence[OperatingPoint] = (),
    sets: np.ndarray | None = None,
    unfamiliar: np.ndarray | None = None,
) -> pd.DataFrame:
    """All columns of a prediction: those of :func:`prediction_columns`, ``decision``, ``set`` and
    ``unfamiliar``.

    Args:
        probabilities: (n, C).
        classes: C names.
        task: ``multiclass`` or ``multilabel``.
        points: at which to decide; none: no column.
        sets: what is in the prediction set of each case; None: no column.
        unfamiliar: (n,) whether each is unlike the training images; None: no column.

    >>> told = case_columns(np.array([[0.6, 0.4]]), ["benign", "malignant"], "multiclass",
    ...                     sets=np.array([[True, True]]))
    >>> print(told.to_string(index=False))
    predicted  p_benign  p_malignant              set
       benign       0.6          0.4 benign|malignant
    """
    table = prediction_columns(probabilities, classes, task)
    table = table.join(decision_column(probabilities, classes, task, points))
    more = {} if sets is None else {"set": set_texts(sets, classes)}
    if unfamiliar is not None:
        more["unfamiliar"] = ["yes" if strange else "no" for strange in unfamiliar]
    return table.assign(**more)


def decision_column(
    probabilities: np.ndarray,
    classes: Sequence[str],
    task: str,
    points: Sequence[OperatingPoint],
) -> pd.DataFrame:
    """The column ``decision`` at operating points: for classes the positive ones or ``not`` them,
    for labels those decided, with ``|`` between them. No column without points.

    Args:
        probabilities: (n, C).
        classes: C names.
        task: ``multiclass`` or ``multilabel``.
        points: one for classes; for labels one each, or for some of them.

    >>> point = OperatingPoint(positive=["ill"], threshold=0.3, aim="threshold 0.3")
    >>> p = np.array([[0.6, 0.4], [0.9, 0.1]])
    >>> print(decision_column(p, ["well", "ill"], "multiclass", [point]))
      decision
    0      ill
    1  not ill
    """
    if not points:
        return pd.DataFrame(index=range(len(probabilities)))
    decided = [point.decide(probabilities, classes) for point in points]
    if task == "multiclass":
        name = points[0].name
        return pd.DataFrame({"decision": [name if yes else f"not {name}" for yes in decided[0]]})
    names = [point.name for point in points]
    rows = np.stack(decided, axis=1)
    return pd.DataFrame({"decision": ["|".join(np.array(names)[row]) for row in rows]})


def probability_names(classes: Iterable[str]) -> list[str]:
    """Names of the columns that hold the probabilities of classes."""
    return [f"p_{name}" for name in classes]


def write_support(folder: Path, support: LabelledImages) -> None:
    """Write ``support.csv``: the columns of each image, its case, and the SHA-256 of its file."""
    table = image_columns(support)
    if support.has_cases:
        rows = np.repeat(np.arange(len(support)), sizes_of(support.images))
        of_case = table.drop(columns=["case", "images"]).iloc[rows].reset_index(drop=True)
        table = image_rows(support).join(of_case)
    hashes = [original_hash(image) for image in images_of(support.images)]
    write_table(folder / layout.SUPPORT, table.assign(sha256=hashes))


def image_rows(data: LabelledImages) -> pd.DataFrame:
    """The columns ``case`` and ``image`` of the images of all cases."""
    cases = np.repeat(data.names, sizes_of(data.images))
    return pd.DataFrame({"case": cases, "image": data.by_image().names})


def read_support(folder: Path, count: int) -> pd.DataFrame:
    """The content of ``support.csv``, every cell as text.

    Args:
        count: number of support images by ``adapter.json``.

    Raises:
        InputError: if the file is missing or damaged, or has another number of rows.
    """
    file = folder / layout.SUPPORT
    table = _read(file, "image", "label")
    if len(table) != count:
        raise DataError(
            f"{file}: damaged ({len(table)} rows, but the adapter was fitted to {count} images); "
            "copy it again, or fit again"
        )
    return table


def write_image_predictions(
    file: Path, data: LabelledImages, probabilities: np.ndarray, weights: np.ndarray
) -> None:
    """Write the images of cases: ``case``, ``image``, ``weight`` and the probabilities of each.

    Args:
        probabilities: (N, C) of the images by themselves.
        weights: (N,) how much each decides of the features of its case.
    """
    each = prediction_columns(probabilities, data.classes, data.task)
    write_table(file, image_rows(data).assign(weight=weights).join(each))


def read_image_predictions(folder: Path, classes: Sequence[str]) -> pd.DataFrame | None:
    """The content of ``images.csv``, with weights and probabilities as numbers; None without it.

    Raises:
        InputError: if the file is damaged.
    """
    file, columns = folder / layout.IMAGE_PREDICTIONS, ["weight", *probability_names(classes)]
    if not file.exists():
        return None
    table = _read(file, "case", "image", *columns)
    try:
        return table.astype(dict.fromkeys(columns, float))
    except ValueError as error:
        raise _damaged(file, error) from error


def write_predictions(
    folder: Path,
    data: LabelledImages,
    probabilities: np.ndarray,
    points: Sequence[OperatingPoint] = (),
    sets: np.ndarray | None = None,
    unfamiliar: np.ndarray | None = None,
    file: str = layout.PREDICTIONS,
) -> None:
    """Write ``predictions.csv``: the columns of each test case, its prediction and decision.

    Args:
        probabilities: (n, C).
        points: at which to decide.
        sets: what is in the prediction set of each.
        unfamiliar: whether each is unlike the training images.
        file: another name, for predictions of other images.
    """
    told = case_columns(
        probabilities, data.classes, data.task, points=points, sets=sets, unfamiliar=unfamiliar
    )
    write_table(folder / file, image_columns(data).join(told))


def read_predictions(
    folder: Path, classes: Sequence[str], name: str = layout.PREDICTIONS
) -> tuple[pd.DataFrame, np.ndarray]:
    """The content of ``predictions.csv``, every cell as text, and its probabilities (n, C).

    Args:
        name: of another file with predictions.

    Raises:
        InputError: if the file is missing or damaged.
    """
    file, columns = folder / name, probability_names(classes)
    table = _read(file, "label", *columns)
    if "case" not in table and "image" not in table:
        raise _damaged(file, "no column image or case")
    try:
        return table, table[columns].to_numpy(dtype=np.float64)
    except ValueError as error:
        raise _damaged(file, error) from error


def read_targets(
    labels: Iterable[str], classes: Sequence[str], task: str, file: Path
) -> np.ndarray:
    """The column ``label`` as class indices (n,), or for multi-label data as (n, C) of 0 and 1.

    Args:
        labels: n texts.
        classes: C names.
        task: ``multiclass`` or ``multilabel``.
        file: where the column is from, for the message.

    Raises:
        InputError: if a label is not one of the classes.

    >>> read_targets(["a|b", ""], ["a", "b"], "multilabel", Path("support.csv"))
    array([[1, 1],
           [0, 0]])
    """
    index = {name: i for i, name in enumerate(classes)}
    rows = list(labels)
    targets = np.zeros((len(rows), len(classes)), dtype=np.int64)
    for row, text in enumerate(rows):
        for name in [text] if task == "multiclass" else filter(None, text.split("|")):
            if name not in index:
                raise DataError(
                    f"{file}: row {row + 2}: {name!r} is not a class of the adapter; copy it "
                    "again, or fit again"
                )
            targets[row, index[name]] = 1
    return targets if task == "multilabel" else targets.argmax(axis=1)


def write_history(folder: Path, history: Sequence[dict[str, Any]]) -> None:
    """Write ``history.csv``, one row per epoch; no file if there were no epochs."""
    if history:
        write_table(folder / layout.HISTORY, pd.DataFrame(history))


def read_history(folder: Path) -> pd.DataFrame | None:
    """The learning curve, with ``loss`` as numbers; None if there is none.

    Raises:
        InputError: if the file is damaged.
    """
    file = folder / layout.HISTORY
    if not file.exists():
        return None
    table = _read(file, "trained", "loss")
    try:
        return table.astype({"loss": float})
    except ValueError as error:
        raise _damaged(file, error) from error


def write_subgroups(folder: Path, found: Subgroups) -> None:
    """Write ``subgroups.csv``: a row for each subgroup and metric, with its interval."""
    rows = [
        {
            "column": one.column,
            "subgroup": one.value,
            "positive": one.positive,
            "n": one.n,
            "groups": one.groups,
            "prevalence": one.prevalence,
            "metric": name,
            **{key: x for key, x in asdict(metric).items() if key != "n"},
            "few": one.few,
        }
        for one in found.each
        for name, metric in one.metrics.items()
    ]
    write_table(folder / layout.SUBGROUPS, pd.DataFrame(rows))


def write_distribution(folder: Path, table: pd.DataFrame) -> None:
    """Write ``distribution.csv``.

    Args:
        table: one row per model, the adapter last.
    """
    write_table(folder / layout.DISTRIBUTION, table)


def read_distribution(folder: Path) -> dict[str, Any]:
    """The row of the adapter in ``distribution.csv``; empty if there is no such file.

    Raises:
        InputError: if the file is damaged.
    """
    file = folder / layout.DISTRIBUTION
    if not file.exists():
        return {}
    refuse_unreadable(file)
    try:
        return {str(name): value for name, value in pd.read_csv(file).iloc[-1].items()}
    except (OSError, ValueError, IndexError) as error:
        raise _damaged(file, error) from error


def _read(file: Path, *columns: str) -> pd.DataFrame:
    """A CSV file that has these columns, every cell as text."""
    refuse_unreadable(file)
    try:
        table = read_csv(file)
    except FileNotFoundError as error:
        raise DataError(
            f"{file}: missing; copy the whole folder of the fit again, or fit again"
        ) from error
    except (OSError, ValueError) as error:
        raise _damaged(file, error) from error
    missing = [name for name in columns if name not in table]
    if missing:
        raise _damaged(file, f"no column {', '.join(missing)}")
    return table


def _damaged(file: Path, why: object) -> DataError:
    return DataError(f"{file}: damaged ({why}); copy it again, or fit again")
