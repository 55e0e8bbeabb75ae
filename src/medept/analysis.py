"""Looking into models: how their features are distributed, and what their prompts turn down."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from medept.adapter import DESCRIPTION
from medept.classifier import FewShotClassifier
from medept.data.images import read_image
from medept.data.table import LabelledImages
from medept.errors import InputError
from medept.evaluation.distribution import Distribution, describe_distribution, plane
from medept.evaluation.metrics import evaluate
from medept.evaluation.scaling import Scaling, has_gates, patch_scaling
from medept.files import whole_folder, write_table, write_text
from medept.report import plots
from medept.training.loop import Progress
from medept.training.views import Views

PRETRAINED = "pretrained"
EXAMPLES = 6
"""Images whose gates are drawn."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Look:
    """What one model makes of the images.

    Attributes:
        name: what it is called in tables and figures: its method, or ``pretrained``.
        source: the adapter's folder, or the encoder.
        features: (n, D).
        probabilities: (n, C); None for an encoder as it came.
        distribution: of the features.
    """

    name: str
    source: str
    features: np.ndarray
    probabilities: np.ndarray | None
    distribution: Distribution

    def accuracy(self, data: LabelledImages) -> dict[str, float]:
        """The metric that goes with the task: ``balanced_accuracy``, or ``map``."""
        if self.probabilities is None:
            return {}
        found = evaluate(self.probabilities, data.targets, classes=data.classes, resamples=0)
        name = "map" if data.task == "multilabel" else "balanced_accuracy"
        value = found.metrics[name].value
        return {} if value is None else {name: value}

    def title(self, data: LabelledImages) -> str:
        """Of its panel: the accuracy, or, of an encoder as it came, its neighbours' purity."""
        for name, value in self.accuracy(data).items():
            return f"{self.name}: {name.replace('_', ' ')} {value:.2f}"
        purity = self.distribution.purity
        return self.name if purity is None else f"{self.name}: neighbours' purity {purity:.2f}"


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
    classifiers = [_open(model, progress) for model in models]
    for model, classifier in zip(models, classifiers, strict=True):
        if _fitted(classifier) and tuple(classifier.classes_) != data.classes:
            raise InputError(
                f"{model} tells {', '.join(map(str, classifier.classes_))}, but the data have "
                f"{', '.join(data.classes)}"
            )
    data = unseen(data, [Path(m) for m, c in zip(models, classifiers, strict=True) if _fitted(c)])
    data = _sample(data, limit, seed)
    if chosen is not None and chosen not in data.classes:
        raise InputError(f"class {chosen!r} is none of {', '.join(data.classes)}")
    with whole_folder(out) as folder:
        looks = list(_looks(classifiers, models, data))
        table = describe(looks, data)
        write_table(folder / "distribution.csv", table)
        write_text(folder / "analysis.json", json.dumps(_as_dict(looks, data), indent=2) + "\n")
        shown = list({look.name: look for look in reversed(looks)}.values())[::-1]
        figure = figure_2(shown, data, chosen, embedding, joint, seed)
        plots.save(figure, folder / "figure2.png")
        _write_gates(classifiers, looks, data, folder)
    return table


def look_into_fit(
    classifier: FewShotClassifier, data: LabelledImages, folder: Path, *, limit: int = 200
) -> None:
    """``figure2.png``, ``distribution.csv`` and, with prompts, ``gates.png`` of one fit.

    Nothing where the test set has fewer than two classes, or next to no images.
    """
    data = _sample(data, limit, classifier.seed)
    try:
        looks = list(_looks([classifier], [classifier.method], data))
    except InputError as reason:
        log.info("The distribution of features is not looked at: %s", reason)
        return
    write_table(folder / "distribution.csv", describe(looks, data))
    plots.save(figure_2(looks, data, seed=classifier.seed), folder / "figure2.png")
    _write_gates([classifier], looks, data, folder)


