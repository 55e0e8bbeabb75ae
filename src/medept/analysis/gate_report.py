"""Which patches, tokens and images the prompts of a model turn down: pictures and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medept.analysis import gate_plots
from medept.analysis.gates import Scaling, has_gates, patch_scaling
from medept.analysis.model_features import ModelFeatures
from medept.classifier.classifier import FewShotClassifier
from medept.data.images import read_image
from medept.data.labelled_images import LabelledImages, label_text
from medept.evaluation.predictions import confidence, decide, is_correct
from medept.files import write_table
from medept.fits import layout
from medept.report.plots import save
from medept.training.inference import pixel_batches

EXAMPLES = 2
"""Images of each kind whose gates are drawn."""


def scaling_of(classifier: FewShotClassifier, images: Sequence[Any]) -> Scaling:
    """Gates and rollout of images by a fitted classifier.

    Raises:
        InputError: if its method has no gates.
    """
    model = classifier.model_
    return patch_scaling(model, pixel_batches(images, model.encoder.preprocessing, 16))


def write_gates(looks: Sequence[ModelFeatures], data: LabelledImages, folder: Path) -> None:
    """Pictures of the first model with gates, and the gates of all that have them.

    ``gates.png`` (images and layers), ``gates-by-head.png`` (one image), ``gates-by-layer.png``
    and ``gates.csv``; nothing where no model has gates.
    """
    having = [
        (look, look.model)
        for look in looks
        if isinstance(look.model, FewShotClassifier) and has_gates(look.model.model_)
    ]
    if not having:
        return
    short = {Path(look.source).name for look, _ in having}
    distinct = len(short) == len(having)
    gated = {Path(x.source).name if distinct else str(x.source): x for x, _ in having}
    every = {
        name: scaling_of(classifier, data.images)
        for name, (_, classifier) in zip(gated, having, strict=True)
    }
    name, look = next(iter(gated.items()))
    _draw(every[name], look, data, folder)
    by_layer = gate_plots.gates_by_layer(
        {name: scaling.gates for name, scaling in every.items()},
        {name: scaling.layers for name, scaling in every.items()},
    )
    save(by_layer, folder / layout.GATES_BY_LAYER)
    write_table(folder / layout.GATES, gates_table(every, data.names))


def gates_table(every: Mapping[str, Scaling], images: Sequence[str]) -> pd.DataFrame:
    """One row a model, image and layer; the images that are scaled most first.

    Columns: the mean gate of the image's patches, the least one and where it is, and the mean
    gate of the tokens that have no place in the image (class token, registers; NaN without).
    """
    rows = []
    for name, scaling in every.items():
        maps, other = scaling.gate_maps().mean(axis=2), scaling.gates[..., : scaling.prefix]
        for n, image in enumerate(images):
            for k, layer in enumerate(scaling.layers):
                gate = maps[n, k]
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
                        "class_token_gate": float(other[n, k].mean()) if scaling.prefix else np.nan,
                    }
                )
    table = pd.DataFrame(rows)
    order = table.groupby(["model", "image"])["mean_gate"].transform("mean")
    ordered = table.assign(order=order).sort_values(["model", "order", "image", "layer"])
    return ordered.drop(columns="order")


def _draw(scaling: Scaling, look: ModelFeatures, data: LabelledImages, folder: Path) -> None:
    maps, rollout = scaling.gate_maps(), scaling.rollout_maps()
    rows = _examples(look, scaling, data)
    means = maps.mean(axis=2)
    figure = gate_plots.gate_maps(
        [None, *(_square(data.images[i]) for i in rows)],
        np.concatenate([means.mean(axis=0, keepdims=True), means[list(rows)]]),
        np.concatenate([rollout.mean(axis=0, keepdims=True), rollout[list(rows)]]),
        titles=[f"mean of\n{len(data)} images", *rows.values()],
        layers=scaling.layers,
    )
    save(figure, folder / layout.GATE_MAPS)
    first, title = next(iter(rows.items()))
    figure = gate_plots.gates_by_head(
        _square(data.images[first]), maps[first], title=title, layers=scaling.layers
    )
    save(figure, folder / layout.GATES_BY_HEAD)


def _examples(look: ModelFeatures, scaling: Scaling, data: LabelledImages) -> dict[int, str]:
    """Rows to draw and their titles: the most confident, correct and not; scaled most, least."""
    probabilities = np.asarray(look.probabilities)
    predicted, sure = decide(probabilities, data.task), confidence(probabilities, data.task)
    correct = is_correct(probabilities, data.targets)
    gate = scaling.gate_maps().mean(axis=(1, 2, 3, 4))
    kinds = {
        "correct": np.flatnonzero(correct)[np.argsort(-sure[correct], kind="stable")],
        "misclassified": np.flatnonzero(~correct)[np.argsort(-sure[~correct], kind="stable")],
        "scaled most": np.argsort(gate, kind="stable"),
        "scaled least": np.argsort(-gate, kind="stable"),
    }
    found: dict[int, str] = {}
    for kind, order in kinds.items():
        for i in [int(i) for i in order if int(i) not in found][:EXAMPLES]:
            detail = f"gate {gate[i]:.2f}" if kind.startswith("scaled") else f"{sure[i]:.2f}"
            truth = label_text(data.targets[i], data.classes)
            lines = [kind, f"{label_text(predicted[i], data.classes)}, {detail}"]
            found[i] = "\n".join(lines if correct[i] else [*lines, f"truth: {truth}"])
    return found


def _square(image: Any, pixels: int = 160) -> np.ndarray:
    """As the encoder's resizing shows it: the middle square, small."""
    from PIL import ImageOps

    return np.asarray(ImageOps.fit(read_image(image), (pixels, pixels)))
