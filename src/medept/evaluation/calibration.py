"""Maps from logits to probabilities that one can trust, fitted to images that were not learnt from.

``temperature`` divides all logits by one number (Guo et al. 2017), ``vector`` gives each class a
factor and an offset (the same), ``isotonic`` takes a rising step function per class (Zadrozny and
Elkan 2002). A support set is small, so the first two are held near doing nothing by a standard
normal prior on log factors and offsets, which counts like one image or so.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, log_expit, log_softmax, softmax

from medept.errors import DataError
from medept.evaluation.predictions import indicators

BOUNDS = (0.05, 20.0)
"""Between which a temperature is looked for."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Kind = Literal["none", "temperature", "vector", "isotonic"]
KINDS: tuple[Kind, ...] = ("temperature", "vector", "isotonic", "none")


class Calibration(BaseModel):
    """A map from logits (n, C) to probabilities (n, C); by default the plain softmax or sigmoid.

    Attributes:
        kind: how it was fitted.
        images: to how many; 0 where it was not.
        note: what to tell the user, such as why it was not fitted.
        scale: factors of the logits, one or one a class.
        offset: what is added to them then.
        steps: for each class, probabilities before (rising) and after; linear between them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind = "none"
    images: int = 0
    note: str = ""
    scale: list[Positive] = [1.0]
    offset: list[Finite] = [0.0]
    steps: list[tuple[list[Finite], list[Finite]]] = []

    def fits(self, classes: int) -> bool:
        """Whether it is one for this number of classes."""
        numbers = {len(self.scale), len(self.offset)}
        knots = all(len(before) == len(after) > 0 for before, after in self.steps)
        return knots and numbers <= {1, classes} and len(self.steps) in (0, classes)

    def __str__(self) -> str:
        if self.kind == "none":
            return self.note or "not calibrated"
        detail = f" {1 / self.scale[0]:.2f}" if self.kind == "temperature" else ""
        return f"{self.kind}{detail}, fitted to {self.images} held-out images of the support set"

    def probabilities(self, logits: np.ndarray, task: str) -> np.ndarray:
        """Logits (n, C) -> probabilities (n, C), float64, for ``multiclass`` or ``multilabel``."""
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
    """The calibration of ``kind`` that explains the targets of held-out logits (n, C) best.

    Args:
        targets: (n,) class indices, or (n, C) of 0 and 1 for multi-label.

    Raises:
        InputError: if the kind is unknown, or logits and targets do not match.
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
    raise DataError(f"calibration {kind!r}: use one of {', '.join(KINDS)}")


def negative_log_likelihood(logits: np.ndarray, targets: np.ndarray) -> float:
    """Mean over images (and labels) of -log p of the truth; targets (n,) or (n, C) of 0 and 1."""
    logits, targets = np.asarray(logits, dtype=np.float64), np.asarray(targets)
    if targets.ndim == 2:
        # of two outcomes, the one that came true has the logit with its sign
        return float(-log_expit(np.where(targets == 1, logits, -logits)).mean())
    return float(-log_softmax(logits, axis=1)[np.arange(len(targets)), targets].mean())


def fit_temperature(logits: np.ndarray, targets: np.ndarray, *, prior: bool = False) -> float:
    """The temperature T within 0.05..20 for which ``logits / T`` explain the targets best.

    Of images that the model was not fitted to. Never worse than T = 1 on those given.

    Args:
        logits: (n, C).
        targets: (n,) class indices, or (n, C) of 0 and 1 for multi-label.
        prior: weigh in that log T is standard normal, which counts where images are few.

    Raises:
        InputError: if there are no logits, they are not finite, or the shapes do not match.
    """
    logits, targets = np.asarray(logits, dtype=np.float64), np.asarray(targets)
    if logits.ndim != 2 or not logits.size or targets.shape not in (logits.shape, logits.shape[:1]):
        raise DataError(
            f"logits {logits.shape} and targets {targets.shape}: expected (n, C) and (n,) or "
            "(n, C), with n at least 1"
        )
    if not np.isfinite(logits).all():
        raise DataError(f"logits: row {np.argwhere(~np.isfinite(logits))[0][0]} is not finite")
    weight = 1 / (2 * targets.size) if prior else 0.0  # the likelihood is a mean over as many
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
    """Factors and offsets (C,) at the maximum of likelihood and prior."""
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
    """Negative log posterior of log factors and offsets (2 C,), and its gradient.

    Args:
        logits: (n, C).
        truth: (n, C) of 0 and 1.
        multilabel: whether labels are independent, or classes that exclude each other.
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
