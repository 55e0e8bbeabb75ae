"""What a fit will cost, before it begins: one forward pass is timed, and the rest is counted."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import torch

from medept.methods import AdaptedEncoder
from medept.methods.features import FeatureMethod
from medept.training.recipes import Recipe

BACKWARD = 2.0
"""Forward and backward pass of a frozen block, in forward passes: activations alone have
gradients."""

ACTIVATIONS = 16
"""Numbers that a block keeps for its backward pass, per token and width, about."""


@dataclass(frozen=True)
class Cost:
    """Seconds, and bytes of memory beside what the process holds already."""

    seconds: float
    memory: int

    def __str__(self) -> str:
        return f"{duration(self.seconds)} and {self.memory / 1e9:.1f} GB more memory"


def estimate_cost(model: AdaptedEncoder, images: int, recipe: Recipe, folds: int = 0) -> Cost:
    """Of training on ``images`` images, once whole and once for each fold without its part.

    Data sets that are slow to decode, and cores that others use too, make it an underestimate.
    """
    encoder = model.encoder
    pixels = encoder.example().expand(min(recipe.batch_size, 4), -1, -1, -1)
    seconds = _forward_seconds(model, pixels)
    views, depth = min(recipe.views, recipe.epochs), max(1, len(encoder.blocks))
    height, width = encoder.preprocessing.size
    tokens = (height // 8) * (width // 8) if not encoder.sites else encoder.sites[0].tokens
    stored, kept, passes = 3 * height * width, 0, 0.0
    if isinstance(model, FeatureMethod):
        stored, passes = encoder.width, 1.0
    elif not model.trains_encoder:
        stored, passes = encoder.width, float(views)
    else:
        below = model.first_changed_block() / depth
        if below:
            stored, passes = tokens * encoder.width, views * below
        passes += recipe.epochs * BACKWARD * (1 - below)
        kept = recipe.batch_size * tokens * encoder.width * ACTIVATIONS * round(depth * (1 - below))
    passes += recipe.standardise
    times = 1 + folds * (1 - 1 / folds) if folds else 1
    return Cost(images * passes * seconds * times, 4 * (views * images * stored + kept))


def _forward_seconds(model: AdaptedEncoder, pixels: torch.Tensor) -> float:
    """Of one image in a small batch."""
    with torch.inference_mode():
        model.encoder(pixels)
        began = time.perf_counter()
        model.encoder(pixels)
        return (time.perf_counter() - began) / len(pixels)


def duration(seconds: float) -> str:
    """``40 s``, ``3 min`` or ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def peak_memory() -> int:
    """The most memory that this process has held, in bytes; 0 where it cannot be asked."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
