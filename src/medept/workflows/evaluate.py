"""Evaluate an adapter on images that it was not fitted to."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from shutil import copyfile

import numpy as np
import pandas as pd

from medept.classifier.classifier import FewShotClassifier
from medept.data.table import LabelledImages, label_text
from medept.errors import DataError
from medept.evaluation.metrics import Evaluation, evaluate
from medept.evaluation.predictions import decide
from medept.files import whole_folder, write_table, write_text
from medept.fits.adapter import DESCRIPTION
from medept.fits.unseen import unseen
from medept.report.fit_page import write_fit_page

logger = logging.getLogger(__name__)

FEW = 20
"""Images or groups of a test set, below which bootstrap intervals are known to be too narrow."""


def evaluate_unseen(
    classifier: FewShotClassifier, data: LabelledImages, folder: Path, out: Path | None = None
) -> Evaluation:
    """Metrics of the adapter in ``folder`` on images that it was not fitted to.

    Its support images, under any name, and others of their groups, are left out; with a ``split``
    column all but the test rows are.

    Args:
        out: a new folder for ``metrics.json``, ``predictions.csv`` and ``report.html``, beside
            copies of what says how the adapter was made.

    Raises:
        InputError: if no image is left, or ``out`` exists.
    """
    if out is not None and not (folder / "support.csv").is_file():
        raise DataError(
            f"{folder / 'support.csv'} is missing, and a report needs it: leave --out out, or give "
            "the folder that medept fit wrote"
        )
    data = unseen(data, [folder])
    if out is None:
        return _evaluated(classifier, data)[1]
    with whole_folder(out) as new:
        for name in (DESCRIPTION, "support.csv"):
            copyfile(folder / name, new / name)
        evaluation = write_evaluation(classifier, data, new)
        write_fit_page(new, dict(zip(data.names, data.images, strict=True)))
    return evaluation


def write_evaluation(
    classifier: FewShotClassifier, data: LabelledImages, folder: Path
) -> Evaluation:
    """Evaluate on ``data`` and write ``metrics.json`` and ``predictions.csv``."""
    probabilities, evaluation = _evaluated(classifier, data)
    write_text(folder / "metrics.json", json.dumps(evaluation.to_dict(), indent=2) + "\n")
    rows = describe_rows(data).join(describe_predictions(probabilities, data.classes, data.task))
    write_table(folder / "predictions.csv", rows)
    return evaluation


def _evaluated(
    classifier: FewShotClassifier, data: LabelledImages
) -> tuple[np.ndarray, Evaluation]:
    """Probabilities (n, C), and their metrics."""
    probabilities = classifier.predict_proba(data.images)
    units, kind = (data.names, "images") if data.groups is None else (data.groups, "groups")
    if (count := len(set(units))) < FEW:
        logger.warning("%d %s to test on: metrics and intervals of so few say little", count, kind)
    return probabilities, evaluate(
        probabilities, data.targets, classes=data.classes, groups=data.groups, seed=classifier.seed
    )


def describe_rows(data: LabelledImages) -> pd.DataFrame:
    """One row an image: its name, its group where there is one, its label as in the input."""
    table = pd.DataFrame({"image": data.names})
    if data.groups is not None:
        table["group"] = data.groups
    table["label"] = [label_text(row, data.classes) for row in data.targets]
    return table


def describe_predictions(
    probabilities: np.ndarray, classes: Sequence[str], task: str
) -> pd.DataFrame:
    """The predicted label and one probability column, ``p_<class>``, per class."""
    predicted = decide(probabilities, task)
    table = pd.DataFrame({"predicted": [label_text(row, classes) for row in predicted]})
    return table.join(pd.DataFrame(probabilities, columns=[f"p_{name}" for name in classes]))