def describe(looks: Sequence[Look], data: LabelledImages) -> pd.DataFrame:
    """One row a model; after the numbers, an adapter's change against its encoder as it came.

    The trace within classes changes by the factor ``scale_factor`` (of the whole scatter: lengths
    alone) times ``shape_factor`` (of its share of the scatter: what is left at equal scale).
    """
    rows = []
    for look in looks:
        row: dict[str, Any] = {"model": look.name, "source": look.source, "n": len(data)}
        row |= look.accuracy(data) | look.distribution.numbers()
        if look.name == PRETRAINED:
            before = look.distribution
        else:
            now = look.distribution
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
    looks: Sequence[Look],
    data: LabelledImages,
    chosen: str | None = None,
    embedding: Literal["tsne", "pca"] = "tsne",
    joint: bool = True,
    seed: int = 0,
) -> Any:
    """The paper's figure 2 of these models; separate planes where widths differ."""
    features = {look.name: look.features for look in looks}
    joint = joint and len({values.shape[1] for values in features.values()}) == 1
    counts = np.bincount(data.targets) if data.targets.ndim == 1 else data.targets.sum(axis=0)
    index = int(counts.argmax()) if chosen is None else data.classes.index(chosen)
    return plots.distributions(
        features,
        plane(features, kind=embedding, joint=joint, seed=seed),
        data.targets,
        data.classes,
        index,
        {look.name: look.title(data) for look in looks},
    )


def scaling_of(classifier: FewShotClassifier, images: Sequence[Any]) -> Scaling:
    """Gates and rollout of images by a fitted classifier.

    Raises:
        InputError: if its method has no gates.
    """
    views = Views(images, classifier.model_.encoder.preprocessing)
    batches = (
        torch.stack([views.plain(i) for i in range(start, min(start + 16, len(views)))])
        for start in range(0, len(views), 16)
    )
    return patch_scaling(classifier.model_, batches)


def _mean_and_spread(values: pd.Series) -> str:
    spread = f" ± {values.std():.2g}" if len(values) > 1 else ""
    return f"{values.mean():.4g}{spread}" if len(values) else ""


# --- parts -----------------------------------------------------------------------------------


def _open(model: str, progress: Progress | None) -> FewShotClassifier:
    if (Path(model) / DESCRIPTION).exists():
        return FewShotClassifier.load(model, progress=progress)
    if Path(model).exists():
        raise InputError(f"{model}: no adapter here ({DESCRIPTION} is missing)")
    return FewShotClassifier(model, progress=progress)


def _fitted(classifier: FewShotClassifier) -> bool:
    return hasattr(classifier, "model_")


def unseen(data: LabelledImages, folders: Sequence[Path]) -> LabelledImages:
    """Without support images of the adapters and, where there are groups, others of theirs.

    With a ``split`` column, of its test rows alone. How many are left out is logged.

    Raises:
        InputError: if none is left.
    """
    left = np.ones(len(data), bool) if data.splits is None else np.equal(data.splits, "test")
    if not left.any():
        raise InputError("the split column has no row of test; it needs some")
    wanted = left.sum()
    for folder in folders:
        file = folder / "support.csv"
        if not file.exists():
            log.warning("%s is missing: images it was fitted to cannot be left out", file)
            continue
        names = set(pd.read_csv(file, dtype=str)["image"])
        seen = np.array([name in names for name in data.names])
        if data.groups is not None:
            seen = np.isin(data.groups, data.groups[seen])
        left &= ~seen
    if not left.any():
        raise InputError("no image is left that none of the models was fitted to")
    if left.sum() < wanted:
        log.info(
            "%d images are left out: they, or others of their groups, were learnt from",
            wanted - left.sum(),
        )
    return data.subset(np.flatnonzero(left))


def _sample(data: LabelledImages, limit: int, seed: int) -> LabelledImages:
    if len(data) <= limit:
        return data
    return data.subset(np.sort(np.random.default_rng(seed).permutation(len(data))[:limit]))


def _looks(
    classifiers: Sequence[FewShotClassifier], sources: Sequence[str], data: LabelledImages
) -> Any:
    """Each model's, after that of its encoder as it came."""
    seen: dict[str, np.ndarray] = {}
    for classifier, source in zip(classifiers, sources, strict=True):
        if not _fitted(classifier):
            yield _look(PRETRAINED, source, classifier.embed(data.images), None, data)
            continue
        key = json.dumps(classifier.model_.encoder_identity, sort_keys=True)
        if key not in seen:
            plain = FewShotClassifier(
                classifier.encoder,
                encoder_weights=classifier.encoder_weights,
                image_size=classifier.model_.encoder.preprocessing.size[0],
                device=classifier.device,
                precision=classifier.precision,
                progress=classifier.progress,
            )
            seen[key] = plain.embed(data.images)
            yield _look(PRETRAINED, classifier.encoder, seen[key], None, data)
        moved = classifier.model_.trains_encoder
        features = classifier.embed(data.images) if moved else seen[key]
        probabilities = classifier.predict_proba_of_features(features)
        yield _look(classifier.method, source, features, probabilities, data)


