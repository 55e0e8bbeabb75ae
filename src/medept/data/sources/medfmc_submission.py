"""Submission files of the MedFMC challenge.

Each row is an image's name and one probability per class, separated by commas, without a header.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medept.data.labelled_images import LabelledImages
from medept.errors import DataError
from medept.files import write_text


def write_submission(file: Path, names: Sequence[str], probabilities: np.ndarray) -> None:
    """Write names and probabilities (n, C), with eight decimals."""
    rows = zip(names, probabilities, strict=True)
    text = "".join(",".join([name, *(f"{p:.8f}" for p in row)]) + "\n" for name, row in rows)
    write_text(file, text)


def read_submission(file: Path, data: LabelledImages) -> np.ndarray:
    """The probabilities (n, C) of the images of ``data``, in their order.

    Other images in the file are ignored. In a multi-class task the probabilities of an image are
    divided by their sum, which may differ from 1 by rounding.

    Raises:
        DataError: if the file cannot be read, a row does not hold one probability per class, those
            of a multi-class image do not sum to 1, or images of ``data`` are missing.

    >>> data = LabelledImages(("a.png",), ("a.png",), np.array([0]), ("negative", "positive"))
    >>> write_submission(Path("submission.csv"), data.names, np.array([[0.25, 0.75]]))
    >>> read_submission(Path("submission.csv"), data).tolist()
    [[0.25, 0.75]]
    """
    found: dict[str, list[float]] = {}
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            for number, cells in enumerate(csv.reader(opened), start=1):
                if cells:
                    found[cells[0]] = _probabilities(file, number, cells[1:], len(data.classes))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: cannot be read as a submission ({error})") from error
    missing = [name for name in data.names if name not in found]
    if missing:
        raise DataError(
            f"{file}: {len(missing)} of {len(data)} labelled images are missing, such as "
            f"{missing[0]}; predict those of test_WithLabel.txt"
        )
    values = np.array([found[name] for name in data.names])
    if data.task == "multiclass":
        sums = values.sum(axis=1, keepdims=True)
        if (np.abs(sums - 1) > 1e-3).any():
            name = data.names[int(np.abs(sums[:, 0] - 1).argmax())]
            raise DataError(f"{file}: the probabilities of {name} do not sum to 1")
        values = values / sums
    return values


def _probabilities(file: Path, number: int, cells: list[str], count: int) -> list[float]:
    try:
        values = [float(cell) for cell in cells]
    except ValueError:
        values = []
    if len(values) != count or not all(0 <= value <= 1 for value in values):
        raise DataError(
            f"{file}, row {number}: give an image's name and {count} probabilities from 0 to 1"
        )
    return values
