"""The models that a service has, and what it tells about them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import BaseModel

from medept import __version__
from medept.classifier.classifier import FewShotClassifier
from medept.errors import SettingsError
from medept.evaluation.predictions import decide
from medept.fits import layout
from medept.fits.tables import decision_column


class ServedEncoder(BaseModel):
    """An encoder, and the SHA-256 of its weights."""

    name: str
    sha256: str


class ModelIdentity(BaseModel):
    """Which model answered.

    Attributes:
        name: of its folder.
        adapter_sha256: of ``adapter.json`` followed by ``adapter.safetensors``.
        encoders: that it uses; probabilities of several are averaged.
        medept: the version that serves it.
    """

    name: str
    adapter_sha256: str
    encoders: list[ServedEncoder]
    method: str
    medept: str = __version__


class ModelDescription(BaseModel):
    """A model that can be asked for."""

    identity: ModelIdentity
    task: str
    classes: list[str]
    calibration: str
    support_images: int


class ServedModel:
    """A fitted classifier, loaded and run once, with its description.

    Raises:
        SettingsError: if it was fitted to cases of several images, or estimates the prevalence.
    """

    def __init__(self, folder: Path, classifier: FewShotClassifier) -> None:
        info = classifier.info()
        if info.support_cases is not None:
            raise SettingsError(
                f"{folder}: the service looks at single images, and this fit is of cases: fit "
                "without cases to serve it"
            )
        if info.prevalence == "estimate":  # from a batch, which holds images of several clients
            raise SettingsError(
                f"{folder}: estimates the prevalence from the images of each call, and the service "
                "takes them as they come: fit with the prevalence stated to serve it"
            )
        every = [info, *info.others]
        encoders = [ServedEncoder(name=i.encoder.name, sha256=i.encoder.sha256) for i in every]
        self._classifier = classifier
        self.description = ModelDescription(
            identity=ModelIdentity(
                name=folder.resolve().name,
                adapter_sha256=_adapter_sha256(folder),
                encoders=encoders,
                method=info.method,
            ),
            task=info.task,
            classes=info.classes,
            calibration=str(info.calibration),
            support_images=info.support_images,
        )
        self.predict([Image.new("RGB", (64, 64))])  # what is set up at the first call is now

    def predict(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Probabilities (n, C) of images of mode RGB."""
        return self._classifier.predict_proba(images)

    def labels(self, probabilities: np.ndarray) -> list[str]:
        """What is predicted by probabilities (C,): one class, or any number of labels."""
        found = decide(probabilities[None], self.description.task)[0]
        places = np.flatnonzero(found) if self.description.task == "multilabel" else [found]
        return [self.description.classes[int(place)] for place in places]

    def decision(self, probabilities: np.ndarray) -> str | None:
        """What the fit's operating points decide of probabilities (C,); None without any."""
        points, described = self._classifier.operating_points_, self.description
        if not points:
            return None
        table = decision_column(probabilities[None], described.classes, described.task, points)
        return str(table["decision"][0])


def load_models(
    folders: Sequence[Path],
    *,
    encoder_weights: Path | None = None,
    tta: int | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> dict[str, ServedModel]:
    """The adapters in these folders, by the folders' names.

    Args:
        folders: of fits.
        encoder_weights: where the encoder's weights are, if they have moved.
        tta: how many views a prediction averages over; None as in the fit.
        device: as in :class:`~medept.FewShotClassifier`, and so is ``precision``.

    Raises:
        InputError: if one cannot be loaded, or two have the same name.
    """
    names = [folder.resolve().name for folder in folders]
    for folder, name in zip(folders, names, strict=True):
        if names.count(name) > 1:
            raise SettingsError(
                f"{folder}: two folders are called {name}, and models go by their folders' names; "
                "rename one"
            )
    models: dict[str, ServedModel] = {}
    for folder, name in zip(folders, names, strict=True):
        classifier = FewShotClassifier.load(
            folder,
            encoder_weights=encoder_weights,
            tta=tta,
            device=device,
            precision=precision,
        )
        models[name] = ServedModel(folder, classifier)
    return models


def _adapter_sha256(folder: Path) -> str:
    names = (layout.ADAPTER_INFO, layout.ADAPTER_TENSORS)
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in names)).hexdigest()
