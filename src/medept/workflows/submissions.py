"""Predict and score the MedFMC challenge's submission files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from medept.classifier.classifier import FewShotClassifier
from medept.data.sources import named_source
from medept.data.sources.medfmc import MedFMC
from medept.data.sources.medfmc_submission import read_submission, write_submission
from medept.errors import DataError
from medept.evaluation.metrics import Evaluation, evaluate
from medept.fits.tables import prediction_columns
from medept.workflows.predict import refuse_output


def predict_submission(
    classifier: FewShotClassifier, source: str, names: str, out: Path
) -> pd.DataFrame:
    """Predict the images of a list of ``medfmc-TASK:FOLDER``; a submission of the challenge.

    Raises:
        InputError: if the data set is another, the classifier has other classes, or ``out`` exists.
    """
    refuse_output(out, "submissions", ".csv")
    task, folder = _medfmc(source)
    classes = tuple(classifier.info().classes)
    if classes != task.classes:
        raise DataError(
            f"{task.name} has the classes {', '.join(task.classes)}, but the adapter has "
            f"{', '.join(classes)}: fit it to {task.name}:FOLDER"
        )
    listed = task.listed(folder, names)
    probabilities = classifier.predict_proba(task.locate(folder, listed))
    write_submission(out, listed, probabilities)
    return pd.DataFrame({"image": listed}).join(
        prediction_columns(probabilities, classes, classifier.task_)
    )


def score_submissions(source: str, files: Sequence[Path]) -> dict[Path, Evaluation]:
    """Metrics of submission files against ``test_WithLabel.txt`` of ``medfmc-TASK:FOLDER``."""
    task, folder = _medfmc(source)
    data = task.labelled_test(folder)
    return {
        file: evaluate(
            read_submission(file, data), data.targets, classes=data.classes, groups=data.groups
        )
        for file in files
    }


def _medfmc(source: str) -> tuple[MedFMC, Path]:
    found = named_source(source)
    if found is None or not isinstance(found[0], MedFMC):
        raise DataError(f"{source}: submissions are of medfmc-TASK:FOLDER; see `medept datasets`")
    return found[0], found[1]
