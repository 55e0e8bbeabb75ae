"""Features and probabilities that models give to images, and how the features are distributed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medept.classifier.classifier import FewShotClassifier
from medept.data.labelled_images import LabelledImages
from medept.errors import DataError
from medept.evaluation.distribution import FeatureDistribution, feature_distribution
from medept.evaluation.metrics import Evaluation, evaluate
from medept.fits import layout
from medept.fits.adapter import holds_adapter
from medept.methods import AdaptedEncoder
from medept.progress import Progress, silent
from medept.training.extractor import FeatureExtractor

Model = FewShotClassifier | FeatureExtractor
"""An adapter, or an encoder without one."""

PRETRAINED = "pretrained"
"""Name of an encoder without an adapter."""


@dataclass(frozen=True)
class ModelFeatures:
    """The features that one model gives to n images, and what is computed from them.

    Attributes:
        name: of the model in tables and figures: its method, or ``pretrained``; followed by the
            name of its encoder if several encoders are compared.
        source: the folder of the adapter, or the name of the encoder.
        features: (n, D).
        distribution: how the features are distributed.
        pretrained: how the features of its encoder without adapter are distributed; None for an
            encoder.
        probabilities: (n, C); None for an encoder.
        score: ``balanced_accuracy`` or ``map``, whichever suits the task, by name; empty for an
            encoder, or if it is undefined.
        model: the model itself.
    """

    name: str
    source: str
    features: np.ndarray
    distribution: FeatureDistribution
    pretrained: FeatureDistribution | None
    probabilities: np.ndarray | None
    score: dict[str, float]
    model: Model

    @property
    def adapted(self) -> AdaptedEncoder | None:
        """The adapted encoder; None for an encoder without adapter."""
        return self.model.model_ if isinstance(self.model, FewShotClassifier) else None

    @property
    def title(self) -> str:
        """Title of the model's panel in figure 2: its name, score and neighbours' purity."""
        shown = {**self.score, "neighbours' purity": self.distribution.purity}
        parts = [f"{k.replace('_', ' ')} {v:.2f}" for k, v in shown.items() if v is not None]
        return "\n".join([self.name, ", ".join(parts)])


def open_model(model: str, progress: Progress | None) -> Model:
    """A fitted classifier from the folder of an adapter, or an encoder by its name.

    Raises:
        InputError: if it is a folder without an adapter.
    """
    if holds_adapter(model):
        return FewShotClassifier.load(model, progress=progress)
    if Path(model).exists():
        raise DataError(f"{model}: no adapter here ({layout.ADAPTER_INFO} is missing)")
    return FeatureExtractor.load(model)


def extract_features(
    models: Sequence[Model],
    sources: Sequence[str],
    data: LabelledImages,
    progress: Progress | None = None,
    tta: int | None = None,
) -> Iterator[ModelFeatures]:
    """The features of each model; those of each encoder come once, before its first adapter.

    Args:
        models: fitted classifiers and encoders.
        sources: the folder or the encoder's name of each.
        data: n labelled images.
        progress: called with what is done.
        tta: over how many views the features of encoders are averaged; None for as many as the
            predictions of their adapters.

    Raises:
        InputError: if fewer than two classes have images, or an adapter has several encoders.
    """
    for model, source in zip(models, sources, strict=True):
        if isinstance(model, FewShotClassifier) and model.info().others:
            raise DataError(f"{source}: features are looked at for one encoder, not for several")
    identities = [_identity(model) for model in models]
    keys = [json.dumps(identity, sort_keys=True) for identity in identities]
    titles = _titles(dict(zip(keys, identities, strict=True)))
    pretrained: dict[str, ModelFeatures] = {}
    for model, source, key in zip(models, sources, keys, strict=True):
        suffix = titles[key]
        if key not in pretrained:
            pretrained[key] = _pretrained(_encoder(model, tta), PRETRAINED + suffix, data, progress)
            yield pretrained[key]
        if isinstance(model, FeatureExtractor):
            continue
        features, distribution = pretrained[key].features, pretrained[key].distribution
        pooled = data.has_cases and model.model_.pool.name != "mean"
        if model.model_.alters_features or pooled:
            features = model.embed(data.images)
            distribution = feature_distribution(features, data.targets, data.classes)
        probabilities = model.predict_proba_of_features(features)
        found = evaluate(probabilities, data.targets, classes=data.classes, resamples=0)
        yield ModelFeatures(
            model.info().method + suffix,
            source,
            features,
            distribution,
            pretrained[key].distribution,
            probabilities,
            main_score(found),
            model,
        )


def main_score(evaluation: Evaluation) -> dict[str, float]:
    """``map`` for multi-label data, else ``balanced_accuracy``, by name; empty if undefined."""
    name = "map" if "map" in evaluation.metrics else "balanced_accuracy"
    value = evaluation.metrics[name].value
    return {} if value is None else {name: value}


def _titles(identities: dict[str, dict[str, Any]]) -> dict[str, str]:
    """A suffix for each encoder: empty if there is only one, else what distinguishes them."""
    for count in range(4):
        titles = {
            key: "".join(
                [
                    f" {identity['name']}",
                    f", {identity['preprocessing']['size'][0]} pixels",
                    f", weights {identity['sha256'][:8]}",
                ][:count]
            )
            for key, identity in identities.items()
        }
        if len(set(titles.values())) == len(titles):
            break
    return titles


def _identity(model: Model) -> dict[str, Any]:
    """The identity of its encoder, before anything was put into it."""
    if isinstance(model, FeatureExtractor):
        return model.identity()
    return model.model_.encoder_identity


def _encoder(model: Model, tta: int | None) -> FeatureExtractor:
    """Its encoder without adapter, on the same device and in the same precision."""
    if isinstance(model, FeatureExtractor):
        return model
    info, (height, width) = model.info(), model.model_.encoder.preprocessing.size
    return FeatureExtractor.load(
        info.encoder.name,
        weights=info.encoder_weights,
        image_size=height if height == width else None,
        fit_image=info.fit_image,
        readout=info.encoder.readout,
        symmetry=info.symmetry,
        tta=tta or info.tta,
        device=model.device,
        precision=model.precision,
    )


def _pretrained(
    extractor: FeatureExtractor, name: str, data: LabelledImages, progress: Progress | None
) -> ModelFeatures:
    features = extractor.features(data.images, progress or silent)
    found = feature_distribution(features, data.targets, data.classes)
    source = str(extractor.identity()["name"])
    return ModelFeatures(name, source, features, found, None, None, {}, extractor)
