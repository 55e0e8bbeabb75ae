"""What the tasks have in common: patients whose images resemble each other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from medept.phantoms.drawing import Array


class Patient(ABC):
    """A synthetic patient: everything that is the same in all of their images.

    Attributes:
        classes: names of the C classes or findings of the task.
    """

    classes: ClassVar[tuple[str, ...]]

    @classmethod
    @abstractmethod
    def random(cls, rng: np.random.Generator) -> Patient:
        """A patient drawn at random."""

    @abstractmethod
    def draw(
        self, signs: Array, size: int, difficulty: float, rng: np.random.Generator
    ) -> np.ndarray:
        """One image of this patient, uint8 (size, size, 3).

        Args:
            signs: (C,) of 0 and 1: which of :attr:`classes` the image shows.
            size: pixels a side.
            difficulty: 0 (signs are obvious) to 1 (hardly visible).
            rng: where everything that differs from image to image is drawn from.
        """
