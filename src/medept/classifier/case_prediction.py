"""What a classifier predicts for cases, and which of their images decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medept.errors import DataError


@dataclass(frozen=True)
class CasePrediction:
    """Probabilities of n cases and of their N images, one case after the other.

    Attributes:
        probabilities: (n, C).
        image_probabilities: (N, C) of the images, each as if it were a case by itself.
        weights: (N,) how much each image decides of the features of its case. Those of a case add
            up to 1: equal for ``mean``; for ``max`` the share of features of which an image has
            the largest value; for ``attention`` those that it computes.
        sizes: (n,) the number of images of each case.
        sets: which classes are in the prediction set of each case, (n, C) of bool; for labels
            (n, C, 2), of which the first is absence. None if the adapter has no sets.
        strangeness: (n,) how far from the training images each lies; above 1 it is unfamiliar.
            None if the adapter does not know them.
    """

    probabilities: np.ndarray
    image_probabilities: np.ndarray
    weights: np.ndarray
    sizes: np.ndarray
    sets: np.ndarray | None = None
    strangeness: np.ndarray | None = None

    @property
    def unfamiliar(self) -> np.ndarray | None:
        """(n,) whether each is unlike the training images; None if that is not known."""
        return None if self.strangeness is None else self.strangeness > 1


def mean_prediction(predictions: Sequence[CasePrediction]) -> CasePrediction:
    """The mean of what several encoders predict for the same cases.

    Raises:
        DataError: if some of them left out other images than the first.
    """
    if any(not np.array_equal(one.sizes, predictions[0].sizes) for one in predictions):
        raise DataError("images appeared or went while they were read: leave them until it is done")
    each = [one.strangeness for one in predictions]
    known = [strange for strange in each if strange is not None]
    return CasePrediction(
        probabilities=np.mean([one.probabilities for one in predictions], axis=0),
        image_probabilities=np.mean([one.image_probabilities for one in predictions], axis=0),
        weights=np.mean([one.weights for one in predictions], axis=0),
        sizes=predictions[0].sizes,
        strangeness=np.mean(known, axis=0) if len(known) == len(each) else None,
    )
