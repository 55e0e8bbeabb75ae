"""What models make of images: features, probabilities, and how the features are distributed."""

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


@dataclass(frozen=True)
class Look:
    """What one model makes of the images.

    Attributes:
        name: in tables and figures: its method, or ``pretrained``; with the encoder's name where
            there are several.
        source: the adapter's folder, or the encoder.
        features: (n, D).
        distribution: of the features.
        before: that of its encoder as it came; None for an encoder as it came.
        probabilities: (n, C); None likewise.
        score: the metric that goes with the task, ``balanced_accuracy`` or ``map``.
        classifier: the model.
    """

    name: str
    source: str
    features: np.ndarray
    distribution: Distribution
    before: Distribution | None
    probabilities: np.ndarray | None
    score: dict[str, float]
    classifier: FewShotClassifier

    @property
    def title(self) -> str:
        """Of its panel in figure 2: the score, and how many neighbours are of the same class."""
        shown = {**self.score, "neighbours' purity": self.distribution.purity}
        parts = [f"{k.replace('_', ' ')} {v:.2f}" for k, v in shown.items() if v is not None]
        return "\n".join([self.name, ", ".join(parts)])


def open_model(model: str, progress: Progress | None) -> FewShotClassifier:
    """A fitted classifier from an adapter's folder, or an unfitted one of an encoder's name.

    Raises:
        InputError: if it is a folder without an adapter.
    """
    if holds_adapter(model):
        return FewShotClassifier.load(model, progress=progress)
    if Path(model).exists():
        raise DataError(f"{model}: no adapter here ({layout.ADAPTER_INFO} is missing)")
    return FewShotClassifier(model, progress=progress)


def is_fitted(classifier: FewShotClassifier) -> bool:
    """Whether it is an adapter, and no encoder as it came."""
    return hasattr(classifier, "model_")


def look_at(
    classifiers: Sequence[FewShotClassifier], sources: Sequence[str], data: LabelledImages
) -> Iterator[Look]:
    """Each model's look, an adapter's after that of its encoder as it came, which is given once.

    Raises:
        InputError: if fewer than two classes have images.
    """
    identities = [_identity(classifier) for classifier in classifiers]
    keys = [json.dumps(identity, sort_keys=True) for identity in identities]
    titles = _titles(dict(zip(keys, identities, strict=True)))
    plain: dict[str, Look] = {}
    for classifier, source, key in zip(classifiers, sources, keys, strict=True):
        of_encoder = titles[key]
        if key not in plain:
            plain[key] = _as_it_came(_unfitted(classifier), PRETRAINED + of_encoder, data)
            yield plain[key]
        if not is_fitted(classifier):
            continue
        moved = classifier.model_.alters_features
        features = classifier.embed(data.images) if moved else plain[key].features
        probabilities = classifier.predict_proba_of_features(features)
        found = evaluate(probabilities, data.targets, classes=data.classes, resamples=0)
        yield Look(
            classifier.method + of_encoder,
            source,
            features,
            describe_distribution(features, data.targets, data.classes),
            plain[key].distribution,
            probabilities,
            score_of(found),
            classifier,
        )


def score_of(evaluation: Evaluation) -> dict[str, float]:
    """The metric that goes with the task, by name; nothing where it is undefined."""
    name = "map" if "map" in evaluation.metrics else "balanced_accuracy"
    value = evaluation.metrics[name].value
    return {} if value is None else {name: value}


def _titles(identities: dict[str, dict[str, Any]]) -> dict[str, str]:
    """What encoders are called: nothing where there is one, else what tells them apart."""
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
    """Of its encoder."""
    if is_fitted(classifier):
        return classifier.model_.encoder_identity
    return load_encoder(
        classifier.encoder, weights=classifier.encoder_weights, image_size=classifier.image_size
    ).identity()


def _unfitted(classifier: FewShotClassifier) -> FewShotClassifier:
    """Its encoder as it came, run as it is run."""
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


def _as_it_came(encoder: FewShotClassifier, name: str, data: LabelledImages) -> Look:
    features = encoder.embed(data.images)
    found = describe_distribution(features, data.targets, data.classes)
    return Look(name, encoder.encoder, features, found, None, None, {}, encoder)
