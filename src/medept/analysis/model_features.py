"""Features and probabilities that models give to images, and how the features are distributed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medept.classifier.classifier import FewShotClassifier
from medept.data.table import LabelledImages
from medept.encoders.load import load_encoder
from medept.errors import DataError
from medept.evaluation.distribution import Distribution, describe_distribution
from medept.evaluation.metrics import Evaluation, evaluate
from medept.fits import layout
from medept.fits.adapter import holds_adapter
from medept.progress import Progress

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
        classifier: the model itself.
    """

    name: str
    source: str
    features: np.ndarray
    distribution: Distribution
    pretrained: Distribution | None
    probabilities: np.ndarray | None
    score: dict[str, float]
    classifier: FewShotClassifier

    @property
    def title(self) -> str:
        """Title of the model's panel in figure 2: its name, score and neighbours' purity."""
        shown = {**self.score, "neighbours' purity": self.distribution.purity}
        parts = [f"{k.replace('_', ' ')} {v:.2f}" for k, v in shown.items() if v is not None]
        return "\n".join([self.name, ", ".join(parts)])


def open_model(model: str, progress: Progress | None) -> FewShotClassifier:
    """A fitted classifier from the folder of an adapter, or an unfitted one with a named encoder.

    Raises:
        InputError: if it is a folder without an adapter.
    """
    if holds_adapter(model):
        return FewShotClassifier.load(model, progress=progress)
    if Path(model).exists():
        raise DataError(f"{model}: no adapter here ({layout.ADAPTER_INFO} is missing)")
    return FewShotClassifier(model, progress=progress)


def is_fitted(classifier: FewShotClassifier) -> bool:
    """Whether the model is an adapter, and not an encoder alone."""
    return hasattr(classifier, "model_")


def extract_features(
    classifiers: Sequence[FewShotClassifier], sources: Sequence[str], data: LabelledImages
) -> Iterator[ModelFeatures]:
    """The features of each model; those of each encoder come once, before its first adapter.

    Args:
        sources: folder or encoder name of each classifier.
        data: n labelled images.

    Raises:
        InputError: if fewer than two classes have images.
    """
    identities = [_identity(classifier) for classifier in classifiers]
    keys = [json.dumps(identity, sort_keys=True) for identity in identities]
    titles = _titles(dict(zip(keys, identities, strict=True)))
    pretrained: dict[str, ModelFeatures] = {}
    for classifier, source, key in zip(classifiers, sources, keys, strict=True):
        suffix = titles[key]
        if key not in pretrained:
            pretrained[key] = _pretrained(_unfitted(classifier), PRETRAINED + suffix, data)
            yield pretrained[key]
        if not is_fitted(classifier):
            continue
        changed = classifier.model_.alters_features
        features = classifier.embed(data.images) if changed else pretrained[key].features
        probabilities = classifier.predict_proba_of_features(features)
        found = evaluate(probabilities, data.targets, classes=data.classes, resamples=0)
        yield ModelFeatures(
            classifier.method + suffix,
            source,
            features,
            describe_distribution(features, data.targets, data.classes),
            pretrained[key].distribution,
            probabilities,
            main_score(found),
            classifier,
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


def _identity(classifier: FewShotClassifier) -> dict[str, Any]:
    """The identity of its encoder."""
    if is_fitted(classifier):
        return classifier.model_.encoder_identity
    return load_encoder(
        classifier.encoder, weights=classifier.encoder_weights, image_size=classifier.image_size
    ).identity()


def _unfitted(classifier: FewShotClassifier) -> FewShotClassifier:
    """An unfitted classifier with the same encoder, device and precision."""
    if not is_fitted(classifier):
        return classifier
    return FewShotClassifier(
        classifier.encoder,
        encoder_weights=classifier.encoder_weights,
        image_size=classifier.model_.encoder.preprocessing.size[0],
        device=classifier.device,
        precision=classifier.precision,
        progress=classifier.progress,
    )


def _pretrained(encoder: FewShotClassifier, name: str, data: LabelledImages) -> ModelFeatures:
    features = encoder.embed(data.images)
    found = describe_distribution(features, data.targets, data.classes)
    return ModelFeatures(name, encoder.encoder, features, found, None, None, {}, encoder)
