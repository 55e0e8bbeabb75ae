"""Calibration: maps from logits to probabilities, fitted to images held out from training.

``temperature`` divides all logits by one number (Guo et al. 2017). ``vector`` multiplies the logit
of each class by a factor and adds an offset (the same). ``isotonic`` maps the probability of each
class by a rising step function (Zadrozny and Elkan 2002). As a support set is small, a standard
normal prior on log factors and offsets keeps the first two near the identity; it weighs about as
much as one image.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, log_expit, log_softmax, softmax

from medept.errors import DataError, SettingsError
from medept.evaluation.predictions import indicators

BOUNDS = (0.05, 20.0)
"""Lowest and highest temperature that can be fitted."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Kind = Literal["none", "temperature", "vector", "isotonic"]
KINDS: tuple[Kind, ...] = ("temperature", "vector", "isotonic", "none")


class Calibration(BaseModel):
    """A map from logits (n, C) to probabilities (n, C); by default the plain softmax or sigmoid.

    Attributes:
        kind: which map it is.
        images: number of held-out images it was fitted to; 0 if it was not fitted.
        note: a message for the user, such as why it was not fitted.
        scale: factor of the logits, one for all classes or one per class.
        offset: added to the scaled logits, likewise.
        steps: for each class, probabilities before (rising) and after the map, which is linear
            between them.

    >>> Calibration(kind="temperature", images=40, scale=[0.5]).probabilities(
    ...     np.array([[2.0, 0.0]]), "multiclass"
    ... ).round(2)
    array([[0.73, 0.27]])
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind = "none"
    images: int = 0
    note: str = ""
    scale: list[Positive] = [1.0]
    offset: list[Finite] = [0.0]
    steps: list[tuple[list[Finite], list[Finite]]] = []

    def fits(self, classes: int) -> bool:
        """Whether the map suits this number of classes."""
        numbers = {len(self.scale), len(self.offset)}
        knots = all(len(before) == len(after) > 0 for before, after in self.steps)
        return knots and numbers <= {1, classes} and len(self.steps) in (0, classes)

    def __str__(self) -> str:
        if self.kind == "none":
            return self.note or "not calibrated"
        detail = f" {1 / self.scale[0]:.2f}" if self.kind == "temperature" else ""
        return f"{self.kind}{detail}, fitted to {self.images} held-out images of the support set"

    def probabilities(self, logits: np.ndarray, task: str) -> np.ndarray:
        """Map logits (n, C) to probabilities (n, C), float64.

        Args:
            logits: (n, C).
            task: ``multiclass`` or ``multilabel``.
        """
        scaled = np.asarray(logits, dtype=np.float64) * self.scale + self.offset
        plain = expit(scaled) if task == "multilabel" else softmax(scaled, axis=1)
        if not self.steps:
            return plain
        columns = zip(plain.T, self.steps, strict=True)
        mapped = np.stack([np.interp(p, *knots) for p, knots in columns], axis=1)
        if task == "multilabel":
            return mapped
        total = mapped.sum(axis=1, keepdims=True)
        return np.where(total > 0, mapped / np.where(total > 0, total, 1), plain)


def fit_calibration(kind: Kind, logits: np.ndarray, targets: np.ndarray) -> Calibration:
    """Fit a calibration to held-out images by maximum likelihood.

    Args:
        kind: ``temperature``, ``vector``, ``isotonic`` or ``none``.
        logits: (n, C) of images that the model was not fitted to.
        targets: (n,) class indices, or for multi-label data (n, C) of 0 and 1.

    Raises:
        InputError: if the kind is unknown, or logits and targets do not match.

    >>> logits = np.array([[4.0, 0.0], [4.0, 0.0], [0.0, 4.0], [4.0, 0.0]])
    >>> print(fit_calibration("temperature", logits, np.array([0, 1, 1, 0])))
    temperature 2.21, fitted to 4 held-out images of the support set
    """
    logits, targets = np.asarray(logits, dtype=np.float64), np.asarray(targets)
    images = len(logits)
    if kind == "none":
        return Calibration()
    if kind == "temperature":
        temperature = fit_temperature(logits, targets, prior=True)
        return Calibration(kind=kind, images=images, scale=[1 / temperature])
    truth = indicators(targets, logits.shape[1]).astype(np.float64)
    if kind == "vector":
        scale, offset = _fit_vector(logits, truth, multilabel=targets.ndim == 2)
        return Calibration(kind=kind, images=images, scale=scale.tolist(), offset=offset.tolist())
    if kind == "isotonic":
        task = "multilabel" if targets.ndim == 2 else "multiclass"
        plain = Calibration().probabilities(logits, task)
        steps = [_fit_steps(p, t) for p, t in zip(plain.T, truth.T, strict=True)]
        return Calibration(kind=kind, images=images, steps=steps)
    raise SettingsError(f"calibration {kind!r}: use one of {', '.join(KINDS)}")


def negative_log_likelihood(logits: np.ndarray, targets: np.ndarray) -> float:
    """Mean of -log p of the truth, over images or, for multi-label data, over images and labels.

    Args:
        logits: (n, C).
        targets: (n,) class indices, or (n, C) of 0 and 1.

    >>> round(negative_log_likelihood(np.zeros((3, 2)), np.array([0, 1, 1])), 4)
    0.6931
    """
    logits, targets = np.asarray(logits, dtype=np.float64), np.asarray(targets)
    if targets.ndim == 2:
        # the probability that a label is 0 is the sigmoid of its negative logit
        return float(-log_expit(np.where(targets == 1, logits, -logits)).mean())
    return float(-log_softmax(logits, axis=1)[np.arange(len(targets)), targets].mean())


def fit_temperature(logits: np.ndarray, targets: np.ndarray, *, prior: bool = False) -> float:
    """The temperature T, from 0.05 to 20, for which ``logits / T`` are most likely.

    On the images given, the result is never less likely than T = 1.

    Args:
        logits: (n, C) of images that the model was not fitted to.
        targets: (n,) class indices, or for multi-label data (n, C) of 0 and 1.
        prior: whether log T has a standard normal prior, which matters if there are few images.

    Raises:
        InputError: if there are no logits, they are not finite, or the shapes do not match.

    >>> logits = np.array([[4.0, 0.0], [4.0, 0.0], [0.0, 4.0], [4.0, 0.0]])
    >>> round(fit_temperature(logits, np.array([0, 1, 1, 0])), 1)  # three of four are correct
    3.6
    """
    logits, targets = np.asarray(logits, dtype=np.float64), np.asarray(targets)
    if logits.ndim != 2 or not logits.size or targets.shape not in (logits.shape, logits.shape[:1]):
        raise DataError(
            f"logits {logits.shape} and targets {targets.shape}: expected (n, C) and (n,) or "
            "(n, C), with n at least 1"
        )
    if not np.isfinite(logits).all():
        raise DataError(f"logits: row {np.argwhere(~np.isfinite(logits))[0][0]} is not finite")
    weight = 1 / (2 * targets.size) if prior else 0.0  # the likelihood is a mean over targets
    found = minimize_scalar(
        lambda log_t: negative_log_likelihood(logits / np.exp(log_t), targets) + weight * log_t**2,
        bounds=np.log(BOUNDS),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x)) if found.fun <= negative_log_likelihood(logits, targets) else 1.0


def _fit_vector(
    logits: np.ndarray, truth: np.ndarray, *, multilabel: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Factors and offsets (C,) that maximise likelihood times prior."""
    count = logits.shape[1]
    found = minimize(
        vector_objective,
        np.zeros(2 * count),
        args=(logits, truth, multilabel),
        jac=True,
        method="L-BFGS-B",
    )
    return np.exp(found.x[:count]), found.x[count:]


def vector_objective(
    parameters: np.ndarray, logits: np.ndarray, truth: np.ndarray, multilabel: bool
) -> tuple[float, np.ndarray]:
    """Negative log posterior of vector scaling, and its gradient (2 C,).

    Args:
        parameters: (2 C,) log factors, then offsets.
        logits: (n, C).
        truth: (n, C) of 0 and 1.
        multilabel: whether the columns are independent labels; else they are exclusive classes.
    """
    log_scale, offset = np.split(parameters, 2)
    scaled = logits * np.exp(log_scale) + offset
    if multilabel:
        loss, error = np.logaddexp(0, scaled) - truth * scaled, expit(scaled) - truth
    else:
        loss, error = -truth * log_softmax(scaled, axis=1), softmax(scaled, axis=1) - truth
    slope = (error * logits).sum(axis=0) * np.exp(log_scale)
    gradient = np.concatenate([slope, error.sum(axis=0)])
    return loss.sum() + parameters @ parameters / 2, gradient + parameters


def _fit_steps(probabilities: np.ndarray, truth: np.ndarray) -> tuple[list[float], list[float]]:
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(probabilities, truth)
    return fitted.X_thresholds_.tolist(), fitted.y_thresholds_.tolist()
