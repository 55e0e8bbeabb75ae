"""What the verbs of the command line do, as functions: fit, check, predict, evaluate, embed.

Each writes its files into a temporary place beside the one asked for and moves them there when
all is done: a job that is killed leaves nothing half-written.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medept.analysis import analyse_fit
from medept.checks.check import quick_check
from medept.classifier.classifier import FewShotClassifier
from medept.data.cases import decode_items, images_of
from medept.data.images import MEMORY_FOR_DECODED_IMAGES
from medept.data.labelled_images import LabelledImages
from medept.episodes.draw import draw_episode
from medept.episodes.lists import read_episode
from medept.errors import DataError
from medept.evaluation.metrics import Evaluation
from medept.files import require_new_folder, whole_folder, write_text
from medept.fits import layout
from medept.fits.adapter import AdapterInfo
from medept.fits.results import write_findings
from medept.fits.tables import write_history, write_predictions, write_support
from medept.fits.training_images import exclude_training_images
from medept.progress import is_main_process
from medept.report.fit_page import write_fit_page
from medept.report.model_card import model_card
from medept.training.checkpoint import remove_checkpoint
from medept.workflows.evaluate import prevalence_of_data, write_evaluation

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitResult:
    """A fit: where it was written, what it is, and how it did on the test set (if there is one)."""

    folder: Path
    info: AdapterInfo
    evaluation: Evaluation | None
    support: int
    test: int


def fit(
    data: LabelledImages,
    out: Path,
    classifier: FewShotClassifier,
    *,
    shots: int | float | None,
    episode: Path | None = None,
    calibrate_on: LabelledImages | None = None,
) -> FitResult:
    """Draw a support set, fit, evaluate on the rest, and write all files of the fit to ``out``.

    Under ``accelerate launch`` every process trains, and the first one evaluates and writes.

    Args:
        shots: groups (or images, where there are no groups) of each class; None for all.
        episode: a list of the support set, instead of a draw.
        calibrate_on: labelled images of further patients, on which the thresholds of prediction
            sets are found instead of on held-out folds of the support set.

    Raises:
        InputError: if ``out`` exists already, or the data cannot be used.
    """
    require_new_folder(out)
    checkpoint = out.absolute().with_name(f".{out.name}.checkpoint.safetensors")
    classifier.set_params(prevalence=prevalence_of_data(classifier.prevalence, data))
    support, test = draw(data, classifier, shots, episode)
    _say_what_is_unused(data)
    if not len(test):
        logger.warning("no test images, and so no metrics: %s", _why_no_test(shots, episode))
    _warn_of_unlearnt(support)
    files = support  # images below are decoded once, for the check, the fit and the report alike
    support, test = _decoded(support, test)
    if not is_main_process():
        fit_support(classifier, support, checkpoint)
        return FitResult(out, classifier.info(), None, len(support), len(test))
    with whole_folder(out) as folder:
        findings = warned(support, test)
        fit_support(classifier, support, checkpoint)
        classifier.save(folder)
        info = classifier.info()
        write_history(folder, classifier.history_)
        write_support(folder, files)
        if calibrate_on is not None:
            _calibrate_sets(classifier, calibrate_on, test, folder)
        if (sets := classifier.prediction_sets_) is not None:
            logger.info(sets.note(info.classes))
        if (known := classifier.familiarity_) is not None:
            logger.info(known.note())
        if (held := classifier.held_out_) is not None:
            points = classifier.operating_points_
            write_predictions(folder, files, held.probabilities, points, file=layout.HELD_OUT)
        evaluation = write_evaluation(classifier, test, folder) if len(test) else None
        if evaluation:
            analyse_fit(classifier, test, evaluation, folder)
        write_text(folder / layout.MODEL_CARD, model_card(info, support.groups, evaluation))
        write_findings(folder, findings)
        write_fit_page(folder, test.pictures() | support.pictures())
    remove_checkpoint(checkpoint)
    return FitResult(out, info, evaluation, len(support), len(test))


def _calibrate_sets(
    classifier: FewShotClassifier, data: LabelledImages, test: LabelledImages, folder: Path
) -> None:
    """Find the thresholds of prediction sets on patients that are neither trained nor tested on."""
    own = exclude_training_images(data, [folder])
    tested = np.isin(own.names, test.names)
    if own.groups is not None and test.groups is not None:
        tested |= np.isin(own.groups, test.groups)
    if tested.all():
        raise DataError("calibrate_on= has no other images than those to test on: leave it out")
    if tested.any():
        logger.warning("calibrate_on= shares %d images with the test set: left out", tested.sum())
    own = own.subset(np.flatnonzero(~tested))
    classifier.calibrate_sets(own.images, own.labels, groups=own.groups)
    classifier.save(folder)


def _decoded(*parts: LabelledImages) -> Iterator[LabelledImages]:
    """Data sets with their images in memory, as far as there is room for them."""
    room = MEMORY_FOR_DECODED_IMAGES
    for part in parts:
        items = decode_items(part.images, room)
        room -= sum(image.nbytes for image in images_of(items) if isinstance(image, np.ndarray))
        yield replace(part, images=items)


def fit_episode(
    data: LabelledImages, classifier: FewShotClassifier, shots: int | float | None
) -> tuple[LabelledImages, LabelledImages]:
    """Draw an episode by the classifier's seed, and fit it; its support and test sets."""
    support, test = draw(data, classifier, shots)
    fit_support(classifier, support)
    return support, test