def _look(
    name: str,
    source: str,
    features: np.ndarray,
    probabilities: np.ndarray | None,
    data: LabelledImages,
) -> Look:
    found = describe_distribution(features, data.targets, data.classes)
    return Look(name, source, features, probabilities, found)


def _as_dict(looks: Sequence[Look], data: LabelledImages) -> dict[str, Any]:
    return {
        "images": len(data),
        "classes": list(data.classes),
        "models": [
            {"model": look.name, "source": look.source}
            | look.accuracy(data)
            | asdict(look.distribution)
            for look in looks
        ],
    }


def _write_gates(
    classifiers: Sequence[FewShotClassifier],
    looks: Sequence[Look],
    data: LabelledImages,
    folder: Path,
) -> None:
    """Pictures of the first model with gates, and the gates' distribution of all that have them."""
    fitted = [look for look in looks if look.probabilities is not None]
    adapted = [c for c in classifiers if _fitted(c)]
    found = [(c, k) for c, k in zip(adapted, fitted, strict=True) if has_gates(c.model_)]
    if not found:
        return
    classifier, look = found[0]
    rows, titles = _examples(look.probabilities, data)
    scaling = scaling_of(classifier, [data.images[i] for i in rows])
    figure = plots.gate_maps(
        [_square(data.images[i]) for i in rows],
        scaling.gate_maps().mean(axis=2),
        scaling.rollout_maps(),
        titles=titles,
        layers=scaling.layers,
    )
    plots.save(figure, folder / "gates.png")
    every = {Path(k.source).name or k.name: scaling_of(c, data.images) for c, k in found}
    plots.save(
        plots.gates_by_layer(
            {name: one.gates for name, one in every.items()},
            {name: one.layers for name, one in every.items()},
        ),
        folder / "gates-by-layer.png",
    )
    write_table(folder / "gates.csv", _gates_table(every, data))


def _gates_table(every: dict[str, Scaling], data: LabelledImages) -> pd.DataFrame:
    """One row an image and layer: the mean gate of its patches, and which patch is turned down."""
    rows = []
    for name, scaling in every.items():
        maps = scaling.gate_maps().mean(axis=2)
        for image, layers in zip(data.names, maps, strict=True):
            for layer, gate in zip(scaling.layers, layers, strict=True):
                row, column = np.unravel_index(gate.argmin(), gate.shape)
                rows.append(
                    {
                        "model": name,
                        "image": image,
                        "layer": layer,
                        "mean_gate": float(gate.mean()),
                        "least_gate": float(gate.min()),
                        "least_row": int(row),
                        "least_column": int(column),
                    }
                )
    table = pd.DataFrame(rows)
    order = table.groupby(["model", "image"])["mean_gate"].transform("mean")
    return (
        table.assign(order=order)
        .sort_values(["model", "order", "image", "layer"])
        .drop(columns="order")
    )


def _examples(probabilities: Any, data: LabelledImages) -> tuple[list[int], list[str]]:
    """Rows of the surest right and wrong images, at the threshold that decides, and titles."""
    sure = probabilities.max(axis=1)
    if data.task == "multilabel":
        right = ((probabilities >= 0.5) == data.targets).all(axis=1)
    else:
        right = probabilities.argmax(axis=1) == data.targets
    rows, titles = [], []
    for word, which in (("right", right), ("wrong", ~right)):
        order = np.flatnonzero(which)
        for i in order[np.argsort(-sure[order], kind="stable")][: EXAMPLES // 2]:
            rows.append(int(i))
            titles.append(f"{word},\np = {sure[i]:.2f}")
    return rows, titles


def _square(image: Any, pixels: int = 160) -> np.ndarray:
    """As the encoder's resizing shows it: the middle square, small."""
    from PIL import ImageOps

    return np.asarray(ImageOps.fit(read_image(image), (pixels, pixels)))
