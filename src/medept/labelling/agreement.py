"""How well two readers agree, or one reader with a second pass over the same images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from medept.labelling.store import Answer


@dataclass(frozen=True)
class Agreement:
    """Two readers on the images that both labelled.

    Attributes:
        both: how many these are.
        disagreed: names of those with different labels.
        kappa: Cohen's kappa; None if it is undefined, as where all labels are the same.
        low: lower end of its 95 % interval (percentiles of 2,000 bootstrap samples of the images).
        high: upper end.
    """

    both: int
    disagreed: tuple[str, ...]
    kappa: float | None
    low: float | None = None
    high: float | None = None


def agreement(one: Mapping[str, Answer], other: Mapping[str, Answer]) -> Agreement:
    """Compare two readers' answers by name; those who are not sure are left out.

    >>> anna = {name: Answer(label) for name, label in zip("abcd", ["x", "x", "y", "y"])}
    >>> ben = {name: Answer(label) for name, label in zip("abcd", ["x", "y", "y", "y"])}
    >>> found = agreement(anna, ben)
    >>> found.both, found.disagreed, found.kappa
    (4, ('b',), 0.5)
    """
    from sklearn.metrics import cohen_kappa_score

    pairs = {
        name: (answer.label, other[name].label)
        for name, answer in one.items()
        if answer.label is not None and name in other and other[name].label is not None
    }
    differing = tuple(name for name, (a, b) in pairs.items() if a != b)
    labels = sorted({str(label) for pair in pairs.values() for label in pair})
    if len(labels) < 2:
        return Agreement(len(pairs), differing, None)
    first, second = np.array([[labels.index(str(x)) for x in pair] for pair in pairs.values()]).T
    kappa = float(cohen_kappa_score(first, second))
    drawn = np.random.default_rng(0).integers(len(first), size=(2000, len(first)))
    kappas = _kappas(first[drawn], second[drawn], len(labels))
    low, high = np.nanpercentile(kappas, [2.5, 97.5])
    return Agreement(len(pairs), differing, kappa, float(low), float(high))


def _kappas(first: np.ndarray, second: np.ndarray, classes: int) -> np.ndarray:
    """Cohen's kappa of each row of labels (S, n); NaN where a row has one label alone."""
    observed = (first == second).mean(axis=1)
    shares = [
        np.stack([(labels == c).mean(axis=1) for c in range(classes)]) for labels in (first, second)
    ]
    chance = (shares[0] * shares[1]).sum(axis=0)
    return (observed - chance) / np.where(chance < 1, 1 - chance, np.nan)
