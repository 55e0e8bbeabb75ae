"""Evaluate an adapter on images that it was not fitted to."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from shutil import copyfile

import numpy as np

from medept.classifier.case_prediction import CasePrediction
from medept.classifier.classifier import FewShotClassifier
from medept.data.labelled_images import LabelledImages
from medept.errors import DataError
from medept.evaluation.at_prevalence import metrics_at_prevalence
from medept.evaluation.decisions import judge_point
from medept.evaluation.influence import proportion
from medept.evaluation.judge_subgroups import judge_subgroups
from medept.evaluation.metrics import Evaluation, evaluate
from medept.evaluation.prediction_sets import judge_sets
from medept.evaluation.prevalence import prevalence_in
from medept.evaluation.subgroups import Subgroups, binned
from medept.files import whole_folder
from medept.fits import layout
from medept.fits.results import write_metrics
from medept.fits.tables import write_image_predictions, write_predictions, write_subgroups
from medept.fits.training_images import exclude_training_images
from medept.report.fit_page import write_fit_page

logger = logging.getLogger(__name__)

FEW = 20
"""Images or groups of a test set, below which any result says little."""


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
    if out is not None and not (folder / layout.SUPPORT).is_file():
        raise DataError(
            f"{folder / layout.SUPPORT} is missing, and a report needs it: leave out= out, or "
            "give the folder that medept fit wrote"
        )
    classifier.set_params(prevalence=prevalence_of_data(classifier.prevalence, data))
    data = exclude_training_images(data, [folder])
    if out is None:
        return _evaluated(classifier, data)[1]
    with whole_folder(out) as new:
        for name in (layout.ADAPTER_INFO, layout.SUPPORT):
            copyfile(folder / name, new / name)
        evaluation = write_evaluation(classifier, data, new)
        write_fit_page(new, data.pictures())
    return evaluation


def prevalence_of_data(
    prevalence: Mapping[str, float] | str | None, data: LabelledImages
) -> Mapping[str, float] | str | None:
    """A prevalence as it was given, or how common classes are in ``data`` if it is ``data``.

    Raises:
        DataError: if the data lack a class.
    """
    if prevalence != "data":
        return prevalence
    shares = prevalence_in(data.targets, data.classes)
    for name, share in shares.items():
        if not 0 < share < 1:
            raise DataError(
                f"prevalence=data: the data have no case {'without' if share else 'with'} {name}; "
                "give CLASS=P"
            )
    return shares


def write_evaluation(
    classifier: FewShotClassifier, data: LabelledImages, folder: Path
) -> Evaluation:
    """Evaluate on ``data`` and write ``metrics.json`` and ``predictions.csv``.

    Of cases, what their images say is written to ``images.csv``.
    """
    found, evaluation = _evaluated(classifier, data)
    write_metrics(folder, evaluation)
    if evaluation.subgroups is not None:
        write_subgroups(folder, evaluation.subgroups)
    points = classifier.operating_points_
    write_predictions(folder, data, found.probabilities, points, found.sets, found.unfamiliar)
    if data.has_cases:
        file = folder / layout.IMAGE_PREDICTIONS
        write_image_predictions(file, data, found.image_probabilities, found.weights)
    return evaluation


def cut_subgroups(data: LabelledImages, edges: Mapping[str, Sequence[float]]) -> LabelledImages:
    """The data with the numbers of subgroups cut where it is said.

    Args:
        edges: column -> where to cut it; none: at quartiles of the test set, later.

    Raises:
        SettingsError: if a column that is to be cut is not of numbers.
    """
    cut = {
        name: np.array(binned(name, data.subgroups[name], at)) for name, at in edges.items() if at
    }
    return replace(data, subgroups={**data.subgroups, **cut})


def _in_subgroups(
    classifier: FewShotClassifier, data: LabelledImages, probabilities: np.ndarray
) -> Subgroups | None:
    """Metrics in the subgroups that were asked for; None if none were."""
    if not data.subgroups:
        return None
    given = probabilities, data.targets, data.classes, data.groups, classifier.operating_points_
    found = judge_subgroups(data.subgroups, *given)
    few = {f"{one.column} {one.value}" for one in found.each if one.few}
    if few:
        logger.warning("too few cases to say anything of: %s", ", ".join(sorted(few)))
    return found


def warn_of_unfamiliar(classifier: FewShotClassifier, count: int, total: int, units: str) -> None:
    """Say how many are unlike the training images, if they are more than chance would make.

    Args:
        count: how many are.
        total: of how many.
        units: what they are, in words.
    """
    known = classifier.familiarity_
    expected = 0.0 if known is None else known.false_alarms * total
    if count > expected + 2 * np.sqrt(expected):
        logger.warning(
            "%d of %d %s are unlike the training images (column unfamiliar): do not trust what is "
            "predicted of them. Chance would make about %.0f",
            count,
            total,
            units,
            expected,
        )


def _evaluated(
    classifier: FewShotClassifier, data: LabelledImages
) -> tuple[CasePrediction, Evaluation]:
    """Predictions, and the metrics of their probabilities."""
    found = classifier.predict_cases(data.images)
    own = "cases" if data.has_cases else "images"
    units, kind = (data.names, own) if data.groups is None else (data.groups, "groups")
    if (count := len(set(units))) < FEW:
        logger.warning("%d %s to test on: metrics and intervals of so few say little", count, kind)
    evaluation = evaluate(
        found.probabilities,
        data.targets,
        classes=data.classes,
        groups=data.groups,
        seed=classifier.seed,
    )
    predicted = found.probabilities, data.targets, data.classes
    stated, seed = classifier.stated_prevalence(), classifier.seed
    decisions = tuple(
        judged
        for point in classifier.operating_points_
        for judged in judge_point(
            point, *predicted, data.groups, prevalence=point.prevalence(stated, data.classes)
        )
    )
    at_prevalence = None
    if stated is not None:
        at_prevalence = metrics_at_prevalence(*predicted, stated, data.groups, seed=seed)
    sets, contained = classifier.prediction_sets_, found.sets
    covered = None
    if sets is not None and contained is not None:
        covered = judge_sets(sets, contained, data.targets, data.classes, data.groups)
    unfamiliar = None
    if (strange := found.unfamiliar) is not None:
        warn_of_unfamiliar(classifier, int(strange.sum()), len(strange), own)
        unfamiliar = proportion(strange, data.groups)
    evaluation = replace(
        evaluation,
        decisions=decisions,
        sets=covered,
        unfamiliar=unfamiliar,
        subgroups=_in_subgroups(classifier, data, found.probabilities),
        at_prevalence=at_prevalence,
    )
    for name, count in evaluation.few.items():
        logger.warning(
            "%r has %d %s to test on: its intervals may be too narrow", name, count, kind
        )
    return found, evaluation
