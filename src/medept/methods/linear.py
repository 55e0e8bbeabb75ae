"""Linear probing: the encoder as it is, and one linear layer on its features."""

from __future__ import annotations

from typing import ClassVar

from medept.methods.base import AdaptedEncoder


class Linear(AdaptedEncoder):
    """Trains the head alone: D * C + C parameters."""

    name = "linear"
    summary = "a linear head on frozen features"
    rates: ClassVar[tuple[str, ...]] = ("lr",)
