"""What the verbs of the command line do, as functions: fit, check, predict, evaluate, embed.

Each writes its files into a temporary place beside the one asked for and moves them there when
all is done: a job that is killed leaves nothing half-written.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np
import pandas as pd
import torch

from medept.adapter import DESCRIPTION, AdapterInfo
from medept.analysis import look_into_fit, unseen
from medept.classifier import FewShotClassifier
from medept.data.check import Check, quick_check
from medept.data.check import check as look_through
from medept.data.episodes import draw_episode, read_episode
from medept.data.images import original_hash, readable
from medept.data.sources import named_source
from medept.data.sources.medfmc import MedFMC
from medept.data.submission import read_submission, write_submission
from medept.data.table import LabelledImages, label_text
from medept.errors import InputError
from medept.evaluation.decisions import decide
from medept.evaluation.metrics import Evaluation, evaluate
from medept.files import refuse_folder, whole_file, whole_folder, write_table, write_text
from medept.loading import load_encoder
from medept.progress import Progress, is_main_process, silent
from medept.report.fit_page import write_fit_page
from medept.report.model_card import model_card
from medept.training.checkpoint import remove_checkpoint
from medept.training.device import make_accelerator

logger = logging.getLogger(__name__)


FEW = 20
"""Images or groups of a test set, below which bootstrap intervals are known to be too narrow."""


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
) -> FitResult:
    """Draw a support set, fit, evaluate on the rest, and write all files of the fit to ``out``.

    Under ``accelerate launch`` every process trains, and the first one evaluates and writes.

    Args:
        shots: groups (or images, where there are no groups) of each class; None for all.
        episode: a list of the support set, instead of a draw.

    Raises:
        InputError: if ``out`` exists already, or the data cannot be used.
    """
    refuse_folder(out)
    checkpoint = out.absolute().with_name(f".{out.name}.checkpoint.safetensors")
    support, test = draw(data, classifier, shots, episode)
    _say_what_is_unused(data)
    if not len(test):
        logger.warning("no test images, and so no metrics: %s", _why_no_test(shots, episode))
    _warn_of_unlearnt(support)
    if not is_main_process():
        fit_support(classifier, support, checkpoint)
        return FitResult(out, classifier.info(), None, len(support), len(test))
    with whole_folder(out) as folder:
        findings = warned(support, test)
        fit_support(classifier, support, checkpoint)
        classifier.save(folder)
        info = classifier.info()
        if classifier.history_:  # methods that are fitted at once have no epochs
            write_table(folder / "history.csv", pd.DataFrame(classifier.history_))
        hashes = [original_hash(image) for image in support.images]
        write_table(folder / "support.csv", describe_rows(support).assign(sha256=hashes))
        evaluation = write_evaluation(classifier, test, folder) if len(test) else None
        if evaluation:
            look_into_fit(classifier, test, evaluation, folder)
        write_text(folder / "README.md", model_card(info, support.groups, evaluation))
        write_text(folder / "check.json", json.dumps(findings, indent=2) + "\n")
        write_fit_page(folder, dict(zip(data.names, data.images, strict=True)))
    remove_checkpoint(checkpoint)
    return FitResult(out, info, evaluation, len(support), len(test))


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
        return "give --shots K, or a table with a `split` column"
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
            raise InputError(f"{finding.notes[0]}{more}")
        logger.warning("%s. %s `medept check` shows them.", finding.title, finding.advice)
    return [{"title": one.title, "advice": one.advice, "flatters": one.flatters} for one in found]


def check(data: LabelledImages, *, device: str = "auto", progress: Progress = silent) -> Check:
    """Look through a data set, its labels by features of the embedded encoder."""
    return look_through(data, _FrozenFeatures(device), progress=progress)


class _FrozenFeatures:
    """What the check of labels asks for, of the embedded encoder."""

    def __init__(self, device: str) -> None:
        self.device = make_accelerator(device, "float32").device
        self.encoder = load_encoder().to(self.device)
        self.prepare = self.encoder.preprocessing.evaluation()

    def features(self, prepared: list[torch.Tensor]) -> np.ndarray:
        with torch.inference_mode():
            return self.encoder(torch.stack(prepared).to(self.device)).float().cpu().numpy()


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
        raise InputError(
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


def predict(
    classifier: FewShotClassifier,
    images: Sequence[Path],
    out: Path,
    *,
    skip_unreadable: bool = False,
) -> pd.DataFrame:
    """Probabilities of each image, written to the new table ``out``: .csv or .parquet.

    Args:
        skip_unreadable: leave out images that cannot be read, with a warning for each.

    Raises:
        InputError: if ``out`` has another suffix or exists, or an image that is not skipped, or
            every one, cannot be read.
    """
    _refuse(out, "predictions", ".csv", ".parquet")
    if skip_unreadable:
        images = readable(images)
    probabilities = classifier.predict_proba(images)
    classes = tuple(classifier.info().classes)
    table = pd.DataFrame({"image": [str(image) for image in images]}).join(
        describe_predictions(probabilities, classes, classifier.task_)
    )
    write_table(out, table)
    return table


def predict_submission(
    classifier: FewShotClassifier, source: str, names: str, out: Path
) -> pd.DataFrame:
    """Predict the images of a list of ``medfmc-TASK:FOLDER``; a submission of the challenge.

    Raises:
        InputError: if the data set is another, the classifier has other classes, or ``out`` exists.
    """
    _refuse(out, "submissions", ".csv")
    task, folder = _medfmc(source)
    classes = tuple(classifier.info().classes)
    if classes != task.classes:
        raise InputError(
            f"{task.name} has the classes {', '.join(task.classes)}, but the adapter has "
            f"{', '.join(classes)}: fit it to {task.name}:FOLDER"
        )
    listed = task.listed(folder, names)
    probabilities = classifier.predict_proba(task.locate(folder, listed))
    write_submission(out, listed, probabilities)
    return pd.DataFrame({"image": listed}).join(
        describe_predictions(probabilities, classes, classifier.task_)
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
        raise InputError(f"{source}: submissions are of medfmc-TASK:FOLDER; see `medept datasets`")
    return found[0], found[1]


def embed(classifier: FewShotClassifier, images: Sequence[Path], out: Path) -> np.ndarray:
    """Features of each image, written to the new file ``out``.

    Args:
        out: .npy (n, D), or .csv or .parquet with the images' names.

    Raises:
        InputError: if ``out`` has another suffix or exists.
    """
    _refuse(out, "features", ".npy", ".csv", ".parquet")
    features = classifier.embed(images)
    if out.suffix == ".npy":
        with whole_file(out) as partial, partial.open("wb") as file:
            np.save(file, features)
    else:
        table = pd.DataFrame(features, columns=[f"f{i}" for i in range(features.shape[1])])
        table.insert(0, "image", [str(image) for image in images])
        write_table(out, table)
    return features


def _refuse(out: Path, what: str, *suffixes: str) -> None:
    """Before anything is computed: a file of another kind, or one that is there already."""
    if out.suffix not in suffixes:
        raise InputError(f"{out}: {what} are written as {' or '.join(suffixes)}")
    if out.exists():
        raise InputError(f"{out}: exists already; name another or remove it")


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
