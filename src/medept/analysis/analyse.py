"""Models side by side on images that none was fitted to: tables, figure 2, and gates."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

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
from medept.classifier.classifier import FewShotClassifier
from medept.data.images import decode_images
from medept.data.labelled_images import LabelledImages
from medept.errors import DataError, InputError
from medept.evaluation.distribution import plane
from medept.evaluation.metrics import Evaluation
from medept.evaluation.predictions import indicators
from medept.files import whole_folder, write_text
from medept.fits import layout
from medept.fits.tables import write_distribution
from medept.fits.training_images import exclude_training_images
from medept.progress import Progress
from medept.report.plots import save

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
    """Compare models on the images that none of them was fitted to; write all to ``out``.

    Args:
        models: folders of adapters, or names of encoders. Adapters of one method are episodes of
            it. The encoder as it came stands before its adapters.
        data: labelled images; the test rows where there are splits. Support images of the
            adapters, and others of their groups, are left out.
        out: a new folder.
        limit: at most so many images, drawn at random.
        chosen: the class of figure 2 (a) and (b); default: the most frequent.
        embedding: how figure 2 (b) and (c) are projected.
        joint: whether panels share their axes.
        seed: of the draw and the projection.
        progress: called with what is done.

    Returns:
        one row a model: what ``distribution.csv`` holds.

    Raises:
        InputError: if a model is neither, nothing is left to look at, or ``out`` exists.
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
    data = exclude_training_images(data, list(adapters))
    data = _sample(data, limit, seed)
    if chosen is not None:
        if chosen not in data.classes:
            raise DataError(f"class {chosen!r} is none of {', '.join(data.classes)}")
        has = indicators(data.targets, len(data.classes))[:, data.classes.index(chosen)]
        if not has.any():
            raise DataError(f"class {chosen!r} has no image left to look at: choose another")
    with whole_folder(out) as folder:
        looks = list(extract_features(opened, models, data, progress))
        table = describe(looks, data)
        write_distribution(folder, table)
        write_text(folder / "analysis.json", json.dumps(_as_dict(looks, data), indent=2) + "\n")
        save(figure_2(looks, data, chosen, embedding, joint, seed), folder / layout.FEATURE_FIGURE)
        write_gates(looks, data, folder)
    return table


def look_into_fit(
    classifier: FewShotClassifier,
    data: LabelledImages,
    evaluation: Evaluation,
    folder: Path,
    *,
    limit: int = 200,
) -> None:
    """``figure2.png``, ``distribution.csv`` and, with prompts, the gates of one fit.

    Nothing where the test set has fewer than two classes, or next to no images.

    Args:
        classifier: fitted.
        data: the test set.
        evaluation: of all of it: the score that the figure shows.
        folder: of the fit.
        limit: features of so many images at most are looked at, drawn at random.
    """
    data = _sample(data, limit, classifier.seed)
    try:
        found = extract_features([classifier], [classifier.method], data)
        looks = [replace(x, score=main_score(evaluation) if x.score else {}) for x in found]
    except InputError as reason:
        logger.info("The distribution of features is not looked at: %s", reason)
        return
    write_distribution(folder, describe(looks, data))
    save(figure_2(looks, data, seed=classifier.seed), folder / layout.FEATURE_FIGURE)
    write_gates(looks, data, folder)


def describe(looks: Sequence[ModelFeatures], data: LabelledImages) -> pd.DataFrame:
    """One row a model; after the numbers, an adapter's change against its encoder as it came.

    The trace within classes changes by the factor ``scale_factor`` (of the whole scatter: lengths
    alone) times ``shape_factor`` (of its share of the scatter: what is left at equal scale).
    """
    rows = []
    for look in looks:
        row: dict[str, Any] = {"model": look.name, "source": look.source, "n": len(data)}
        row |= look.score | look.distribution.numbers()
        if look.pretrained is not None:
            now, before = look.distribution, look.pretrained
            row["scale_factor"] = _factor(now.trace + now.between, before.trace + before.between)
            row["shape_factor"] = _factor(now.equal_scale_trace, before.equal_scale_trace)
        rows.append(row)
    table = pd.DataFrame(rows)
    last = [name for name in ("balanced_accuracy", "map") if name in table]
    return table[[*table.columns.drop(last), *last]]


def _factor(now: float, before: float) -> float:
    """By what a number changed; NaN where it was 0, as within classes of one image each."""
    return now / before if before else float("nan")


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """What :func:`describe` found as text: numbers down, models across, mean ± deviation."""
    columns = {}
    for name, rows in table.groupby("model", sort=False):
        columns[str(name)] = {
            key: _mean_and_spread(rows[key].dropna())
            for key in table.columns.drop(["model", "source", "n"])
        }
    return pd.DataFrame(columns)


def figure_2(
    looks: Sequence[ModelFeatures],
    data: LabelledImages,
    chosen: str | None = None,
    embedding: Literal["tsne", "pca"] = "tsne",
    joint: bool = True,
    seed: int = 0,
) -> Any:
    """The paper's figure 2, of the first model of each name; widths that differ share no plane."""
    first: dict[str, ModelFeatures] = {}
    for look in looks:
        first.setdefault(look.name, look)
    features = {name: look.features for name, look in first.items()}
    joint = joint and len({values.shape[1] for values in features.values()}) == 1
    counts = np.bincount(data.targets) if data.targets.ndim == 1 else data.targets.sum(axis=0)
    index = int(counts.argmax()) if chosen is None else data.classes.index(chosen)
    return distributions(
        features,
        plane(features, kind=embedding, joint=joint, seed=seed),
        data.targets,
        data.classes,
        index,
        {name: look.title for name, look in first.items()},
        joint=joint,
    )


def _mean_and_spread(values: pd.Series) -> str:
    spread = f" ± {values.std():.2g}" if len(values) > 1 else ""
    return f"{values.mean():.4g}{spread}" if len(values) else ""


# --- parts -----------------------------------------------------------------------------------


def _sample(data: LabelledImages, limit: int, seed: int) -> LabelledImages:
    """At most ``limit`` images, decoded once for all who look at them."""
    if len(data) > limit:
        chosen = np.random.default_rng(seed).permutation(len(data))[:limit]
        data = data.subset(np.sort(chosen))
    return replace(data, images=decode_images(data.images))


def _as_dict(looks: Sequence[ModelFeatures], data: LabelledImages) -> dict[str, Any]:
    return {
        "images": len(data),
        "classes": list(data.classes),
        "models": [
            {"model": look.name, "source": look.source} | look.score | asdict(look.distribution)
            for look in looks
        ],
    }
