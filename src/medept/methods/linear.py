"""Linear probing: one linear layer on the features of the encoder as it is."""

from __future__ import annotations

from typing import ClassVar

from medept.methods.base import AdaptedEncoder


class Linear(AdaptedEncoder):
    """Trains only the head: D * C + C numbers."""

    name = "linear"
    summary = "a linear head on frozen features"
    rates: ClassVar[tuple[str, ...]] = ("lr",)
    alters_features = False
