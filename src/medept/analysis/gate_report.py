"""Figures and a table of which patches, tokens and images the prompts of a model suppress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medept.analysis import gate_plots
from medept.analysis.gates import PatchScaling, has_gates, patch_scaling
from medept.analysis.model_features import ModelFeatures
from medept.data.cases import images_of
from medept.data.images import read_image
from medept.data.labelled_images import LabelledImages, label_text
from medept.evaluation.predictions import confidence, decide, is_correct
from medept.files import write_table
from medept.fits import layout
from medept.report.plots import save

EXAMPLES = 2
"""Number of images of each kind whose gates are drawn."""


def write_gates(models: Sequence[ModelFeatures], data: LabelledImages, folder: Path) -> None:
    """Write figures of the first model that has gates, and a table of all that have them.

    The files are ``gates.png`` (gates of several images by layer), ``gates-by-head.png`` (gates of
    one image by layer and head), ``gates-by-layer.png`` (gates of all tokens) and ``gates.csv``.
    Nothing is written if no model has gates, or the data have cases.
    """
    if data.has_cases:
        return
    gated = _by_folder([model for model in models if model.adapted and has_gates(model.adapted)])
    if not gated:
        return
    scalings = {
        name: patch_scaling(model.adapted, images_of(data.images))
        for name, model in gated.items()
        if model.adapted
    }
    name, model = next(iter(gated.items()))
    _draw(scalings[name], model, data, folder)
    by_layer = gate_plots.gates_by_layer(
        {name: scaling.gates for name, scaling in scalings.items()},
        {name: scaling.layers for name, scaling in scalings.items()},
    )
    save(by_layer, folder / layout.GATES_BY_LAYER)
    write_table(folder / layout.GATES, gates_table(scalings, data.names))


def _by_folder(models: list[ModelFeatures]) -> dict[str, ModelFeatures]:
    """Models by the names of their folders, or by whole paths if two folders share a name."""
    names = [Path(model.source).name for model in models]
    if len(set(names)) < len(models):
        names = [str(model.source) for model in models]
    return dict(zip(names, models, strict=True))


def gates_table(scalings: Mapping[str, PatchScaling], images: Sequence[str]) -> pd.DataFrame:
    """One row per model, image and layer; the images with the smallest mean gates first.

    The columns are the mean gate of the image's patches, the smallest gate and its row and column,
    and the mean gate of the class token and registers (NaN if there are none).

    Args:
        scalings: by the names of the models.
        images: names of the n images.
    """
    rows = []
    for name, scaling in scalings.items():
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


def _draw(scaling: PatchScaling, model: ModelFeatures, data: LabelledImages, folder: Path) -> None:
    maps, rollout = scaling.gate_maps(), scaling.rollout_maps()
    rows = _examples(model, scaling, data)
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


def _examples(model: ModelFeatures, scaling: PatchScaling, data: LabelledImages) -> dict[int, str]:
    """Row -> title of the images to draw.

    These are the most confident correct and wrong predictions, and the images that are scaled
    most and least.
    """
    probabilities = np.asarray(model.probabilities)
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
    """The central square of an image, resized."""
    from PIL import ImageOps

    return np.asarray(ImageOps.fit(read_image(image), (pixels, pixels)))
