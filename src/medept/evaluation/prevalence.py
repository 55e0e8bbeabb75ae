"""Probabilities for another prevalence than that of the support set.

A support set of K shots a class says that every class is equally common. Where that is not so,
Bayes' rule multiplies the probability of each class by the ratio of its prevalence to its share of
the support set (Saerens, Latinne and Decaestecker 2002). It assumes that the images of a class look
the same in both places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from medept.errors import SettingsError
from medept.evaluation.predictions import indicators

STEPS = 1000
RESAMPLES = 200


def with_prevalence(
    probabilities: np.ndarray, before: np.ndarray, after: np.ndarray, task: str
) -> np.ndarray:
    """Probabilities (n, C) at another prevalence.

    Args:
        probabilities: (n, C).
        before: (C,) share of each class in the support set, above 0.
        after: (C,) prevalence of each class.
        task: ``multiclass`` or ``multilabel``.

    >>> with_prevalence(np.array([[0.5, 0.5]]), np.array([0.5, 0.5]), np.array([0.9, 0.1]),
    ...                 "multiclass")
    array([[0.9, 0.1]])
    """
    if task == "multilabel":
        yes = probabilities * after / before
        no = (1 - probabilities) * (1 - after) / (1 - before)
        return np.asarray(yes / (yes + no))
    weighted = probabilities * after / before
    return np.asarray(weighted / weighted.sum(axis=1, keepdims=True))


def logit_shift(before: np.ndarray, after: np.ndarray, task: str) -> np.ndarray:
    """(C,) to be added to calibrated logits: the same as :func:`with_prevalence`.

    >>> logit_shift(np.array([0.5, 0.5]), np.array([0.9, 0.1]), "multiclass").round(2)
    array([ 0.59, -1.61])
    """
    shift = np.log(after / before)
    return shift - np.log((1 - after) / (1 - before)) if task == "multilabel" else shift


def complete_prevalence(
    given: Mapping[str, float], classes: Sequence[str], before: np.ndarray, task: str
) -> np.ndarray:
    """The prevalence of every class (C,).

    Classes that are not given share what is left as they do in the support set; labels that are
    not given stay as common as they are there.

    Args:
        given: class -> prevalence, between 0 and 1.
        classes: C names.
        before: (C,) share of each class in the support set.
        task: ``multiclass`` or ``multilabel``.

    Raises:
        SettingsError: if a class is unknown or not in the support set, a number is out of range, or
            all do not sum to 1.

    >>> complete_prevalence({"malignant": 0.05}, ["benign", "malignant"], np.array([0.5, 0.5]),
    ...                     "multiclass")
    array([0.95, 0.05])
    """
    for name, share in given.items():
        if name not in classes:
            raise SettingsError(
                f"prevalence={name}: not a class; the classes are {', '.join(classes)}"
            )
        if not 0 < share < 1:
            raise SettingsError(f"prevalence={name}={share}: give a number between 0 and 1")
    known = np.isin(list(classes), list(given))
    after = np.where(known, [given.get(name, 0.0) for name in classes], before)
    for name, share in zip(classes, before, strict=True):
        if share == 0 or (share == 1 and task == "multilabel"):
            raise SettingsError(
                "prevalence= cannot be used: the support set has no cases "
                f"{'without' if share else 'with'} {name}"
            )
    if task == "multilabel":
        return after
    total = float(after[known].sum())
    if known.all():
        if abs(total - 1) > 1e-3:
            raise SettingsError(f"prevalence= of all classes sums to {total:.4g}; it must be 1")
        return after / total
    if total >= 1:
        raise SettingsError(
            f"prevalence= sums to {total:.4g}, which leaves nothing for the other classes"
        )
    return np.where(known, after, before / before[~known].sum() * (1 - total))


def prevalence_in(targets: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """How common each class is among these targets: class -> share.

    Args:
        targets: (n,) class indices, or (n, C) of 0 and 1.
        classes: C names.

    >>> prevalence_in(np.array([0, 0, 0, 1]), ["benign", "malignant"])
    {'benign': 0.75, 'malignant': 0.25}
    """
    shares = indicators(targets, len(classes)).mean(axis=0)
    return dict(zip(classes, shares.tolist(), strict=True))


def estimate_prevalence(
    probabilities: np.ndarray, before: np.ndarray, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The prevalence (C,) that makes the images most likely, and its 95 % interval (C,), (C,).

    It is found by expectation maximisation (Saerens et al. 2002). The interval is a bootstrap over
    images, and does not know how well the classifier knows the classes.

    Args:
        probabilities: (n, C) of unlabelled images, at the prevalence ``before``.
        before: (C,) share of each class in the support set, above 0.
        seed: of the bootstrap.

    >>> random = np.random.default_rng(0)
    >>> ill = random.random(2000) < 0.1
    >>> odds = np.exp(2 * random.normal(np.where(ill, 1, -1)))  # likelihood ratio of two normals
    >>> p = np.stack([1 / (1 + odds), odds / (1 + odds)], axis=1)
    >>> estimate_prevalence(p, np.array([0.5, 0.5]))[0].round(1)
    array([0.9, 0.1])
    """
    ratios = probabilities / before

    def fitted(weights: np.ndarray) -> np.ndarray:
        """The prevalence for weights (R, n) of the images: (R, C)."""
        share = np.tile(before, (len(weights), 1))
        for _ in range(STEPS):
            per_image = share @ ratios.T
            new = share * ((weights / per_image) @ ratios) / weights.sum(axis=1, keepdims=True)
            if np.abs(new - share).max() < 1e-6:
                break
            share = new
        return share

    n = len(probabilities)
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    low, high = np.percentile(fitted(drawn.astype(np.float64)), (2.5, 97.5), axis=0)
    return fitted(np.ones((1, n)))[0], low, high
