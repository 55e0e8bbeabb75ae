"""Compares models on images that none was fitted to: tables, figure 2 of the paper, and gates."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from medept.analysis.feature_plots import distributions
from medept.analysis.gate_report import write_gates
from medept.analysis.model_features import (
    ModelFeatures,
    extract_features,
    main_score,
    open_model,
)
from medept.analysis.tables import as_dict, distribution_table
from medept.classifier.classifier import FewShotClassifier
from medept.data.cases import decode_items
from medept.data.labelled_images import LabelledImages
from medept.errors import DataError, InputError
from medept.evaluation.distribution import project
from medept.evaluation.metrics import Evaluation
from medept.evaluation.predictions import indicators
from medept.files import whole_folder, write_text
from medept.fits import layout
from medept.fits.tables import write_distribution
from medept.fits.training_images import exclude_training_images
from medept.progress import Progress
from medept.report.plots import save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)


def analyse(
    models: Sequence[str],
    data: LabelledImages,
    out: Path,
    *,
    limit: int = 1000,
    chosen: str | None = None,
    embedding: Literal["tsne", "pca"] = "tsne",
    joint: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Compare models on the images that none of them was fitted to, and write all to ``out``.

    Args:
        models: folders of adapters, or names of encoders. Adapters of one method are taken for
            episodes of it. The encoder of an adapter is added as a model before it.
        data: labelled images; only the test images if there are splits. The support images of
            all adapters, and others of their groups, are left out.
        out: a new folder.
        limit: greatest number of images; if there are more, as many are drawn at random.
        chosen: class that figure 2 (a) and (b) show; default: the most frequent.
        embedding: projection of figure 2 (b) and (c).
        joint: whether all panels share one projection and its axes.
        seed: of the draw and the projection.
        progress: called with what is done.

    Returns:
        the content of ``distribution.csv``, one row per model.

    Raises:
        InputError: if a model is neither folder nor encoder, no image is left, or ``out`` exists.
    """
    opened = [open_model(model, progress) for model in models]
    adapters = {
        Path(name): model
        for name, model in zip(models, opened, strict=True)
        if isinstance(model, FewShotClassifier)
    }
    for name, classifier in adapters.items():
        if tuple(classifier.info().classes) != data.classes:
            raise DataError(
                f"{name} predicts {', '.join(classifier.info().classes)}, but the data have "
                f"{', '.join(data.classes)}"
            )
    data = _draw(exclude_training_images(data, list(adapters)), limit, seed)
    if chosen is not None:
        _check_chosen(chosen, data)
    with whole_folder(out) as folder:
        compared = list(extract_features(opened, models, data, progress))
        table = distribution_table(compared, data)
        write_distribution(folder, table)
        text = json.dumps(as_dict(compared, data), indent=2)
        write_text(folder / "analysis.json", text + "\n")
        figure = figure_2(compared, data, chosen, embedding, joint, seed)
        save(figure, folder / layout.FEATURE_FIGURE)
        write_gates(compared, data, folder)
    return table


def analyse_fit(
    classifier: FewShotClassifier,
    data: LabelledImages,
    evaluation: Evaluation,
    folder: Path,
    *,
    limit: int = 200,
) -> None:
    """Write ``figure2.png``, ``distribution.csv`` and, if there are prompts, the gates of a fit.

    Features of a frozen encoder are those of the images as they are, without their other views,
    which would take as long as the predictions. Writes nothing if the test set has images of fewer
    than two classes.

    Args:
        classifier: fitted.
        data: the test set.
        evaluation: of the whole test set, whose score the figure shows.
        folder: of the fit.
        limit: greatest number of images; if there are more, as many are drawn at random.
    """
    data = _draw(data, limit, classifier.seed)
    try:
        found = extract_features([classifier], [classifier.info().method], data, tta=1)
        compared = [replace(x, score=main_score(evaluation) if x.score else {}) for x in found]
    except InputError as reason:
        logger.info("features are not analysed: %s", reason)
        return
    write_distribution(folder, distribution_table(compared, data))
    save(figure_2(compared, data, seed=classifier.seed), folder / layout.FEATURE_FIGURE)
    write_gates(compared, data, folder)


def figure_2(
    models: Sequence[ModelFeatures],
    data: LabelledImages,
    chosen: str | None = None,
    embedding: Literal["tsne", "pca"] = "tsne",
    joint: bool = True,
    seed: int = 0,
) -> Figure:
    """Figure 2 of the paper, of the first model of each name.

    Features of different widths cannot be projected jointly, and are projected one by one.
    """
    first: dict[str, ModelFeatures] = {}
    for model in models:
        first.setdefault(model.name, model)
    features = {name: model.features for name, model in first.items()}
    joint = joint and len({values.shape[1] for values in features.values()}) == 1
    counts = np.bincount(data.targets) if data.targets.ndim == 1 else data.targets.sum(axis=0)
    index = int(counts.argmax()) if chosen is None else data.classes.index(chosen)
    return distributions(
        features,
        project(features, kind=embedding, joint=joint, seed=seed),
        data.targets,
        data.classes,
        index,
        {name: model.title for name, model in first.items()},
        joint=joint,
    )


def _check_chosen(chosen: str, data: LabelledImages) -> None:
    if chosen not in data.classes:
        raise DataError(f"class {chosen!r} is none of {', '.join(data.classes)}")
    has_class = indicators(data.targets, len(data.classes))[:, data.classes.index(chosen)]
    if not has_class.any():
        raise DataError(f"class {chosen!r} has no image left to analyse: choose another")


def _draw(data: LabelledImages, limit: int, seed: int) -> LabelledImages:
    """At most ``limit`` images, drawn at random and decoded once for all models."""
    data = data.sample(limit, seed)
    return replace(data, images=decode_items(data.images))