def draw(
    data: LabelledImages,
    classifier: FewShotClassifier,
    shots: int | float | None,
    episode: Path | None = None,
) -> tuple[LabelledImages, LabelledImages]:
    """Support and test set: drawn by the classifier's seed, or read from a list."""
    if episode is None:
        drawn = draw_episode(data, shots, seed=classifier.seed)
    else:
        drawn = read_episode(data, episode)
    return data.subset(drawn.support), data.subset(drawn.test)


def fit_support(
    classifier: FewShotClassifier, support: LabelledImages, checkpoint: Path | None = None
) -> None:
    """Fit to a support set, with all classes of its data."""
    classifier.fit(
        support.images,
        support.labels,
        groups=support.groups,
        classes=support.classes,
        checkpoint=checkpoint,
    )


def _say_what_is_unused(data: LabelledImages) -> None:
    count = 0 if data.splits is None else int(np.equal(data.splits, "val").sum())
    if count:
        logger.info("%d val images are not used: settings are chosen inside the support set", count)


def _why_no_test(shots: int | float | None, episode: Path | None) -> str:
    if shots is None and episode is None:
        return "give shots=K, or a table with a `split` column"
    return "every image, or another of its group, is a support image"


def _warn_of_unlearnt(support: LabelledImages) -> None:
    multilabel = support.task == "multilabel"
    learnt = np.flatnonzero(support.targets.any(axis=0)) if multilabel else support.targets
    for c in set(range(len(support.classes))).difference(learnt.tolist()):
        logger.warning("class %r has no image to learn from", support.classes[c])


def warned(support: LabelledImages, test: LabelledImages) -> list[dict[str, Any]]:
    """What a quick look through both sets finds, logged, and as it stands in ``check.json``.

    Raises:
        InputError: if an image cannot be read; now, and not when training is done.
    """
    _, first = np.unique(support.names, return_index=True)  # official lists name some twice
    found = quick_check(support.subset(np.sort(first)), test)
    for finding in found:
        if finding.kind == "unreadable":
            more = f" ({finding.title})" if len(finding.notes) > 1 else ""
            raise DataError(f"{finding.notes[0]}{more}")
        logger.warning("%s. %s `medept check` shows them.", finding.title, finding.advice)
    return [{"title": one.title, "advice": one.advice, "flatters": one.flatters} for one in found]
