"""Whether an image is like those trained on, by the distance of its features from theirs.

The distance is the mean square of the features, each centred and scaled by the training images'
mean and variance. On white blood cells, skin lesions, brain MRI and three kinds of phantoms it told
one kind from the others with an AUROC of 0.99 or more from five shots on, no worse than
Mahalanobis distances with a shrunk covariance or the distance to the nearest training image, which
keep a hundred times as many numbers (``benchmarks/decisions.py unfamiliar``).

Beyond a limit an image is unfamiliar. The limit is conformal, from distances of held-out folds of
the support set to the rest: of new images like those, no more than the stated share lies beyond it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medept.evaluation.conformal import conformal_threshold, groups_needed

PRIOR = 5
"""The mean variance counts as so many images in the variance of each feature."""

LEAST = 1e-12
"""The limit is no less, where the training images are all the same."""


@dataclass(frozen=True)
class Familiarity:
    """Features of the training images, and the distance beyond which others are unfamiliar.

    Attributes:
        mean: (D,) of the features.
        deviation: (D,) of the features, above 0.
        limit: the distance.
        false_alarms: share of images like those trained on that may lie beyond it: the one asked
            for, or the least that so few groups can promise.
        groups: number of groups whose distances the limit rests on.
    """

    mean: np.ndarray
    deviation: np.ndarray
    limit: float
    false_alarms: float
    groups: int

    def fits(self, width: int) -> bool:
        """Whether it is for features of this length, and can be divided by."""
        shapes = {self.mean.shape, self.deviation.shape}
        return shapes == {(width,)} and bool((self.deviation > 0).all())

    def strangeness(self, features: np.ndarray) -> np.ndarray:
        """(n,) distance of features (n, D) in units of the limit: above 1 is unfamiliar."""
        return distances(features, self.mean, self.deviation) / self.limit

    def note(self) -> str:
        """What the user should know of it, in a sentence."""
        return (
            "images unlike those trained on are told in the column unfamiliar; so are up to "
            f"{100 * self.false_alarms:.2g} % of images like them (which rests on {self.groups} "
            "cases or groups)"
        )


def spread(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and deviation (D,) of features (n, D); each variance is drawn to the mean one.

    >>> mean, deviation = spread(np.array([[0.0, 1.0], [2.0, 1.0]]))
    >>> mean, deviation.round(2)  # variances 1 and 0, and 0.5 counts as five images
    (array([1., 1.]), array([0.8, 0.6]))
    """
    n, variances = len(features), features.astype(np.float64).var(axis=0)
    usual = max(float(variances.mean()), 1e-30)
    drawn = (n * variances + PRIOR * usual) / (n + PRIOR)
    return features.mean(axis=0, dtype=np.float64), np.sqrt(drawn)


def distances(features: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """(n,) mean squares of features (n, D), centred and scaled."""
    return np.asarray((((features.astype(np.float64) - mean) / deviation) ** 2).mean(axis=1))


def fit_familiarity(
    features: np.ndarray, held_out: np.ndarray, groups: np.ndarray, false_alarms: float = 0.05
) -> Familiarity:
    """The features of training images, with the limit that held-out distances give.

    Args:
        features: (n, D) of the training images.
        held_out: (n,) distance of each from the others, by a fit without its fold.
        groups: (n,) ids of groups that count as one.
        false_alarms: share of images like these that may be beyond the limit, between 0 and 1.

    Raises:
        SettingsError: if the share is not between 0 and 1.

    >>> random = np.random.default_rng(0)
    >>> known, held = random.normal(size=(40, 8)), random.chisquare(8, size=40) / 8
    >>> found = fit_familiarity(known, held, np.arange(40))
    >>> float((found.strangeness(5 + random.normal(size=(100, 8))) > 1).mean())
    1.0
    """
    count = len(set(groups.tolist()))
    enough = count >= groups_needed(1 - false_alarms)
    nearness = 1 / (1 + held_out)
    least = conformal_threshold(nearness, groups, coverage=1 - false_alarms)
    mean, deviation = (part.astype(np.float32) for part in spread(features))  # as it is saved
    return Familiarity(
        mean,
        deviation,
        limit=max(float(1 / least - 1 if enough else held_out.max()), LEAST),
        false_alarms=false_alarms if enough else 1 / (count + 1),
        groups=count,
    )
